"""Products with, and rows of, quantised weights as one op each; offsets added apart. Numbers stay what they are."""

from __future__ import annotations

import pytest
from compiler_kit import BATCH, Draft, only, ops, run, same_numbers, task, texts

from tundish.compiler.capabilities import Blocks
from tundish.compiler.passes.raise_quantized import raise_quantized, split_offsets
from tundish.ir.dtypes import DTYPES, f32, i64
from tundish.ir.graph import Program, Value
from tundish.ir.op import OPS

GROUP = 32
CENTRED = frozenset({Blocks(4, GROUP, "centred")})


def weight(d: Draft, rows: int, inner: int, scheme: str = "centred", axis: int = 1) -> Value:
    """[rows, inner], dequantised along an axis."""
    shape = (rows, inner // GROUP) if axis == 1 else (rows // GROUP, inner)
    q = d.emit("cast", d.emit("abs", d.emit("mul", d.weight("q", rows, inner), d.constant(4.0, f32))),
               dtype=DTYPES["u4"])  # fmt: skip
    parts = [q, d.weight("scale", *shape), *([d.weight("zero", *shape)] if scheme == "offset" else [])]
    return d.emit("dequantize", *parts, bits=4, group=GROUP, axis=axis, scheme=scheme)


def product(scheme: str = "centred", *, turned: bool = True, biased: bool = False, axis: int = 1) -> Program:
    d = Draft()
    w = weight(d, 64, 64, scheme, axis)
    w = d.emit("transpose", w, perm=(1, 0)) if turned else w
    return d.program(d.emit("linear", d.x(BATCH, 3, 64), w, *([d.weight("bias", 64)] if biased else [])))


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("turned", "axis"), [(True, 1), (False, 0)])
@pytest.mark.parametrize("scheme", ["centred", "offset"])
def test_a_linear_works_on_the_weight_as_it_is(scheme: str, turned: bool, axis: int, biased: bool) -> None:
    before = product(scheme, turned=turned, biased=biased, axis=axis)
    done = run(raise_quantized, before)
    assert ops(done.program).count("quantized_matmul") == 1 and "dequantize" not in ops(done.program)
    assert only(texts(done), "linear works on the quantised weight as it is")
    same_numbers(before, done.program)


@pytest.mark.parametrize(("turned", "axis"), [(True, 0), (False, 1)])
def test_groups_along_the_outputs_stay(turned: bool, axis: int) -> None:
    before = product(turned=turned, axis=axis)
    assert run(raise_quantized, before).program.entry is before.entry


@pytest.mark.parametrize(
    "changes", [{"ops": frozenset(OPS) - {"quantized_matmul"}}, {"blocks": frozenset({Blocks(8, GROUP, "centred")})}],
    ids=["no op", "other bits"],
)  # fmt: skip
def test_forms_that_the_backend_lacks_stay(changes: dict[str, object]) -> None:
    before = product()
    assert run(raise_quantized, before, task(**changes)).program.entry is before.entry


def test_rows_come_from_the_quantised_table() -> None:
    d = Draft()
    before = d.program(d.emit("gather", weight(d, 8, 64), d.x(BATCH, 3, name="ids", dtype=i64), axis=0))
    after = run(raise_quantized, before).program
    assert ops(after).count("quantized_gather") == 1 and "dequantize" not in ops(after)
    same_numbers(before, after)


def test_rows_with_offsets_stay_where_the_backend_has_none() -> None:
    d = Draft()
    before = d.program(d.emit("gather", weight(d, 8, 64, "offset"), d.x(BATCH, name="ids", dtype=i64), axis=0))
    assert run(raise_quantized, before, task(blocks=CENTRED)).program.entry is before.entry


@pytest.mark.parametrize("biased", [False, True])
def test_offsets_are_added_apart(biased: bool) -> None:
    before = run(raise_quantized, product("offset", biased=biased), task(blocks=CENTRED)).program
    done = run(split_offsets, before, task(blocks=CENTRED))
    (node,) = (n for n in done.program.entry.nodes if n.op.name == "quantized_matmul")
    assert node.attrs["scheme"] == "centred" and {"mean", "linear"} <= set(ops(done.program))
    assert only(texts(done), "the offsets of a quantised weight are added apart")
    same_numbers(before, done.program, tolerance=1e-6)


def test_offsets_that_the_backend_adds_itself_stay() -> None:
    before = run(raise_quantized, product("offset")).program
    assert run(split_offsets, before).program.entry is before.entry
