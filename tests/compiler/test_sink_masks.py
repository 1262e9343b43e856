"""Masks that all layers share are drawn in the layer, where they can be read; all else stays with the caller."""

from __future__ import annotations

import math

import numpy as np
from compiler_kit import BATCH, SEQ, Draft, arrays, ops, run, same_numbers, texts

from tundish.compiler.passes.clean import clean
from tundish.compiler.passes.hoist import hoist
from tundish.compiler.passes.raise_attention import raise_attention
from tundish.compiler.passes.sink_masks import MOST_NODES, sink_masks
from tundish.ir.dtypes import boolean, f32, i64
from tundish.ir.graph import Program, Value
from tundish.ir.tensor import TensorType

HEADS = (0, 2, 1, 3)


def layer(d: Draft, mask: Value, *, attends: bool = True) -> None:
    """A function `layer` of x and a mask or bias."""
    f = Draft()
    x = f.x(BATCH, SEQ, 2, 4)
    bias = f.input("bias", mask.type)
    q = f.emit("transpose", x, perm=HEADS)
    s = f.emit("matmul", q, f.emit("transpose", q, perm=(0, 1, 3, 2)))
    if mask.type.dtype == boolean:
        s = f.emit("where", bias, s, f.constant(-math.inf, f32))
    else:
        s = f.emit("add", s, bias)
    s = f.emit("softmax", s, axis=-1) if attends else f.emit("tanh", s)
    d.functions["layer"] = f.finish([f.emit("transpose", f.emit("matmul", s, q), perm=HEADS)])


def called(d: Draft, *masks: Value) -> Program:
    """A program that calls the layer with each mask in turn."""
    y = d.inputs[0]
    for i, mask in enumerate(masks):
        y = d.call("layer", d.functions["layer"], [y, mask], index=i).output
    return d.program(y)


def causal(d: Draft) -> Value:
    at = d.emit("iota", length=SEQ, dtype=i64)
    return d.emit("ge", d.emit("reshape", at, shape=(SEQ, 1)), at)


def as_bias(d: Draft, mask: Value) -> Value:
    return d.emit("where", mask, d.constant(0.0, f32), d.constant(-math.inf, f32))


def sunk(program: Program) -> tuple[Program, list[str]]:
    done = run(sink_masks, program)
    same_numbers(program, done.program)
    return done.program, texts(done)


def test_a_causal_bias_is_drawn_in_the_layer_and_becomes_an_attribute():
    d = Draft()
    d.x(BATCH, SEQ, 2, 4)
    bias = as_bias(d, causal(d))
    layer(d, bias)
    after, said = sunk(called(d, bias, bias))
    assert said == ["a mask that all layers share is drawn in the layer"]
    assert ops(after) == ["call", "call"] and len(after.functions["layer"].inputs) == 1
    raised = run(raise_attention, after).program
    (node,) = (n for n in raised.functions["layer"].nodes if n.op.name == "attention")
    assert node.attrs["causal"] and all(v is None for v in node.inputs[3:])


def test_a_padding_bias_is_given_as_the_padding():
    d = Draft()
    d.x(BATCH, SEQ, 2, 4)
    padding = d.emit("reshape", d.x(BATCH, SEQ, name="real", dtype=boolean), shape=(BATCH, 1, 1, SEQ))
    bias = as_bias(d, padding)
    layer(d, bias)
    program = called(d, bias, bias)
    done = run(sink_masks, program).program
    given = arrays(program)
    given["real"][:, 0] = True
    same_numbers(program, done, given)
    assert [v.type for v in done.functions["layer"].inputs[1:]] == [TensorType(boolean, (BATCH, SEQ))]


def test_what_the_layer_is_given_already_is_not_passed_twice():
    """So that a cache's position and its mask's are one value in the layer."""
    d = Draft()
    y, at = d.x(BATCH, SEQ, 2, 4), d.input("position", TensorType(i64, (BATCH,)))
    own = d.emit("reshape", at, shape=(BATCH, 1, 1, 1))
    keys = d.emit("iota", length=SEQ, dtype=i64)
    bias = as_bias(d, d.emit("le", keys, d.emit("add", own, d.emit("reshape", keys, shape=(SEQ, 1)))))
    f = Draft()
    x, mask, position = f.x(BATCH, SEQ, 2, 4), f.input("bias", bias.type), f.input("position", at.type)
    q = f.emit("transpose", x, perm=HEADS)
    s = f.emit("softmax", f.emit("add", f.emit("matmul", q, f.emit("transpose", q, perm=(0, 1, 3, 2))), mask), axis=-1)
    y1 = f.emit("transpose", f.emit("matmul", s, q), perm=HEADS)
    shift = f.emit("reshape", f.emit("cast", position, dtype=f32), shape=(BATCH, 1, 1, 1))
    d.functions["layer"] = f.finish([f.emit("add", y1, shift)])
    for i in range(2):
        y = d.call("layer", d.functions["layer"], [y, bias, at], index=i).output
    after, _ = sunk(d.program(y))
    body = after.functions["layer"]
    assert [str(v.type) for v in body.inputs] == ["f32[batch, seq, 2, 4]", "i64[batch]"]
    raised = run(raise_attention, after).program.functions["layer"]
    (node,) = (n for n in raised.nodes if n.op.name == "attention")
    assert node.attrs["causal"] and node.inputs[6] is raised.inputs[1]


def test_a_causal_mask_sinks_too_but_a_given_one_stays():
    for drawn in (True, False):
        d = Draft()
        d.x(BATCH, SEQ, 2, 4)
        mask = causal(d) if drawn else d.x(SEQ, SEQ, name="mask", dtype=boolean)
        layer(d, mask)
        program = called(d, mask, mask)
        done = run(sink_masks, program)
        assert bool(done.notes) == drawn
        assert done.program is program or drawn


def test_layers_with_masks_of_their_own_keep_them():
    d = Draft()
    d.x(BATCH, SEQ, 2, 4)
    one, two = as_bias(d, causal(d)), as_bias(d, d.emit("not", causal(d)))
    layer(d, one)
    program = called(d, one, two)
    assert run(sink_masks, program).program is program


def test_a_layer_that_does_not_attend_is_left_alone():
    d = Draft()
    d.x(BATCH, SEQ, 2, 4)
    bias = d.emit("where", causal(d), d.constant(0.0, f32), d.constant(-2.0, f32))
    layer(d, bias, attends=False)
    program = called(d, bias, bias)
    assert run(sink_masks, program).program is program


def test_what_is_much_to_draw_stays():
    d = Draft()
    d.x(BATCH, SEQ, 2, 4)
    bias = as_bias(d, causal(d))
    for _ in range(MOST_NODES):
        bias = d.emit("add", bias, d.constant(1.0, f32))
    layer(d, bias)
    program = called(d, bias, bias)
    assert run(sink_masks, program).program is program


def test_what_no_rule_reads_is_taken_out_again():
    d = Draft()
    d.x(BATCH, SEQ, 2, 4)
    weak = d.emit("where", causal(d), d.constant(0.0, f32), d.constant(-2.0, f32))
    layer(d, weak)
    program = called(d, weak, weak)
    after = run(hoist, run(clean, sunk(program)[0]).program).program
    assert "where" not in ops(after.functions["layer"]) and ops(after).count("where") == 1
    same_numbers(program, after)
    assert np.isfinite(list(arrays(program).values())[0]).all()
