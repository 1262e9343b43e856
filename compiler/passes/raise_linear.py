"""Products with a matrix, in the ways in which they are written, to `linear`."""

from __future__ import annotations

from typing import Any

from ...ir.graph import Program, Value
from ..pattern import Match, Rule, rule
from ..rewriting import Rewritten, rewrite_by_rules
from ..task import Task
from .registry import rewrite


def _is_matrix(m: Match) -> str | None:
    return None if m.weight.type.rank == 2 else f"the right side is {m.weight.type}, not one matrix"


@rule(lambda p, x, weight: p.matmul(x, weight), when=_is_matrix)
def matmul_is_linear(b: Any, m: Match) -> Value:
    """a product with one matrix is a linear"""
    return b.emit("linear", m.x, m.weight)


def _is_bias(m: Match) -> str | None:
    fits = m.bias.type.shape == m.weight.type.shape[1:] and m.bias.type.dtype == m.root.output.type.dtype
    return None if fits else f"what is added is {m.bias.type}, not one number per feature"


@rule(lambda p, x, weight, bias: p.add(p.linear(x, weight), bias), when=_is_bias)
def add_is_bias(b: Any, m: Match) -> Value:
    """a vector added to a linear is its bias"""
    return b.emit("linear", m.x, m.weight, m.bias)


def _keeps_features(m: Match) -> str | None:
    n = m.weight.type.shape[1]
    return None if m.root.output.type.shape[-1:] == (n,) else f"the {n} features do not stay one axis"


@rule(
    lambda p, x, weight, bias: p.reshape(p.linear(p.reshape(x), weight, p.maybe(bias))), when=_keeps_features
)
def linear_of_rows(b: Any, m: Match) -> Value:
    """a linear on flattened rows works on the rows where they are"""
    rows = b.emit("reshape", m.x, shape=(*m.root.output.type.shape[:-1], m.weight.type.shape[0]))
    return b.emit("linear", rows, m.weight, m.bias)


RULES: tuple[Rule, ...] = (linear_of_rows, add_is_bias, matmul_is_linear)
QUIET = ("matmul_is_linear", "add_is_bias", "linear_of_rows")  # most products, sums and reshapes are meant as they are


@rewrite("raise_linear", optimizes=True)
def raise_linear(program: Program, task: Task) -> Rewritten:
    """matmul (+ add) with a matrix -> linear; GPT-2's flattened rows are worked on in place."""
    return rewrite_by_rules(program, "raise_linear", RULES, quiet=QUIET)
