"""Sums that are attention's bias: their parts put apart, so that what is a mask in them can be read as one."""

from __future__ import annotations

from typing import Any

from ...ir.graph import Value
from ..pattern import Match, Rule, rule
from .raise_attention_mask import _either_way, _is_boolean, with_mask


def _merged(m: Match) -> str | None:
    """Whether a sum [b·h, s, t] becomes [b, h, s, t], and each of its parts can on its own."""
    bias = m.root.inputs[4]
    assert bias is not None
    total = m.one.type.shape[:1] if m.one.type.shape[0] != 1 else m.two.type.shape[:1]
    if bias.type.rank != 4 or not m.one.type.rank == m.two.type.rank == 3:
        return "it is no sum of merged heads"
    b, h = bias.type.shape[:2]
    return None if total[0] == b * h else "what is merged is not rows and heads"


@rule(
    lambda p, q, k, v, mask, one, two, sinks: p.attention(
        q, k, v, p.maybe(mask), p.reshape(p.add(one, two)), p.maybe(sinks)
    ),
    when=_merged,
)
def merged_heads(b: Any, m: Match) -> Value:
    """a sum of biases over merged heads is one over rows and heads"""
    bias = m.root.inputs[4]
    assert bias is not None
    rows = bias.type.shape[:2]
    parts = [
        b.emit("reshape", x, shape=((1, 1) if x.type.shape[0] == 1 else rows) + x.type.shape[1:])
        for x in (m.one, m.two)
    ]
    return b.emit("attention", m.q, m.k, m.v, m.mask, b.emit("add", *parts), m.sinks, **m.root.attrs)


@rule(
    lambda p, q, k, v, mask, allowed, blocked, number_, rest, sinks: p.attention(
        q, k, v, p.maybe(mask), p.add(_either_way(p, allowed, blocked, number_), rest), p.maybe(sinks)
    ),
    when=lambda m: _is_boolean(m) or (None if m.rest.type.rank == 4 else "the rest of the bias has another rank"),
)
def boolean_part(b: Any, m: Match) -> Value:
    """the part of a bias that is 0 and -inf is a mask"""
    (total,) = (n for n in m.nodes if n.op.name == "add")
    (choice,) = (v for v in total.inputs if v is not None and v is not m.rest)
    return with_mask(b, m, choice, m.rest)


BIAS_RULES: tuple[Rule, ...] = (boolean_part, merged_heads)
