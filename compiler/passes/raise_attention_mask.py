"""What an attention's mask and bias say, read into its attributes: boolean masks, causality."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ...ir.dims import Dim
from ...ir.graph import Node, Value
from ..pattern import Match, Producers, Rule, rule, scalar


class Position(NamedTuple):
    """A value that is its index along one axis (counted from the end), plus an offset."""

    axis: int
    offset: Dim


def position(value: Value, made_by: Producers, depth: int = 0) -> Position | None:
    """Reads `iota`, put on an axis and perhaps shifted; None for anything else."""
    node = made_by.get(value)
    if node is None or depth > 8:
        return None
    if node.op.name == "iota":
        return Position(-1, node.attrs["start"]) if node.attrs["step"] == 1 else None
    if node.op.name in ("reshape", "expand", "cast"):
        inner = position(node.inputs[0], made_by, depth + 1) if node.inputs[0] is not None else None
        return None if inner is None else _placed(inner, node.inputs[0], value)
    if node.op.name in ("add", "sub"):
        return _shifted(node.op.name, node.inputs, made_by, depth)
    return None


def _placed(inner: Position, source: Value | None, value: Value) -> Position | None:
    """Where the axis of the index stands after a reshape or expand that puts ones around it."""
    assert source is not None
    before, after = source.type.shape, value.type.shape
    size = before[inner.axis]
    if value.type.rank >= source.type.rank and after[inner.axis:] == before[inner.axis:]:
        return inner
    own = [i - len(after) for i, d in enumerate(after) if d == size]
    rest_is_one = all(d == 1 for i, d in enumerate(after) if i - len(after) not in own)
    lone_before = all(d == 1 for i, d in enumerate(before) if i - len(before) != inner.axis)
    return Position(own[0], inner.offset) if len(own) == 1 and rest_is_one and lone_before else None


def _shifted(op: str, inputs: tuple[Value | None, ...], made_by: Producers, depth: int) -> Position | None:
    left, right = inputs
    assert left is not None and right is not None
    if op == "add" and position(left, made_by, depth + 1) is None:
        left, right = right, left
    base, by = position(left, made_by, depth + 1), _amount(right, made_by)
    if base is None or by is None:
        return None
    return Position(base.axis, base.offset + by if op == "add" else base.offset - by)


def _amount(value: Value, made_by: Producers) -> Dim | None:
    """A whole number, or a size."""
    number = scalar(value, made_by)
    if number is not None:
        return int(number) if number.is_integer() else None
    node = made_by.get(value)
    while node is not None and node.op.name in ("reshape", "expand", "cast"):
        node = made_by.get(node.inputs[0]) if node.inputs[0] is not None else None
    return node.attrs["dim"] if node is not None and node.op.name == "dim_value" else None


ORDER = {"ge": (0, False), "gt": (-1, False), "le": (0, True), "lt": (-1, True)}  # (slack, sides swapped)
OPPOSITE = {"ge": "lt", "lt": "ge", "gt": "le", "le": "gt"}  # of whole numbers


def is_causal(mask: Value, queries: Dim, keys: Dim, made_by: Producers) -> bool:
    """Whether a mask says exactly: key <= query + keys - queries."""
    node, negated = made_by.get(mask), False
    while node is not None and node.op.name in ("reshape", "expand", "not"):
        source = node.inputs[0]
        if source is None or source.type.shape[-2:] != mask.type.shape[-2:]:
            return False
        negated ^= node.op.name == "not"
        node = made_by.get(source)
    if node is None or node.op.name not in ORDER or mask.type.shape[-2:] != (queries, keys):
        return False
    return _slack(node, negated, made_by) == keys - queries


def _slack(node: Node, negated: bool, made_by: Producers) -> Dim | None:
    """By how much a key may be ahead of its query for a comparison of positions to hold; None if it is none of them."""
    slack, swapped = ORDER[OPPOSITE[node.op.name] if negated else node.op.name]
    left, right = (position(v, made_by) for v in node.inputs if v is not None)
    query, key = (right, left) if swapped else (left, right)
    if query is None or key is None or (query.axis, key.axis) != (-2, -1):
        return None
    return query.offset - key.offset + slack


def _causal(m: Match) -> str | None:
    holds = is_causal(m.mask, m.q.type.shape[1], m.k.type.shape[1], m.made_by)
    return None if holds else "the mask is not known to be causal"


@rule(
    lambda p, q, k, v, mask, bias, sinks: p.attention(q, k, v, mask, p.maybe(bias), p.maybe(sinks), causal=False),
    when=_causal,
)
def causal_mask(b: Any, m: Match) -> Value:
    """a causal mask is an attribute of attention"""
    return b.emit("attention", m.q, m.k, m.v, None, m.bias, m.sinks, **{**m.root.attrs, "causal": True})


@rule(
    lambda p, q, k, v, mask, rest, bias, sinks: p.attention(
        q, k, v, p.and_(mask, rest), p.maybe(bias), p.maybe(sinks), causal=False
    ),
    when=lambda m: _causal(m) or (None if m.rest.type.rank == 4 else "the rest of the mask has another rank"),
)
def causal_part(b: Any, m: Match) -> Value:
    """the causal part of a mask is an attribute of attention"""
    return b.emit("attention", m.q, m.k, m.v, m.rest, m.bias, m.sinks, **{**m.root.attrs, "causal": True})


def _is_boolean(m: Match) -> str | None:
    value = m.number_
    if not math.isinf(value) or value > 0:
        return f"the bias is {value} where it blocks, not -inf"
    return None


def _either_way(p: Any, allowed: Any, blocked: Any, number: Any) -> Any:
    choice = p.either(p.where(allowed, p.const(0), p.const(number)), p.where(blocked, p.const(number), p.const(0)))
    return p.either(choice, p.reshape(choice))


@rule(
    lambda p, q, k, v, allowed, blocked, number_, mask, sinks: p.attention(
        q, k, v, p.maybe(mask), _either_way(p, allowed, blocked, number_), p.maybe(sinks)
    ),
    when=_is_boolean,
)
def boolean_bias(b: Any, m: Match) -> Value:
    """a bias of 0 and -inf is a mask"""
    bias = m.root.inputs[4]
    assert bias is not None
    mask = m.allowed if m.allowed is not None else b.emit("not", m.blocked)
    mask = b.emit("reshape", b.emit("expand", mask, shape=_before(m)), shape=bias.type.shape)
    if m.mask is not None:
        given = m.mask
        if given.type.rank == 2:
            n, t = given.type.shape
            given = b.emit("reshape", given, shape=(n, 1, 1, t))
        mask = b.emit("and", given, mask)
    return b.emit("attention", m.q, m.k, m.v, mask, None, m.sinks, **m.root.attrs)


def _before(m: Match) -> tuple[Dim, ...]:
    """The shape of the `where`, before what reshaped it to four axes."""
    (choice,) = (n for n in m.nodes if n.op.name == "where")
    return choice.output.type.shape


MASK_RULES: tuple[Rule, ...] = (boolean_bias, causal_mask, causal_part)
