"""The arena: nothing overlaps while both live, sizes are those stated, and what does not fit is refused."""

from __future__ import annotations

import dataclasses

import pytest
from compiler_kit import BATCH, MACHINE, SEQ, Draft, task

from tundish.compiler.driver import PASSES, compile_program
from tundish.compiler.passes.memory import UNBOUNDED, Arena, arena, plan_memory, weights_bytes
from tundish.compiler.plan import Guard, Plan, Variant
from tundish.ir.diagnostics import CompileError
from tundish.ir.dims import Range
from tundish.ir.dtypes import f32, i64

SIZES = {"batch": 2, "seq": 16}


def overlaps(found: Arena) -> list[tuple[str, str]]:
    """Pairs of buffers that share bytes while both live."""
    slots = found.slots
    return [
        (a.value, b.value)
        for i, a in enumerate(slots)
        for b in slots[i + 1 :]
        if a.first <= b.last and b.first <= a.last
        and a.offset < b.offset + b.size_bytes and b.offset < a.offset + a.size_bytes
    ]  # fmt: skip


def chain(length=6):
    d = Draft()
    x = d.x(BATCH, SEQ, 4)
    for _ in range(length):
        x = d.emit("exp", x)
    return d.program(x)


def plan(program):
    return Plan(program, {"main": (Variant(Guard(), "main"),)}, "tester", "cpu")


def decided(program, given=None):
    return plan_memory(plan(program), given or task()).decisions["memory"]


def test_a_chain_needs_two_buffers():
    found = arena(chain(), "main", SIZES)
    assert found.bytes == found.live_bytes == 2 * (2 * 16 * 4 * 4)
    assert len(found.slots) == 6 and not overlaps(found)


def test_a_value_needed_late_is_not_overwritten():
    d = Draft()
    x = d.emit("exp", d.x(BATCH, SEQ, 4))
    y = x
    for _ in range(4):
        y = d.emit("neg", y)
    found = arena(d.program(d.emit("add", x, y)), "main", SIZES)
    assert found.bytes == 3 * 512 and not overlaps(found)


def test_a_reshape_shares_its_inputs_buffer():
    d = Draft()
    x = d.emit("exp", d.x(BATCH, SEQ, 4))
    flat = d.emit("reshape", x, shape=(BATCH * SEQ, 4))
    found = arena(d.program(d.emit("neg", flat)), "main", SIZES)
    assert [s.value for s in found.slots] == [x.name, d.nodes[-1].output.name] and not overlaps(found)


def test_the_result_lives_to_the_end():
    d = Draft()
    x = d.x(BATCH, SEQ, 4)
    first = d.emit("exp", x)
    y = d.emit("neg", d.emit("sin", x))
    found = arena(d.program(first, y), "main", SIZES)
    assert found.slots[0].last == max(s.last for s in found.slots) and not overlaps(found)


def test_calls_are_expanded_each_with_its_path():
    body = Draft()
    graph = body.finish([body.emit("neg", body.emit("exp", body.x(BATCH, SEQ, 4)))])
    d = Draft()
    d.functions = {"layer": graph}
    x = d.x(BATCH, SEQ, 4)
    for i in range(3):
        x = d.call("layer", graph, (x,), index=i).output
    found = arena(d.program(x), "main", SIZES)
    assert len(found.slots) == 6 and len({s.path for s in found.slots}) == 3
    assert found.bytes == 2 * 512 and not overlaps(found)


def test_a_fused_kernel_holds_only_what_it_gives():
    body = Draft()
    graph = body.finish([body.emit("neg", body.emit("exp", body.x(BATCH, SEQ, 4)))])
    d = Draft()
    d.functions = {"kernel": graph}
    attrs = {"function": "kernel", "anchor": "exp", "epilogue": ("neg",)}
    y = d.emit_node("fused", (d.x(BATCH, SEQ, 4),), attrs, types=[graph.outputs[0].type]).output
    assert len(arena(d.program(y), "main", SIZES).slots) == 1


def test_the_sizes_are_the_tops_of_the_ranges_that_were_asked():
    found = decided(chain(), task(ranges={"batch": Range(1, 4)}))
    assert found["sizes"] == {"batch": 4, "seq": 64}
    assert found["inputs_bytes"] == 4 * 64 * 4 * 4 and found["arena_bytes"] == 2 * found["inputs_bytes"]


def test_peak_is_weights_inputs_and_arena():
    d = Draft()
    program = d.program(d.emit("linear", d.x(BATCH, SEQ, 8), d.weight("w", 8, 8)))
    found = decided(program)
    assert found["weights_bytes"] == weights_bytes(program) == 256
    assert found["peak_bytes"] == found["weights_bytes"] + found["inputs_bytes"] + found["arena_bytes"]
    assert str(found["arenas"]["main"]).startswith("1 buffers in 16384 bytes")


def test_a_range_without_an_end_is_assumed_aloud_and_never_refused():
    program = chain().replace(symbols={"batch": Range(1, 2), "seq": Range(1)})
    tiny = task(machine=dataclasses.replace(MACHINE, memory_bytes=1))
    done = plan_memory(plan(program), tiny)
    assert done.decisions["memory"]["sizes"]["seq"] == UNBOUNDED
    assert f"the range of seq has no end: {UNBOUNDED} is assumed" in [n.text for n in done.notes]


def test_what_does_not_fit_is_refused_with_the_figure():
    small = task(machine=dataclasses.replace(MACHINE, memory_bytes=2**14))
    with pytest.raises(CompileError, match="a run at batch 8, seq 64 takes 24.0 KiB, and a test machine has 16.0 KiB"):
        decided(chain(2), small)


def test_weights_that_do_not_fit_are_refused_before_any_pass():
    d = Draft()
    program = d.program(d.emit("linear", d.x(BATCH, SEQ, 256), d.weight("w", 256, 256)))
    asked = []
    small = task(machine=dataclasses.replace(MACHINE, memory_bytes=2**17))
    with pytest.raises(CompileError, match="the weights alone take 256.0 KiB"):
        compile_program(program, small, on_pass=lambda *a: asked.append(a), passes=PASSES)
    assert not asked


def test_odd_sizes_are_aligned():
    d = Draft()
    ids = d.x(BATCH, name="ids", dtype=i64)
    y = d.emit("cast", ids, dtype=f32)
    found = arena(d.program(d.emit("exp", y)), "main", {"batch": 3, "seq": 1})
    assert [s.offset % 64 for s in found.slots] == [0, 0] and found.slots[0].size_bytes == 64
