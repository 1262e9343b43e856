"""Cleaning: what changes nothing goes, what is equal is shared, what nobody uses is dropped, and no number changes."""

from __future__ import annotations

import numpy as np
import pytest
from compiler_kit import BATCH, SEQ, Draft, ops, run, same_numbers, texts

from tundish.compiler.passes.clean import clean
from tundish.compiler.passes.clean_moves import holds_all
from tundish.ir.dtypes import DTYPES, bf16, boolean, f16, f32, i32, i64
from tundish.ir.tensor import TensorType
from tundish.ir.weights import Held, Stored, Weight


def cleaned(d, *outputs):
    """What is left of the ops, after a check that the numbers stayed."""
    program = d.program(*outputs)
    after = run(clean, program).program
    same_numbers(program, after)
    return ops(after)


def back_and_forth(d, x):
    return d.emit("transpose", d.emit("transpose", x, perm=(0, 2, 1)), perm=(0, 2, 1))


def masked(d, mask, yes=1.0, no=0.0):
    return d.emit("where", mask, d.constant(yes, f32), d.constant(no, f32))


MOVES = {
    "transposes that undo each other": (back_and_forth, ["neg"]),
    "two transposes": (
        lambda d, x: d.emit("transpose", d.emit("transpose", x, perm=(1, 2, 0)), perm=(1, 0, 2)),
        ["transpose", "neg"],
    ),
    "reshape there and back": (
        lambda d, x: d.emit("reshape", d.emit("reshape", x, shape=(BATCH * SEQ, 6)), shape=(BATCH, SEQ, 6)), ["neg"],
    ),
    "two expands": (
        lambda d, x: d.emit("expand", d.emit("expand", x, shape=(1, BATCH, SEQ, 6)), shape=(3, BATCH, SEQ, 6)),
        ["expand", "neg"],
    ),
    "cast to what it is": (lambda d, x: d.emit("cast", x, dtype=f32), ["neg"]),
    "slice of all": (lambda d, x: d.emit("slice", x, axis=1, start=0, stop=SEQ), ["neg"]),
    "two slices": (
        lambda d, x: d.emit("slice", d.emit("slice", x, axis=2, start=1, stop=5), axis=-1, start=1, stop=3),
        ["slice", "neg"],
    ),
    "concat of one": (lambda d, x: d.emit("concat", x, axis=0), ["neg"]),
    "split into one": (lambda d, x: d.emit("split", x, axis=2, sizes=(6,)), ["neg"]),
    "split into all and nothing": (
        lambda d, x: d.emit_node("split", (x,), {"axis": 2, "sizes": (6, 0)}).outputs[0], ["split", "neg"],
    ),
    "a piece of a concat": (
        lambda d, x: d.emit("slice", d.emit("concat", d.emit("exp", x), x, axis=2), axis=2, start=6, stop=12), ["neg"],
    ),
    "half a piece of a concat": (
        lambda d, x: d.emit("slice", d.emit("concat", x, x, axis=2), axis=2, start=3, stop=12),
        ["concat", "slice", "neg"],
    ),
    "an expanded operand": (
        lambda d, x: d.emit("add", x, d.emit("expand", d.weight("w", 6), shape=(BATCH, SEQ, 6))), ["add", "neg"],
    ),
    "a scalar in a shape": (
        lambda d, x: d.emit("div", x, d.emit("reshape", d.constant(3, f32), shape=(1, 1, 1))), ["div", "neg"],
    ),
    "an expand that is needed": (
        lambda d, x: d.emit("add", d.emit("expand", d.weight("w", 6), shape=(BATCH, SEQ, 6)), d.constant(2, f32)),
        ["expand", "add", "neg"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MOVES)
def test_moves(case):
    draw, left = MOVES[case]
    d = Draft()
    assert cleaned(d, d.emit("neg", draw(d, d.x(BATCH, SEQ, 6)))) == left


ALGEBRA = {
    "x + 0": (lambda d, x: d.emit("add", d.constant(0, f32), x), []),
    "x - 0": (lambda d, x: d.emit("sub", x, d.constant(0, f32)), []),
    "0 - x": (lambda d, x: d.emit("sub", d.constant(0, f32), x), ["sub"]),
    "x * 1": (lambda d, x: d.emit("mul", x, d.constant(1, f32)), []),
    "x / 1": (lambda d, x: d.emit("div", x, d.constant(1, f32)), []),
    "1 / x": (lambda d, x: d.emit("div", d.constant(1, f32), x), ["div"]),
    "x ** 2": (lambda d, x: d.emit("pow", x, d.constant(2, f32)), ["mul"]),
    "x ** 3": (lambda d, x: d.emit("pow", x, d.constant(3, f32)), ["pow"]),
    "|x| ** 0.5": (lambda d, x: d.emit("pow", d.emit("abs", x), d.constant(0.5, f32)), ["abs", "sqrt"]),
    "1 / sqrt |x|": (
        lambda d, x: d.emit("div", d.constant(1, f32), d.emit("sqrt", d.emit("abs", x))), ["abs", "rsqrt"]),
    "--x": (lambda d, x: d.emit("neg", d.emit("neg", x)), []),
    "where(mask, x, x)": (lambda d, x: d.emit("where", d.emit("gt", x, d.constant(0, f32)), x, x), []),
    "x + 0 that grows x": (lambda d, x: d.emit("add", x, d.emit("expand", d.constant(0, f32), shape=(3, 4, 5))),
                           ["expand", "add"]),
}  # fmt: skip


@pytest.mark.parametrize("case", ALGEBRA)
def test_algebra(case):
    draw, left = ALGEBRA[case]
    d = Draft()
    assert cleaned(d, d.emit("neg", draw(d, d.x(4, 5)))) == [*left, "neg"] or case == "--x"


MASKS = {
    "not not m": (lambda d, m: d.emit("not", d.emit("not", m)), []),
    "m and not (f == g)": (
        lambda d, m: d.emit("and", m, d.emit("not", d.emit("eq", d.x(4, 5, name="f"), d.x(4, 5, name="g")))),
        ["ne", "and"]),
    "m and true": (lambda d, m: d.emit("and", m, d.constant(1, boolean)), []),
    "m or false": (lambda d, m: d.emit("or", d.constant(0, boolean), m), []),
    "m and m": (lambda d, m: d.emit("and", m, m), []),
    "m as numbers == 0": (lambda d, m: d.emit("eq", masked(d, m), d.constant(0, f32)), ["not"]),
    "m as numbers != 0": (lambda d, m: d.emit("ne", d.emit("cast", m, dtype=f32), d.constant(0, f32)), []),
    "0 < m as numbers": (lambda d, m: d.emit("lt", d.constant(0, f32), d.emit("cast", m, dtype=f32)), []),
    "m as -1 or 3, < 2": (lambda d, m: d.emit("lt", masked(d, m, 3.0, -1.0), d.constant(2, f32)), ["not"]),
    "m as numbers, back": (lambda d, m: d.emit("cast", masked(d, m), dtype=boolean), []),
    "m as equal numbers": (
        lambda d, m: d.emit("eq", masked(d, m, 1.0, 2.0), d.constant(3, f32)), ["where", "eq"]),
}  # fmt: skip


@pytest.mark.parametrize("case", MASKS)
def test_masks(case):
    draw, left = MASKS[case]
    d = Draft()
    y = d.emit("where", draw(d, d.x(4, 5, name="m", dtype=boolean)), d.x(4, 5), d.x(4, 5, name="z"))
    wanted = ["where"] if left == ["not"] else [*left, "where"]  # `where(not m, a, b)` swaps its sides
    assert cleaned(d, y) == wanted


def test_casts_merge_only_where_nothing_is_lost():
    d = Draft()
    x = d.x(4, dtype=bf16)
    exact = d.emit("cast", d.emit("cast", x, dtype=f32), dtype=bf16)
    y = d.x(4, name="y")
    rounded = d.emit("cast", d.emit("cast", y, dtype=bf16), dtype=f32)
    assert cleaned(d, d.emit("neg", exact), d.emit("neg", rounded)) == ["cast", "cast", "neg", "neg"]


@pytest.mark.parametrize("wide", DTYPES.values(), ids=str)
@pytest.mark.parametrize("narrow", DTYPES.values(), ids=str)
def test_holds_all_is_true_only_of_types_that_do(wide, narrow):
    import ml_dtypes

    info = ml_dtypes.finfo if narrow.is_float else ml_dtypes.iinfo
    if narrow.kind == "bool":
        numbers = np.array([False, True])
    else:
        limits = info(narrow.numpy)
        odd = [1.0 + float(limits.eps), float(limits.tiny)] if narrow.is_float else [int(limits.max) - 1]
        numbers = np.array([limits.min, limits.max, *odd], narrow.numpy)
    with np.errstate(all="ignore"):
        there_and_back = numbers.astype(np.float64).astype(wide.numpy).astype(np.float64).astype(narrow.numpy)
    if holds_all(wide, narrow) and narrow.bits < 64:
        np.testing.assert_array_equal(there_and_back, numbers)


def test_equal_nodes_are_one_also_with_their_sides_swapped():
    d = Draft()
    x, y = d.x(4), d.x(4, name="y")
    one, two = d.emit("add", x, y), d.emit("add", y, x)
    assert cleaned(d, d.emit("mul", d.emit("exp", one), d.emit("exp", two))) == ["add", "exp", "mul"]
    d = Draft()
    x, y = d.x(4), d.x(4, name="y")
    assert cleaned(d, d.emit("mul", d.emit("sub", x, y), d.emit("sub", y, x))) == ["sub", "sub", "mul"]


def test_scalars_of_scalars_are_computed_unless_a_float_cannot_hold_them():
    d = Draft()
    root = d.emit("sqrt", d.constant(64, f32))
    big = d.emit("mul", d.constant(2**31 + 1, i64), d.constant(2**31 + 1, i64))
    x, n = d.x(4), d.x(4, name="n", dtype=i64)
    assert cleaned(d, d.emit("div", x, root), d.emit("add", n, big)) == ["mul", "div", "add"]


def test_a_fixed_size_as_data_is_a_constant():
    d = Draft()
    x = d.x(4, dtype=i64)
    assert cleaned(d, d.emit("add", x, d.emit("dim_value", dim=0))) == []


def test_dead_nodes_weights_functions_parameters_and_results_go():
    body = Draft()
    used = body.x(4, name="used")
    body.x(4, name="unused")
    graph = body.finish([body.emit("neg", used), body.emit("exp", used), used])
    d = Draft()
    d.functions = {"layer": graph, "nobody": graph}
    x, w = d.x(4), d.weight("w", 4)
    one, _, _ = d.call("layer", graph, (x, d.emit("add", w, w))).outputs
    program = d.program(one)
    after = run(clean, program).program
    same_numbers(program, after)
    assert list(after.functions) == ["layer", "main"] and not after.weights
    layer = after.functions["layer"]
    assert [v.name for v in layer.inputs] == ["used"] and ops(layer) == ["neg"]


def test_an_entrys_inputs_stay_though_unused():
    d = Draft()
    x = d.x(4)
    d.x(4, name="ignored")
    after = run(clean, d.program(d.emit("neg", x))).program
    assert [v.name for v in after.entry.inputs] == ["x", "ignored"]


def test_tied_weights_are_one_entry():
    array = np.ones((3, 4), np.float32)
    d = Draft()
    a, b = d.weight("a", 3, 4), d.weight("b", 3, 4)
    program = d.program(d.emit("add", d.emit("add", a, b), d.x(3, 4)))
    type = TensorType(f32, (3, 4))
    held = {"a": Weight(type, Held(array)), "b": Weight(type, Held(array[:]))}
    stored = {n: Weight(type, Stored("model.safetensors", "wte")) for n in "ab"}
    views = {"a": Weight(type, Held(array)), "b": Weight(type, Held(array.copy()))}
    for weights, left in ((held, ["a"]), (stored, ["a"]), (views, ["a", "b"])):
        assert list(run(clean, program.replace(weights=weights)).program.weights) == left


def test_what_was_done_is_told_with_the_place_and_counted():
    d = Draft()
    x = d.x(4, 4)
    y = d.emit("transpose", d.emit("transpose", x, perm=(1, 0)), perm=(1, 0))
    done = run(clean, d.program(d.emit("neg", y)))
    assert "two transposes are one" in texts(done)
    assert all(str(n.where) == "model.py:7 block" for n in done.notes)
    assert not [t for t in texts(done) if "declined" in t]


@pytest.mark.parametrize(("narrow", "wide", "holds"), [(f16, bf16, False), (bf16, f16, False), (i32, f32, False)])
def test_types_that_look_alike_do_not_hold_each_other(narrow, wide, holds):
    assert holds_all(wide, narrow) is holds
