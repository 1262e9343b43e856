"""Rotary written out, in both layouts and with both ways to cut; what is not rotary stays."""

from __future__ import annotations

import pytest
from compiler_kit import BATCH, SEQ, Draft, only, ops, run, same_numbers, texts

from tundish.compiler.passes.clean import clean
from tundish.compiler.passes.raise_rotary import raise_rotary
from tundish.ir.dtypes import f32

HEADS = (0, 2, 1, 3)


def turned(d, x, way, half, size):
    if way == "slice":
        low = d.emit("slice", x, axis=3, start=0, stop=half)
        high = d.emit("slice", x, axis=-1, start=half, stop=size)
    else:
        low, high = d.emit_node("split", (x,), {"axis": 3, "sizes": (half, size - half)}).outputs
    negative = d.emit("neg", high) if way == "slice" else d.emit("mul", high, d.constant(-1, f32))
    return d.emit("concat", negative, low, axis=3)


def rotate(d, x, cos, sin, way="slice", half=4, size=8):
    return d.emit("add", d.emit("mul", x, cos), d.emit("mul", turned(d, x, way, half, size), sin))


@pytest.mark.parametrize("way", ["slice", "split"])
@pytest.mark.parametrize("angles", [(BATCH, 1, SEQ, 8), (1, 1, SEQ, 8), (SEQ, 8), (1, SEQ, 8)])
def test_heads_first_as_llama_writes_it(way, angles):
    d = Draft()
    x = d.x(BATCH, 3, SEQ, 8)
    program = d.program(rotate(d, x, d.x(*angles, name="cos"), d.x(*angles, name="sin"), way))
    done = run(raise_rotary, program)
    cleaned = [op for op in ops(run(clean, done.program).program) if op != "reshape"]
    assert cleaned == ["transpose", "rotary", "transpose"]
    assert texts(done) == ["x · cos + cat(-x₂, x₁) · sin is one rotary"]
    same_numbers(program, done.program)


def test_heads_after_length_needs_no_transpose():
    d = Draft()
    x, cos, sin = d.x(BATCH, SEQ, 3, 8), d.x(BATCH, SEQ, 1, 8, name="cos"), d.x(BATCH, SEQ, 1, 8, name="sin")
    program = d.program(rotate(d, x, cos, sin))
    done = run(raise_rotary, program)
    assert "transpose" not in ops(done.program) and "rotary" in ops(done.program)
    same_numbers(program, done.program)


def test_the_transposes_cancel_with_the_models_own():
    d = Draft()
    x = d.emit("transpose", d.x(BATCH, SEQ, 3, 8), perm=HEADS)
    cos, sin = (d.emit("reshape", d.x(BATCH, SEQ, 8, name=n), shape=(BATCH, 1, SEQ, 8)) for n in ("cos", "sin"))
    program = d.program(d.emit("transpose", rotate(d, x, cos, sin), perm=HEADS))
    after = run(clean, run(raise_rotary, program).program).program
    assert ops(after) == ["rotary"]
    same_numbers(program, after)


@pytest.mark.parametrize("first", [True, False])
def test_rotary_on_some_features_only(first):
    d = Draft()
    x = d.x(BATCH, 3, SEQ, 12) if first else d.x(BATCH, SEQ, 3, 12)
    angles = (BATCH, 1, SEQ, 8) if first else (BATCH, SEQ, 1, 8)
    cos, sin = d.x(*angles, name="cos"), d.x(*angles, name="sin")
    part = rotate(d, d.emit("slice", x, axis=3, start=0, stop=8), cos, sin)
    rest = d.emit("slice", x, axis=3, start=8, stop=12)
    program = d.program(d.emit("concat", part, rest, axis=3))
    after = run(raise_rotary, program).program
    assert "concat" not in ops(after) and ops(after).count("rotary") == 1
    same_numbers(program, after)


def test_it_declines_unequal_halves():
    d = Draft()
    x = d.x(BATCH, 3, SEQ, 8)
    cos, sin = d.x(SEQ, 8, name="cos"), d.x(SEQ, 8, name="sin")
    done = run(raise_rotary, d.program(rotate(d, x, cos, sin, half=3)))
    assert only(texts(done), "rotary declined: it is cut at 3 of 8, not in halves")


def test_it_declines_angles_by_head():
    d = Draft()
    x = d.x(BATCH, 3, SEQ, 8)
    cos, sin = d.x(1, 3, SEQ, 8, name="cos"), d.x(1, 3, SEQ, 8, name="sin")
    said = texts(run(raise_rotary, d.program(rotate(d, x, cos, sin))))
    assert only(said, "which has no axis of length seq or 3 alone")


def test_it_declines_angles_of_two_shapes():
    d = Draft()
    x = d.x(BATCH, 3, SEQ, 8)
    program = d.program(rotate(d, x, d.x(SEQ, 8, name="cos"), d.x(BATCH, 1, SEQ, 8, name="sin")))
    assert only(texts(run(raise_rotary, program)), "rotary declined: cos is f32[seq, 8] and sin f32[batch, 1, seq, 8]")


def test_the_sides_swapped_are_another_function():
    d = Draft()
    x, cos, sin = d.x(BATCH, 3, SEQ, 8), d.x(SEQ, 8, name="cos"), d.x(SEQ, 8, name="sin")
    low, high = (d.emit("slice", x, axis=3, start=a, stop=a + 4) for a in (0, 4))
    other = d.emit("concat", high, d.emit("neg", low), axis=3)
    program = d.program(d.emit("add", d.emit("mul", x, cos), d.emit("mul", other, sin)))
    assert not run(raise_rotary, program).notes
