"""What an attention's mask and bias say, read into its attributes: boolean masks, causality."""

from __future__ import annotations

import math
from typing import Any

from ...ir.dims import Dim
from ...ir.graph import Value
from ..pattern import Match, Producers, Rule, rule
from ..rewriting import as_rank, pad_rank
from .positions import is_causal, rows_position, sees_own, window_of


def conjuncts(mask: Value, made_by: Producers) -> list[Value]:
    """The masks that this one is the conjunction of, through reshapes that only put ones in front."""
    node = made_by.get(mask)
    if node is not None and node.op.name == "and":
        return [part for v in node.inputs if v is not None for part in conjuncts(v, made_by)]
    if node is not None and node.op.name == "reshape" and node.inputs[0] is not None:
        source = node.inputs[0]
        parts = conjuncts(source, made_by)
        if len(parts) > 1 and pad_rank(source.type.shape, mask.type.rank) == mask.type.shape:
            return parts
    return [mask]


def _banded(m: Match) -> tuple[dict[str, Any], list[Value]]:
    """The attributes that parts of the mask are, and the parts that stay."""
    attrs, rest = dict(m.root.attrs), conjuncts(m.mask, m.made_by)
    lengths = m.q.type.shape[1], m.k.type.shape[1]
    if not attrs["causal"] and any(is_causal(p, *lengths, m.made_by) for p in rest):
        rest = [p for p in rest if not is_causal(p, *lengths, m.made_by)]
        attrs["causal"] = True
    windows = {p: window_of(p, *lengths, m.made_by) for p in rest} if attrs["causal"] else {}
    for part, reach in windows.items():
        if reach is not None:
            attrs["window"] = min(reach, attrs["window"] or reach)
            rest.remove(part)
    return attrs, rest


def _has_band(m: Match) -> str | None:
    if m.mask is None or m.mask.type.rank != 4:
        return "the mask is padding alone"
    return None if _banded(m)[0] != dict(m.root.attrs) else "the mask is not known to be causal"


@rule(
    lambda p, q, k, v, mask, bias, sinks: p.attention(q, k, v, mask, p.maybe(bias), p.maybe(sinks)), when=_has_band
)
def causal_mask(b: Any, m: Match) -> Value:
    """a causal mask is an attribute of attention"""
    attrs, rest = _banded(m)
    return b.emit("attention", m.q, m.k, m.v, _conjunction(b, rest), m.bias, m.sinks, **attrs)


def _has_positions(m: Match) -> str | None:
    if m.mask is None or m.mask.type.rank != 4:
        return "the mask is padding alone"
    return None if _at_positions(m)[0] is not None else "the mask is not known to be of each row's position"


def _at_positions(m: Match) -> tuple[Value | None, list[Value]]:
    """The position of each row that a part of the mask is of, and the parts that stay."""
    lengths, rest, position = (m.q.type.shape[1], m.k.type.shape[1]), conjuncts(m.mask, m.made_by), None
    for part in rest if not m.root.attrs["causal"] else ():
        position = rows_position(part, *lengths, m.made_by)
        if position is not None:
            return position, [p for p in rest if p is not part]
    return None, rest


@rule(
    lambda p, q, k, v, mask, bias, sinks: p.attention(q, k, v, mask, p.maybe(bias), p.maybe(sinks)),
    when=_has_positions,
)
def position_mask(b: Any, m: Match) -> Value:
    """a causal mask of each row's position is an input of attention"""
    position, rest = _at_positions(m)
    attrs = {**m.root.attrs, "causal": True}
    return b.emit("attention", m.q, m.k, m.v, _conjunction(b, rest), m.bias, m.sinks, position, **attrs)


def _conjunction(b: Any, parts: list[Value]) -> Value | None:
    """Masks as one of rank 4."""
    mask = None
    for part in parts:
        part = as_rank(b, part, 4)
        mask = part if mask is None else b.emit("and", mask, part)
    return mask


NOTHING = -1e9  # a finite fill at or below this leaves a masked key no weight in f32, as -inf does


def _is_boolean(m: Match) -> str | None:
    value = m.number_
    if value == -math.inf or (value <= NOTHING and m.mask is None and m.sinks is None and _sees_itself(m)):
        return None
    return f"the bias is {value} where it blocks, not -inf"


def _sees_itself(m: Match) -> bool:
    """Whether the choice lets each query see its own key, so that none is without one."""
    s, t = m.q.type.shape[1], m.k.type.shape[1]
    chosen, negated = (m.blocked, True) if m.allowed is None else (m.allowed, False)
    if s == t and sees_own(chosen, s, m.made_by, negated):
        return True
    position = rows_position(chosen, s, t, m.made_by, negated)
    return position is not None and position is _written_at(m.k, s, m.made_by)


def _written_at(keys: Value, length: Dim, made_by: Producers) -> Value | None:
    """Where in a cache so many of these keys were just written, so that the places from there on are among them."""
    node = made_by.get(keys)
    while node is not None and node.op.name in ("transpose", "reshape") and node.inputs[0] is not None:
        node = made_by.get(node.inputs[0])
    if node is None or node.op.name != "cache_write" or node.input_types[1].shape[node.attrs["axis"]] != length:  # type: ignore[union-attr]
        return None
    return node.inputs[2]


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
    return with_mask(b, m, bias, None)


def with_mask(b: Any, m: Match, choice: Value, bias: Value | None) -> Value:
    """The attention with a choice between 0 and -inf, matched as `_either_way`, as one more mask."""
    mask = m.allowed if m.allowed is not None else b.emit("not", m.blocked)
    mask = b.emit("reshape", b.emit("expand", mask, shape=_before(m)), shape=pad_rank(choice.type.shape, 4))
    if m.mask is not None:
        given = m.mask
        if given.type.rank == 2:
            n, t = given.type.shape
            given = b.emit("reshape", given, shape=(n, 1, 1, t))
        mask = b.emit("and", given, mask)
    return b.emit("attention", m.q, m.k, m.v, mask, bias, m.sinks, **m.root.attrs)


def _before(m: Match) -> tuple[Dim, ...]:
    """The shape of the `where`, before what reshaped it to four axes."""
    (choice,) = (n for n in m.nodes if n.op.name == "where")
    return choice.output.type.shape


MASK_RULES: tuple[Rule, ...] = (boolean_bias, causal_mask, position_mask)
