"""GELU and SiLU, written out, to the ops of those names."""

from __future__ import annotations

import math
from typing import Any

from ...ir.graph import Program, Value
from ..pattern import Match, Rule, rule
from ..rewriting import Rewritten, rewrite_by_rules
from ..task import Task
from .registry import rewrite

SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
CUBE = 0.044715  # Hendrycks and Gimpel 2016, "Gaussian Error Linear Units"


def _half_of(p: Any, x: Any, one_plus: Any) -> Any:
    """0.5 · x · (1 + ...), in every order of the products."""
    half = p.either(p.mul(x, p.const(0.5)), p.div(x, p.const(2)))
    return p.either(
        p.mul(half, one_plus), p.mul(p.mul(x, one_plus), p.const(0.5)), p.mul(x, p.mul(one_plus, p.const(0.5)))
    )


def _tanh_argument(p: Any, x: Any) -> Any:
    """sqrt(2/π) · (x + 0.044715 x³), as transformers' NewGELU and FastGELU write it."""
    square = p.either(p.mul(x, x), p.pow(x, p.const(2)))
    cube = p.either(p.pow(x, p.const(3)), p.mul(x, square))
    summed = p.add(x, p.mul(cube, p.const(CUBE)))
    one_plus = p.add(p.either(p.mul(p.mul(x, p.const(CUBE)), x), p.mul(square, p.const(CUBE))), p.const(1))
    return p.either(
        p.mul(summed, p.const(SQRT_2_OVER_PI)),
        p.mul(p.mul(x, p.const(SQRT_2_OVER_PI)), one_plus),
        p.mul(x, p.mul(one_plus, p.const(SQRT_2_OVER_PI))),
    )


@rule(lambda p, x: _half_of(p, x, p.add(p.tanh(_tanh_argument(p, x)), p.const(1))))
def gelu_tanh(b: Any, m: Match) -> Value:
    """0.5 x (1 + tanh(...)) is one gelu, approximate"""
    return b.emit("gelu", m.x, approximate="tanh")


def _erf_of(p: Any, x: Any) -> Any:
    return p.erf(p.either(p.div(x, p.const(math.sqrt(2))), p.mul(x, p.const(math.sqrt(0.5)))))


@rule(lambda p, x: _half_of(p, x, p.add(_erf_of(p, x), p.const(1))))
def gelu_erf(b: Any, m: Match) -> Value:
    """0.5 x (1 + erf(x / sqrt 2)) is one gelu"""
    return b.emit("gelu", m.x, approximate="none")


@rule(lambda p, x: p.mul(x, p.sigmoid(x)))
def silu(b: Any, m: Match) -> Value:
    """x · sigmoid(x) is one silu"""
    return b.emit("silu", m.x)


@rule(lambda p, x: p.either(
    p.div(x, p.add(p.exp(p.neg(x)), p.const(1))),
    p.mul(x, p.reciprocal(p.add(p.exp(p.neg(x)), p.const(1)))),
))  # fmt: skip
def silu_of_exp(b: Any, m: Match) -> Value:
    """x / (1 + exp(-x)) is one silu"""
    return b.emit("silu", m.x)


RULES: tuple[Rule, ...] = (gelu_tanh, gelu_erf, silu, silu_of_exp)


@rewrite("raise_activation", optimizes=True)
def raise_activation(program: Program, task: Task) -> Rewritten:
    """Each form with the constants as f32 rounds them."""
    return rewrite_by_rules(program, "raise_activation", RULES)
