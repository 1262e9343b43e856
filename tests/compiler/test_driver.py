"""The list of passes, what it prints, where it stops, and what it says."""

from __future__ import annotations

import io

import pytest
from compiler_kit import BATCH, SEQ, Draft, fusions, ops, same_numbers, task

from tundish.compiler import driver
from tundish.compiler.driver import PASSES, compile_program, pass_names
from tundish.compiler.passes.memory import plan_memory
from tundish.compiler.passes.registry import Decision
from tundish.ir.diagnostics import CompileError
from tundish.ir.dtypes import f32, i64
from tundish.ir.text import to_text


def block(d, x, i):
    """A Llama-like block, written out."""
    w = lambda name, *shape: d.weight(f"layers.{i}.{name}", *shape)  # noqa: E731
    inside = d.emit("mean", d.emit("pow", x, d.constant(2, f32)), axes=(-1,), keepdims=True)
    y = d.emit("mul", x, d.emit("rsqrt", d.emit("add", inside, d.constant(1e-6, f32))))
    y = d.emit("mul", w("norm", 8), y)
    parts = []
    for n in "qkv":
        z = d.emit("linear", y, d.emit("transpose", w(n, 8, 8), perm=(1, 0)))
        parts.append(d.emit("transpose", d.emit("reshape", z, shape=(BATCH, SEQ, 2, 4)), perm=(0, 2, 1, 3)))
    s = d.emit("matmul", parts[0], d.emit("transpose", parts[1], perm=(0, 1, 3, 2)))
    s = d.emit("softmax", d.emit("div", s, d.constant(2, f32)), axis=-1)
    y = d.emit("transpose", d.emit("matmul", s, parts[2]), perm=(0, 2, 1, 3))
    y = d.emit("linear", d.emit("reshape", y, shape=(BATCH, SEQ, 8)), d.emit("transpose", w("o", 8, 8), perm=(1, 0)))
    return d.emit("add", x, y)


def model(layers=3):
    d = Draft()
    x = d.emit("gather", d.weight("wte", 8, 8), d.x(BATCH, SEQ, name="ids", dtype=i64), axis=0)
    for i in range(layers):
        x = block(d, x, i)
    return d.program(x)


def all_ops(program):
    return {op for g in program.functions.values() for op in ops(g)}


def test_a_written_out_model_is_raised_fused_and_equal():
    program = model()
    given = task(fusions=fusions("linear add", "add rms_norm"), joins=frozenset({"qkv"}))
    plan = compile_program(program, given, verify_each=True)
    left = {"gather", "call", "rms_norm", "linear", "split", "reshape", "attention", "fused", "add"}
    assert "fused" in all_ops(plan.program) and all_ops(plan.program) <= left
    same_numbers(program, plan.program)
    assert list(plan.entries) == ["main"] and plan.entries["main"][0].function == "main"
    assert (plan.backend, plan.target) == ("tester", "cpu")
    assert plan.decisions["memory"]["peak_bytes"] > 0


def test_compiling_twice_gives_the_same_text_and_notes():
    one, two = (compile_program(model(), task()) for _ in range(2))
    assert to_text(one.program) == to_text(two.program)
    assert one.notes == two.notes


def test_without_fusing_ops_stay_as_captured():
    plan = compile_program(model(), task(fuse=False))
    assert {"softmax", "matmul", "rsqrt"} <= all_ops(plan.program)
    same_numbers(model(), plan.program)


def test_the_plan_says_what_was_done_with_the_place_and_how_often():
    notes = compile_program(model(), task()).notes
    raised = [n for n in notes if n.pass_name == "raise_attention" and "one attention" in n.text]
    assert sum(n.times for n in raised) == 3
    declined = [n for n in notes if n.pass_name == "fuse_projections"]
    assert declined and all("declined: tester gains nothing" in n.text for n in declined)
    assert sum(n.times for n in declined) == 3, "a pass that runs again does not decline again"


def test_it_stops_where_asked_and_prints_what_is_asked():
    out = io.StringIO()
    plan = compile_program(model(), task(), stop_after="raise_norm", print_after=["raise_norm"], out=out)
    assert "softmax" in all_ops(plan.program) and "rms_norm" in all_ops(plan.program)
    assert out.getvalue().startswith("# after raise_norm\n") and "rms_norm(" in out.getvalue()
    assert not plan.decisions


def test_a_decision_is_printed_with_the_program():
    out = io.StringIO()
    compile_program(model(), task(), print_after=["memory"], out=out)
    assert "# memory peak_bytes: " in out.getvalue()


def test_progress_names_every_pass_in_order():
    told = []
    compile_program(model(), task(), on_pass=lambda *a: told.append(a))
    assert [t[0] for t in told] == [p.name for p in PASSES]
    assert [t[1:] for t in told] == [(i, len(PASSES)) for i in range(len(PASSES))]


@pytest.mark.parametrize("word", ["stop_after", "print_after"])
def test_a_pass_that_is_none_is_refused_with_the_list(word):
    given = {"stop_after": "fuze"} if word == "stop_after" else {"print_after": ["fuze"]}
    with pytest.raises(CompileError, match="there is no pass fuze") as failed:
        compile_program(model(), task(), **given)
    assert all(name in str(failed.value) for name in pass_names())


def test_what_a_decision_needs_is_checked():
    with pytest.raises(AssertionError, match="pass memory needs legalize, hoist before it"):
        compile_program(model(), task(), passes=(plan_memory,))


def test_every_decision_stands_after_what_it_needs():
    for i, step in enumerate(PASSES):
        if isinstance(step, Decision):
            assert set(step.needs) <= {p.name for p in PASSES[:i]}


def test_the_driver_says_what_it_exports():
    assert set(driver.__all__) <= set(dir(driver))
