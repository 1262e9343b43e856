"""Sums that are attention's bias, put apart: a causal part beside padding, merged heads, a bias repeated for each."""

from __future__ import annotations

import math

import numpy as np
import pytest
from compiler_kit import BATCH, SEQ, Draft, arrays, only, run, same_numbers, texts

from tundish.compiler.passes.clean import clean
from tundish.compiler.passes.raise_attention import raise_attention
from tundish.ir.dtypes import boolean, f32, i64
from tundish.ir.graph import Value

HEADS, INF, LEAST = 3, math.inf, float(np.finfo(np.float32).min)


def ahead(d: Draft, fill: float = -INF) -> Value:
    """[seq, seq]: 0 up to a query's own position, the fill beyond."""
    at = d.emit("iota", length=SEQ, dtype=i64)
    keep = d.emit("ge", d.emit("reshape", at, shape=(SEQ, 1)), at)
    return d.emit("where", keep, d.constant(0.0, f32), d.constant(fill, f32))


def padding(d: Draft, fill: float = LEAST) -> Value:
    """[batch, 1, 1, seq]: 0 at real keys."""
    real = d.x(BATCH, SEQ, name="real", dtype=boolean)
    return d.emit("reshape", d.emit("where", real, d.constant(0.0, f32), d.constant(fill, f32)),
                  shape=(BATCH, 1, 1, SEQ))  # fmt: skip


def attention(d: Draft, bias: Value):
    q, k, v = (d.x(BATCH, SEQ, HEADS, 4, name=n) for n in "qkv")
    program = d.program(d.emit("attention", q, k, v, None, bias, None, scale=0.5))
    done = run(raise_attention, program)
    after = run(clean, done.program).program
    given = [arrays(program), arrays(program, batch=1, seq=1), arrays(program, seq=4, size=30.0)]
    for inputs in given:
        if "real" in inputs:
            inputs["real"][:, 0] = True
    same_numbers(program, after, *given)
    (node,) = (n for n in after.entry.nodes if n.op.name == "attention")
    return node, texts(done)


def parts(node) -> tuple[bool, str | None, str | None]:
    mask, bias = (*node.inputs[3:], None, None)[:2]
    return node.attrs["causal"], *(str(v.type) if v is not None else None for v in (mask, bias))


@pytest.mark.parametrize("swapped", [False, True])
def test_the_causal_part_of_a_sum_is_an_attribute_and_the_rest_stays(swapped):
    d = Draft()
    terms = [d.emit("reshape", ahead(d), shape=(1, 1, SEQ, SEQ)), padding(d)]
    node, said = attention(d, d.emit("add", *(terms[::-1] if swapped else terms)))
    assert parts(node) == (True, None, "f32[batch, 1, 1, seq]")
    assert "the part of a bias that is 0 and -inf is a mask" in said


def test_two_masks_in_a_sum_are_an_attribute_and_a_mask():
    d = Draft()
    node, _ = attention(d, d.emit("add", d.emit("reshape", ahead(d), shape=(1, 1, SEQ, SEQ)), padding(d, -INF)))
    assert parts(node) == (True, "bool[batch, 1, 1, seq]", None)


def test_a_sum_over_merged_heads_is_put_apart():
    """As nn.MultiheadAttention adds its two masks."""
    d = Draft()
    each = d.emit("expand", padding(d), shape=(BATCH, HEADS, 1, SEQ))
    merged = d.emit("reshape", each, shape=(BATCH * HEADS, 1, SEQ))
    total = d.emit("add", d.emit("reshape", ahead(d), shape=(1, SEQ, SEQ)), merged)
    node, said = attention(d, d.emit("reshape", total, shape=(BATCH, HEADS, SEQ, SEQ)))
    assert parts(node) == (True, None, "f32[batch, 1, 1, seq]")
    assert "a sum of biases over merged heads is one over rows and heads" in said


def test_a_weak_fill_is_no_mask_and_says_so():
    d = Draft()
    weak = d.emit("reshape", ahead(d, -2.0), shape=(1, 1, SEQ, SEQ))
    node, said = attention(d, d.emit("add", weak, padding(d)))
    assert not node.attrs["causal"] and parts(node)[2] == "f32[batch, 1, seq, seq]"
    assert only(said, "boolean_part declined: the bias is ")


def test_a_sum_of_other_merged_axes_stays():
    d = Draft()
    given = [d.x(BATCH, SEQ, HEADS, SEQ, name=n) for n in ("one", "two")]
    one, two = (d.emit("reshape", x, shape=(BATCH * SEQ, HEADS, SEQ)) for x in given)
    node, said = attention(d, d.emit("reshape", d.emit("add", one, two), shape=(BATCH, HEADS, SEQ, SEQ)))
    assert parts(node)[2] == "f32[batch, 3, seq, seq]"
    assert only(said, "merged_heads declined: what is merged is not rows and heads")
