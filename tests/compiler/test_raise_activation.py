"""GELU and SiLU in every order in which models write them; near misses stay as they are."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from compiler_kit import Draft, ops, run, same_numbers, texts

from tundish.compiler.passes.raise_activation import raise_activation
from tundish.ir.dtypes import f32


def halves(d, x, inner, order):
    """0.5 · x · (1 + inner), associated in three ways."""
    half, one_plus = d.constant(0.5, f32), d.emit("add", d.constant(1, f32), inner)
    if order == 0:
        return d.emit("mul", d.emit("mul", half, x), one_plus)
    if order == 1:
        return d.emit("mul", half, d.emit("mul", x, one_plus))
    return d.emit("mul", x, d.emit("mul", one_plus, half))


def cube(d, x, way):
    if way == "pow":
        return d.emit("pow", x, d.constant(3, f32))
    return d.emit("mul", d.emit("mul", x, x), x)


def new_gelu(d, x, way, constant=0.044715):
    inner = d.emit("add", x, d.emit("mul", d.constant(constant, f32), cube(d, x, way)))
    return d.emit("tanh", d.emit("mul", d.constant(math.sqrt(2 / math.pi), f32), inner))


def fast_gelu(d, x):
    """x · 0.7978845608 · (1 + 0.044715 · x · x), as FastGELU writes it."""
    one_plus = d.emit("add", d.constant(1, f32), d.emit("mul", d.emit("mul", d.constant(0.044715, f32), x), x))
    return d.emit("tanh", d.emit("mul", d.emit("mul", x, d.constant(0.7978845608, f32)), one_plus))


def erf(d, x, way):
    if way == "div":
        return d.emit("erf", d.emit("div", x, d.constant(1.4142135381698608, f32)))
    return d.emit("erf", d.emit("mul", x, d.constant(0.7071067811865476, f32)))


def check(program, op, given=None):
    done = run(raise_activation, program)
    assert ops(done.program) == [op]
    assert len(done.notes) == 1
    wide = {"x": np.array([0, -0.0, 1, -1, 8, -8, 50, -50, 1e-8, 300, -300, 3.5], np.float32).reshape(3, 4)}
    same_numbers(program, done.program, wide, {"x": wide["x"] * 1e3}, tolerance=1e-6)
    return done.program.entry.nodes[-1]


@pytest.mark.parametrize(("order", "way"), list(itertools.product(range(3), ["pow", "mul"])))
def test_new_gelu(order, way):
    d = Draft()
    x = d.x(3, 4)
    assert check(d.program(halves(d, x, new_gelu(d, x, way), order)), "gelu").attrs["approximate"] == "tanh"


def test_fast_gelu():
    d = Draft()
    x = d.x(3, 4)
    assert check(d.program(halves(d, x, fast_gelu(d, x), 0)), "gelu").attrs["approximate"] == "tanh"


@pytest.mark.parametrize(("order", "way"), list(itertools.product(range(3), ["div", "mul"])))
def test_gelu_by_erf(order, way):
    d = Draft()
    x = d.x(3, 4)
    assert check(d.program(halves(d, x, erf(d, x, way), order)), "gelu").attrs["approximate"] == "none"


def test_silu():
    d = Draft()
    x = d.x(3, 4)
    check(d.program(d.emit("mul", d.emit("sigmoid", x), x)), "silu")


def test_silu_by_exp():
    d = Draft()
    x = d.x(3, 4)
    program = d.program(d.emit("div", x, d.emit("add", d.constant(1, f32), d.emit("exp", d.emit("neg", x)))))
    done = run(raise_activation, program)
    assert ops(done.program) == ["silu"]
    same_numbers(program, done.program)


@pytest.mark.parametrize("constant", [0.0447, 0.05])
def test_another_constant_is_no_gelu(constant):
    d = Draft()
    x = d.x(3, 4)
    done = run(raise_activation, d.program(halves(d, x, new_gelu(d, x, "pow", constant), 0)))
    assert "gelu" not in ops(done.program) and not done.notes


def test_quick_gelu_is_no_silu():
    d = Draft()
    x = d.x(3, 4)
    program = d.program(d.emit("mul", x, d.emit("sigmoid", d.emit("mul", x, d.constant(1.702, f32)))))
    assert not run(raise_activation, program).notes


def test_a_sigmoid_that_others_read_stays():
    d = Draft()
    x = d.x(3, 4)
    gate = d.emit("sigmoid", x)
    done = run(raise_activation, d.program(d.emit("mul", x, gate), gate))
    assert texts(done) == [f"silu declined: %{gate.name} (sigmoid) inside is used elsewhere"]
