"""Expressions of weights become recipes, out of layers too; what is the same in every layer is computed once."""

from __future__ import annotations

import numpy as np
from compiler_kit import BATCH, SEQ, Draft, ops, run, same_numbers, task, texts

from tundish.compiler.passes.clean import clean
from tundish.compiler.passes.hoist import hoist
from tundish.compiler.task import Precision
from tundish.ir.dtypes import bf16, f32, i64
from tundish.ir.tensor import TensorType
from tundish.ir.weights import Held, Recipe, Weight, materialize


def hoisted(program, given=None):
    done = run(hoist, program, given)
    after = run(clean, done.program, given).program
    same_numbers(program, after)
    return after, texts(done)


def test_a_transposed_weight_is_a_recipe_with_a_readable_name():
    d = Draft()
    y = d.emit("linear", d.x(3, 4), d.emit("transpose", d.weight("mlp.up", 6, 4), perm=(1, 0)))
    after, said = hoisted(d.program(y))
    assert ops(after) == ["linear"] and list(after.weights) == ["mlp.up.transpose"]
    assert isinstance(after.weights["mlp.up.transpose"].source, Recipe)
    assert said == ["transpose of weights is done when the program is built"]


def test_an_expression_of_several_is_one_recipe_and_its_parts_are_none():
    d = Draft()
    parts = [d.emit("transpose", d.weight(n, 2, 4), perm=(1, 0)) for n in "qkv"]
    whole = d.emit("mul", d.emit("concat", *parts, axis=1), d.constant(2, f32))
    after, _ = hoisted(d.program(d.emit("linear", d.x(3, 4), whole)))
    assert list(after.weights) == ["q.transpose.concat.mul"]
    array = materialize(after.weights["q.transpose.concat.mul"])
    stacked = np.concatenate([d.weights[n].source.array for n in "qkv"]).T * 2
    np.testing.assert_array_equal(array, stacked)


def test_a_split_is_a_slice_for_each_piece():
    d = Draft()
    one, two = d.emit_node("split", (d.weight("w", 4, 6),), {"axis": 1, "sizes": (2, 4)}).outputs
    x = d.x(3, 4)
    after, _ = hoisted(d.program(d.emit("linear", x, one), d.emit("linear", x, two)))
    assert [w.source.op.name for w in after.weights.values()] == ["slice", "slice"]


def test_equal_expressions_are_one_entry():
    d = Draft()
    w, x = d.weight("w", 4, 4), d.x(3, 4)
    ys = [d.emit("linear", x, d.emit("transpose", w, perm=(1, 0))) for _ in range(2)]
    after, _ = hoisted(d.program(*ys))
    assert len(after.weights) == 1


def test_a_big_expand_is_not_stored():
    d = Draft()
    wide = d.emit("expand", d.weight("w", 1, 256), shape=(256, 256))
    after, said = hoisted(d.program(d.emit("linear", d.x(3, 256), wide)))
    assert ops(after) == ["expand", "linear"] and not said


def test_what_depends_on_a_size_is_not_stored():
    d = Draft()
    part = d.emit("slice", d.weight("positions", 64, 4), axis=0, start=0, stop=SEQ)
    after, said = hoisted(d.program(d.emit("add", d.x(BATCH, SEQ, 4), part)))
    assert ops(after) == ["slice", "add"] and not said


def test_weights_are_not_held_wider_than_asked():
    d = Draft()
    wide = d.emit("cast", d.weight("w", 256, 256, dtype=bf16), dtype=f32)
    program = d.program(d.emit("linear", d.x(3, 256), wide))
    kept, _ = hoisted(program, task(precision=Precision(weights="bf16")))
    assert ops(kept) == ["cast", "linear"]
    stored, _ = hoisted(program)
    assert ops(stored) == ["linear"]


def test_a_table_of_constants_has_a_name_from_its_place():
    d = Draft()
    table = d.emit("cast", d.emit("iota", length=8, dtype=i64), dtype=f32)
    after, _ = hoisted(d.program(d.emit("add", d.x(8), table)))
    assert list(after.weights) == ["block.iota.cast"]


def layers(count=3, expression=True):
    """A layer that transposes its weight, turns a mask to a bias, and adds the sine of positions."""
    body = Draft()
    x, w, mask = body.x(BATCH, SEQ, 4), body.x(4, 4, name="w"), body.x(BATCH, SEQ, name="mask", dtype=i64)
    bias = body.emit("reshape", body.emit("cast", mask, dtype=f32), shape=(BATCH, SEQ, 1))
    weight = body.emit("transpose", w, perm=(1, 0)) if expression else w
    y = body.emit("add", body.emit("linear", x, weight), bias)
    graph = body.finish([y])
    d = Draft()
    d.functions = {"layer": graph}
    y, mask = d.x(BATCH, SEQ, 4), d.x(BATCH, SEQ, name="mask", dtype=i64)
    for i in range(count):
        y = d.call("layer", graph, (y, d.weight(f"w{i}", 4, 4), mask), index=i).output
    return d.program(y)


def test_out_of_a_layer_each_call_has_its_own_recipe():
    after, said = hoisted(layers())
    assert ops(after.functions["layer"]) == ["linear", "add"]
    assert sorted(after.weights) == ["w0.transpose", "w1.transpose", "w2.transpose"]
    assert ops(after).count("cast") == 1, "the mask is turned once, for all layers"
    assert "reshape is the same in every layer, and computed once" in said


def test_notes_count_every_call():
    done = run(hoist, layers())
    assert {n.text.split()[0]: n.times for n in done.notes} == {"transpose": 3, "reshape": 3}


def test_a_function_called_once_keeps_its_body():
    after, _ = hoisted(layers(1))
    assert ops(after.functions["layer"]) == ["cast", "reshape", "linear", "add"]
    assert list(after.weights) == ["w0.transpose"]


def test_an_argument_that_differs_stays_in_the_layer():
    body = Draft()
    x, y = body.x(4), body.x(4, name="y")
    graph = body.finish([body.emit("add", x, body.emit("exp", y))])
    d = Draft()
    d.functions = {"layer": graph}
    x, a, b = d.x(4), d.x(4, name="a"), d.x(4, name="b")
    x = d.call("layer", graph, (x, a)).output
    after, said = hoisted(d.program(d.call("layer", graph, (x, b)).output))
    assert ops(after.functions["layer"]) == ["exp", "add"] and not said


def test_out_of_layers_in_layers():
    inner = Draft()
    x, w = inner.x(4, 4), inner.x(4, 4, name="w")
    low = inner.finish([inner.emit("linear", x, inner.emit("transpose", w, perm=(1, 0)))])
    outer = Draft()
    x, w = outer.x(4, 4), outer.x(4, 4, name="w")
    x = outer.call("low", low, (x, w), index=0).output
    high = outer.finish([outer.call("low", low, (x, w), index=1).output])
    d = Draft()
    d.functions = {"low": low, "high": high}
    x = d.x(4, 4)
    for i in range(2):
        x = d.call("high", high, (x, d.weight(f"w{i}", 4, 4)), index=i).output
    after, _ = hoisted(d.program(x))
    assert ops(after.functions["low"]) == ["linear"] and ops(after.functions["high"]) == ["call", "call"]
    assert sorted(after.weights) == ["w0.transpose", "w1.transpose"]


def test_weights_without_bytes_go_the_same_way():
    program = layers()
    bare = {n: Weight(TensorType(f32, (4, 4)), Held()) for n in program.weights}
    after = run(clean, run(hoist, program.replace(weights=bare)).program).program
    assert sorted(after.weights) == ["w0.transpose", "w1.transpose", "w2.transpose"]
