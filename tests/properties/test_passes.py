"""What holds for every pass on every program: it stays a program, with the same numbers, and does no more work.

And for what is compiled: ONNX Runtime answers as numpy does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from compiler_kit import fusions, task
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from properties.programs import inputs_for, programs

from tundish.backends import registry
from tundish.backends.bundle_write import build_files
from tundish.compiler.driver import PASSES, compile_program
from tundish.compiler.hardware.machine import this_machine
from tundish.compiler.passes.memory import arena
from tundish.compiler.passes.registry import Rewrite
from tundish.compiler.task import Precision, Task
from tundish.ir.evaluate import evaluate
from tundish.ir.graph import Program
from tundish.ir.text import same, to_text
from tundish.ir.verify import verify
from tundish.ir.walk import walk

SIZES = ({"batch": 2, "seq": 3}, {"batch": 1, "seq": 1})
COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}
REWRITES = {p.name: p for p in PASSES if isinstance(p, Rewrite)}
# A decomposed op counts the steps that its own formula leaves out; casts around a norm are no FLOPs.
MAY_COUNT_MORE = ("legalize",)
CHAINS = (
    "linear gelu", "linear silu", "linear add", "add rms_norm", "add layer_norm", "silu mul", "linear add rms_norm",
)  # fmt: skip
PARTS = ("gelu", "silu", "sigmoid", "softmax", "layer_norm", "rms_norm", "linear")

tasks = st.builds(
    lambda chains, joins, parts: task(
        fusions=fusions(*chains), joins=frozenset(joins),
        ops=task().capabilities.ops - set(parts), decomposed=frozenset(parts),
    ),
    st.lists(st.sampled_from(CHAINS), unique=True), st.sets(st.sampled_from(("qkv", "gate_up"))),
    st.sets(st.sampled_from(PARTS)),
)  # fmt: skip


def flops(program: Program, sizes: Mapping[str, int]) -> tuple[int, int]:
    """Of the model, and of the kernels."""
    works = [n.op.work(n.output_types, n.input_types, n.attrs).at(sizes) for _, n in walk(program)]
    return sum(w.flops for w in works), sum(w.hardware_flops for w in works)


Answers = list[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]


def answers(program: Program) -> Answers:
    """(inputs, outputs) for every size, in f64, so that only our own rounding could differ."""
    inputs = [inputs_for(program, sizes) for sizes in SIZES]
    return [(i, evaluate(program, i, float64=True)) for i in inputs]


def equal(wanted: Answers, after: Program, step: str = "", tolerance: float = 1e-7) -> None:
    for inputs, want in wanted:
        got = evaluate(after, inputs, float64=True)
        assert want.keys() == got.keys()
        for name in want:
            np.testing.assert_allclose(
                got[name].astype(float), want[name].astype(float), tolerance, tolerance, err_msg=f"{name} {step}"
            )


# One draw serves each pass alone and all of them together, which leaves time for more draws.
@settings(max_examples=200, **COMMON)
@given(program=programs(), given_task=tasks)
def test_each_rewrite_and_all_passes_keep_program_numbers_and_work(program: Program, given_task: Task) -> None:
    work, wanted = flops(program, SIZES[0]), answers(program)
    for name, step in REWRITES.items():
        after = verify(step(program, given_task).program)
        if after.functions != program.functions:
            equal(wanted, after, name)
        more = [n > m for n, m in zip(flops(after, SIZES[0]), work, strict=True)]
        assert name in MAY_COUNT_MORE or not any(more), name
    plan = compile_program(program, given_task, verify_each=True)
    equal(wanted, plan.program, "all together")
    assert to_text(compile_program(program, given_task).program) == to_text(plan.program)


@settings(max_examples=20, **COMMON)
@given(program=programs(), compute=st.sampled_from(("f16", "bf16")))
def test_another_precision_is_the_same_function(program: Program, compute: str) -> None:
    plan = compile_program(program, task(precision=Precision(compute, compute)), verify_each=True)
    equal(answers(program), plan.program, tolerance=0.2)


@settings(max_examples=20, **COMMON)
@given(program=programs())
def test_cleaning_comes_to_rest(program: Program) -> None:
    once = REWRITES["clean"](program, task()).program
    again = REWRITES["clean"](once, task())
    assert same(again.program, once)


@settings(max_examples=40, **COMMON)
@given(program=programs())
def test_buffers_never_overlap_while_both_live(program: Program) -> None:
    found = arena(program, program.entries[0], SIZES[0])
    assert found.live_bytes <= found.bytes
    for i, a in enumerate(found.slots):
        assert a.offset + a.size_bytes <= found.bytes
        for b in found.slots[i + 1 :]:
            if a.first <= b.last and b.first <= a.last:
                assert a.offset + a.size_bytes <= b.offset or b.offset + b.size_bytes <= a.offset, (a, b)


def answers_alike(program: Program, given: Mapping[str, np.ndarray], got: Mapping[str, np.ndarray]) -> None:
    """As near to numpy's f64 as f32 allows, which numpy's own f32 shows."""
    exact, single = (evaluate(program, given, float64=wide) for wide in (True, False))
    assert got.keys() == exact.keys()
    for name, want in exact.items():
        assert (got[name].dtype, got[name].shape) == (single[name].dtype, want.shape)
        strays = np.abs(single[name] - want).max(initial=0)
        np.testing.assert_allclose(got[name], want, rtol=1e-3, atol=1e-3 + 20 * strays, err_msg=name)


@settings(max_examples=40, **COMMON)
@given(program=programs())
def test_onnx_runtime_answers_as_numpy_does(program: Program) -> None:
    engine, machine = registry.get("onnxruntime"), this_machine()
    plan = compile_program(program, Task(machine, engine.capabilities(machine)))
    with tempfile.TemporaryDirectory() as folder:
        runner = engine.open(build_files(plan, engine, Path(folder)), threads=1)
        for sizes in SIZES:
            given = inputs_for(program, sizes)
            answers_alike(program, given, runner.run("main", given))
        runner.close()
