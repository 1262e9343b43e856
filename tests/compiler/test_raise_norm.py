"""Norms written out become ops, decline with a reason, and give the same numbers on ordinary and extreme rows."""

from __future__ import annotations

import numpy as np
import pytest
from compiler_kit import BATCH, SEQ, Draft, arrays, only, ops, run, same_numbers, texts

from tundish.compiler.passes.raise_norm import raise_norm
from tundish.ir.dtypes import bf16, f32


def mean_square(d, x, eps=1e-5, axes=(-1,), square="mul"):
    squared = d.emit("mul", x, x) if square == "mul" else d.emit("pow", x, d.constant(2, f32))
    return d.emit("add", d.emit("mean", squared, axes=axes, keepdims=True), d.constant(eps, f32))


def by_rsqrt(d, x, inside):
    return d.emit("mul", x, d.emit("rsqrt", inside))


def by_div(d, x, inside):
    return d.emit("div", x, d.emit("sqrt", inside))


def by_reciprocal(d, x, inside):
    return d.emit("mul", d.emit("reciprocal", d.emit("sqrt", inside)), x)


WRITTEN = [by_rsqrt, by_div, by_reciprocal]


def extremes(program):
    """Rows of zeros, of equal numbers, of large and of tiny ones."""
    given = arrays(program, batch=2, seq=5)
    x = given["x"]
    x[0, 0], x[0, 1], x[0, 2], x[0, 3] = 0, 7, 1e4 * x[0, 2], 1e-6 * x[0, 3]
    return given, arrays(program, seed=3), arrays(program, batch=1, seq=1)


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("square", ["mul", "pow"])
@pytest.mark.parametrize("weight_first", [True, False])
def test_rms_norm_fires_and_keeps_the_numbers(written, square, weight_first):
    d = Draft()
    x, w = d.x(BATCH, SEQ, 8), d.weight("w", 8)
    y = written(d, x, mean_square(d, x, axes=(2,), square=square))
    program = d.program(d.emit("mul", *((w, y) if weight_first else (y, w))))
    done = run(raise_norm, program)
    assert ops(done.program) == ["rms_norm"]
    assert done.program.entry.nodes[-1].attrs["eps"] == 1e-5
    assert texts(done) == ["x / sqrt(mean(x²) + eps) · weight is one rms_norm"]
    same_numbers(program, done.program, *extremes(program))


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm_fires_and_keeps_the_numbers(written, bias):
    d = Draft()
    x, w = d.x(BATCH, SEQ, 8), d.weight("w", 8)
    centred = d.emit("sub", x, d.emit("mean", x, axes=(-1,), keepdims=True))
    y = d.emit("mul", w, written(d, centred, mean_square(d, centred)))
    program = d.program(d.emit("add", y, d.weight("b", 8)) if bias else y)
    done = run(raise_norm, program)
    assert ops(done.program) == ["layer_norm"]
    assert len(done.notes) == 1
    same_numbers(program, done.program, *extremes(program))


def test_the_casts_of_a_bf16_model_are_part_of_the_norm():
    d = Draft()
    x, w = d.x(BATCH, SEQ, 8, dtype=bf16), d.weight("w", 8, dtype=bf16)
    wide = d.emit("cast", x, dtype=f32)
    y = d.emit("cast", by_rsqrt(d, wide, mean_square(d, wide, square="pow")), dtype=bf16)
    program = d.program(d.emit("mul", w, y))
    done = run(raise_norm, program)
    assert ops(done.program) == ["rms_norm"]
    same_numbers(program, done.program)


def test_a_norm_that_stays_wide_keeps_its_cast_before_it():
    d = Draft()
    wide = d.emit("cast", d.x(BATCH, SEQ, 8, dtype=bf16), dtype=f32)
    program = d.program(d.emit("mul", d.weight("w", 8), by_rsqrt(d, wide, mean_square(d, wide))))
    done = run(raise_norm, program)
    assert ops(done.program) == ["cast", "rms_norm"]
    same_numbers(program, done.program)


def test_the_weight_may_be_an_expression_as_in_gemma():
    d = Draft()
    x, w = d.x(BATCH, SEQ, 8), d.weight("w", 8)
    y = by_rsqrt(d, x, mean_square(d, x))
    program = d.program(d.emit("mul", y, d.emit("add", w, d.constant(1, f32))))
    done = run(raise_norm, program)
    assert ops(done.program) == ["add", "rms_norm"]
    same_numbers(program, done.program)


def test_it_declines_what_is_scaled_by_row_with_the_reason_and_place():
    d = Draft()
    x = d.x(BATCH, SEQ, 8)
    program = d.program(d.emit("mul", d.x(BATCH, SEQ, 1, name="w"), by_rsqrt(d, x, mean_square(d, x))))
    done = run(raise_norm, program)
    assert "rms_norm" not in ops(done.program)
    (note,) = done.notes
    assert "its parameter is f32[batch, seq, 1], not one number per feature" in note.text
    assert str(note.where) == "model.py:7 block"


def test_it_declines_a_negative_eps():
    d = Draft()
    x = d.x(BATCH, SEQ, 8)
    program = d.program(d.emit("mul", d.weight("w", 8), by_rsqrt(d, x, mean_square(d, x, eps=-1.0))))
    assert only(texts(run(raise_norm, program)), "rms_norm declined: eps is -1.0")


def test_it_declines_statistics_that_others_read():
    d = Draft()
    x = d.x(BATCH, SEQ, 8)
    inside = mean_square(d, x)
    program = d.program(d.emit("mul", d.weight("w", 8), by_rsqrt(d, x, inside)), inside)
    assert only(texts(run(raise_norm, program)), "(add) inside is used elsewhere")


@pytest.mark.parametrize("axes", [(1,), (0, 2)])
def test_a_mean_over_other_axes_is_no_norm(axes):
    d = Draft()
    x = d.x(BATCH, 8, 8)
    program = d.program(d.emit("mul", d.weight("w", 8), by_rsqrt(d, x, mean_square(d, x, axes=axes))))
    assert not run(raise_norm, program).notes


def test_another_square_root_is_no_norm():
    d = Draft()
    x, other = d.x(BATCH, SEQ, 8), d.x(BATCH, SEQ, 8, name="other")
    program = d.program(d.emit("mul", d.weight("w", 8), by_rsqrt(d, other, mean_square(d, x))))
    done = run(raise_norm, program)
    assert not done.notes
    assert np.array_equal(ops(done.program), ops(program))
