"""Attention, written out as products and a softmax, to `attention` on [batch, length, heads, size]."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ...ir import dims
from ...ir.dims import Dim
from ...ir.graph import Graph, Node, Program, Value, producers
from ..pattern import Match, Producers, Rule, rule
from ..rewriting import Event, Rewritten, apply_rules, as_rank, pad_rank, rewrite_graphs
from ..task import Task
from .clean_moves import drop_same, drop_transpose, merge_reshapes, merge_transposes
from .positions import sees_own
from .raise_attention_bias import BIAS_RULES
from .raise_attention_mask import MASK_RULES, NOTHING, conjuncts
from .registry import rewrite

HEADS_FIRST = (0, 2, 1, 3)


def _scores(p: Any, q: Any, k: Any, first: Any, scale: Any, divisor: Any, factor: Any, cap: Any) -> Any:
    """q kᵀ, perhaps with a first bias, scaled by a number or by one for each head or query, perhaps capped."""
    s = p.maybe_cast(p.matmul(q, k))
    s = p.either(p.add(s, first), s)
    s = p.either(p.mul(s, p.const(scale)), p.div(s, p.const(divisor)), p.mul(s, factor), s)
    return p.either(p.mul(p.tanh(p.div(s, p.const(cap))), p.const(cap)), s)


def _masked(p: Any, s: Any, mask: Any, blocked: Any, more: Any, also: Any, fill: Any, bias: Any, late: Any) -> Any:
    """Bias and one or two masks on the scores, in either order."""
    s = p.either(p.add(s, bias), s)
    s = p.either(p.where(mask, s, p.const(fill)), p.where(blocked, p.const(fill), s), s)
    s = p.either(p.where(more, s, p.const(fill)), p.where(also, p.const(fill), s), s)
    return p.either(p.add(s, late), s)


def _draw(p: Any, q: Any, k: Any, v: Any, first: Any, scale: Any, divisor: Any, factor: Any, cap: Any,
          early: Any, mask: Any, blocked: Any, more: Any, also: Any, fill: Any, bias: Any,
          late: Any) -> Any:  # fmt: skip
    """With heads folded into the batch for the products, scores may be viewed apart for the mask."""
    s = p.maybe_cast(_scores(p, q, k, first, scale, divisor, factor, cap))
    s = p.either(p.reshape(p.add(s, early)), s)
    s = _masked(p, p.either(p.reshape(s), s), mask, blocked, more, also, fill, bias, late)
    s = p.maybe_cast(p.either(p.reshape(s), s))
    w = p.maybe_cast(p.softmax(s, axis=-1))
    return p.matmul(p.either(p.reshape(w), w), v)


def _is_attention(m: Match) -> str | None:
    lead, shared = m.q.type.shape[:-2], m.k.type.shape[:-2]
    if not {m.q.type.rank, m.k.type.rank, m.v.type.rank} <= {3, 4, 5}:
        return f"q, k and v are {m.q.type}, {m.k.type} and {m.v.type}"
    if m.v.type.shape[:-2] != shared or (shared != lead and shared != (*lead[:-1], 1)) or len(lead) != len(shared):
        return "q, k and v have different leading axes"
    if not all(isinstance(n, int) for n in lead[1:]):
        return f"the number of heads, {lead[-1]}, is not fixed"
    if m.root.output.type.dtype != m.q.type.dtype:
        return f"it turns {m.q.type.dtype} into {m.root.output.type.dtype}"
    if m.first is not None and (m.cap or m.factor is not None):
        return "a bias is added before the scores are capped, or scaled by more than a number"
    return _factor_fits(m) or _views_fit(m) or _fill_fits(m) or _extras_fit(m)


def _factor_fits(m: Match) -> str | None:
    """Whether a factor of the scores may be one of the queries instead."""
    if m.factor is None:
        return None
    rows = (*m.q.type.shape[:-1], 1)
    same = m.factor.type.dtype == m.q.type.dtype
    if not same or m.factor.type.rank > len(rows) or not _fits(m.factor.type.shape, rows):
        return f"the scores are scaled by {m.factor.type}"
    return None


def _fits(shape: tuple[Dim, ...], target: tuple[Dim, ...]) -> bool:
    """Whether a shape broadcasts to another."""
    return all(a in (1, b) for a, b in zip(pad_rank(shape, len(target)), target, strict=True))


def _views_fit(m: Match) -> str | None:
    """Whether reshapes of the scores, if any, only take batch and heads apart, and back together."""
    shapes = {n.output.type.shape for n in m.nodes if n.op.name == "reshape"}
    whole = (*m.q.type.shape[:-1], m.k.type.shape[-1])
    apart = shapes - {whole}
    if not apart:
        return None
    if len(apart) != 1 or m.q.type.rank != 3:
        return "the scores are reshaped on their way"
    (shape,) = apart
    fits = len(shape) == 4 and shape[2:] == whole[1:] and shape[0] * shape[1] == whole[0] and isinstance(shape[1], int)
    return None if fits else f"the scores are seen as {list(map(str, shape))}"


def _fill_fits(m: Match) -> str | None:
    """Whether a masked key has no weight, and a row without any other is one that the rewrite can spell."""
    if m.fill is None or not math.isfinite(m.fill):
        return None
    if m.fill > NOTHING:
        return f"masked scores are filled with {m.fill}, which still gives them weight; fill with -inf"
    if m.late is not None and not _always_sees(m):
        # How much of the bias survives that sum is rounding: none of it by f32's least number, some by -1e9.
        return f"a bias is added after masked scores were filled with {m.fill}; add it before, or fill with -inf"
    return None


def _extras_fit(m: Match) -> str | None:
    """Whether mask and bias broadcast to the scores, and are of the kind that they must be."""
    named = [("mask", x) for x in (m.mask, m.blocked, m.more, m.also)]
    named += [("bias", x) for x in (m.first, m.early, m.bias, m.late)]
    for what, value in named:
        if value is None:
            continue
        scores = _met(m, value)
        if value.type.rank > len(scores) or not _fits(value.type.shape, scores):
            return f"the {what} {value.type} is larger than the scores"
    return None


def _met(m: Match, extra: Value) -> tuple[Dim, ...]:
    """The shape of the scores where a mask or bias meets them."""
    (node,) = (n for n in m.nodes if n.op.name in ("add", "where") and extra in n.inputs)
    others = [v for v in node.inputs if v is not None and v is not extra and v.type.rank >= 3]
    made = {n.output for n in m.nodes}
    return next(v.type.shape for v in others if v in made)


@rule(_draw, when=_is_attention)
def attention(b: Any, m: Match) -> Value:
    """softmax(q kᵀ) v is one attention"""
    heads = Heads.of(m)
    query = m.q if m.factor is None else b.emit("mul", m.q, m.factor)
    rows = _turned_last(m)
    k = heads.keys(b, m.k) if rows is None else heads.values(b, rows)
    q, v = heads.queries(b, query), heads.values(b, m.v)
    mask, bias = _seen(b, m, heads), _bias(b, m, heads)
    if mask is not None and math.isfinite(m.fill) and not _always_sees(m):
        q, bias, mask = _uniform_where_blind(b, q, bias, mask)
    out = b.emit("attention", q, k, v, mask, bias, scale=_scale(m), softcap=m.cap or 0.0)
    return heads.joined(b, out, m.root.output.type.shape)


def _turned_last(m: Match) -> Value | None:
    """The keys [..., t, d] that were transposed to [..., d, t] for the product; None where they were not."""
    node, rank = m.made_by.get(m.k), m.k.type.rank
    swap = (*range(rank - 2), rank - 1, rank - 2)
    return node.inputs[0] if node is not None and node.op.name == "transpose" and node.attrs["perm"] == swap else None


@dataclass(frozen=True, slots=True)
class Heads:
    """How leading axes are a batch and heads: `outer` are those of the queries, `groups` the heads of keys and values.

    [n, s, d] is [n, 1, s, d], or [b, h, s, d] where the scores are viewed so; [b, g, n, s, d] is [b, g · n, s, d].
    """

    batch: Dim
    heads: Dim
    groups: Dim
    rank: int

    @classmethod
    def of(cls, m: Match) -> Heads:
        lead, shared = m.q.type.shape[:-2], m.k.type.shape[:-2]
        apart = [n.output.type.shape for n in m.nodes if n.op.name == "reshape" and n.output.type.rank == 4]
        if len(lead) == 1:
            batch, heads = apart[0][:2] if apart else (lead[0], 1)
            return cls(batch, heads, heads, 3)
        return cls(lead[0], dims.product(lead[1:]), dims.product(shared[1:]), len(lead) + 2)

    def queries(self, b: Any, x: Value) -> Value:
        return self._last(b, x, self.heads)

    def values(self, b: Any, x: Value) -> Value:
        return self._last(b, x, self.groups)

    def keys(self, b: Any, x: Value) -> Value:
        """[..., d, t] -> [batch, t, groups, d]."""
        if self.rank == 3 and self.heads == 1:
            return self._last(b, b.emit("transpose", x, perm=(0, 2, 1)), 1)
        return b.emit("transpose", self._four(b, x, self.groups), perm=(0, 3, 1, 2))

    def joined(self, b: Any, y: Value, shape: tuple[Dim, ...]) -> Value:
        """[batch, s, heads, e] -> the shape that the product had."""
        if self.rank == 3 and self.heads == 1:
            return b.emit("reshape", y, shape=shape)
        return _reshaped(b, b.emit("transpose", y, perm=HEADS_FIRST), shape)

    def scores(self, b: Any, x: Value, met: tuple[Dim, ...]) -> Value:
        """A mask or bias that broadcasts to scores of the shape `met`, as one that does to [batch, heads, s, t]."""
        lead, (s, t) = pad_rank(x.type.shape, len(met))[:-2], pad_rank(x.type.shape, 2)[-2:]
        if len(lead) == 2:
            return as_rank(b, x, 4)
        if len(lead) == 1:
            return b.emit("reshape", x, shape=(1, 1, s, t) if lead[0] == 1 else (self.batch, self.heads, s, t))
        if lead[1:] != (1, 1) and lead[1:] != met[1:-2]:
            x, lead = b.emit("expand", as_rank(b, x, 5), shape=(lead[0], *met[1:-2], s, t)), (lead[0], *met[1:-2])
        return b.emit("reshape", x, shape=(lead[0], dims.product(lead[1:]), s, t))

    def _four(self, b: Any, x: Value, heads: Dim) -> Value:
        return _reshaped(b, x, (self.batch, heads, *x.type.shape[-2:]))

    def _last(self, b: Any, x: Value, heads: Dim) -> Value:
        """[..., s, d] -> [batch, s, heads, d]."""
        if self.rank == 3 and heads == 1:
            n, s, d = x.type.shape
            return b.emit("reshape", x, shape=(n, s, 1, d))
        return b.emit("transpose", self._four(b, x, heads), perm=HEADS_FIRST)


def _reshaped(b: Any, x: Value, shape: tuple[Dim, ...]) -> Value:
    return x if x.type.shape == shape else b.emit("reshape", x, shape=shape)


def _seen(b: Any, m: Match, heads: Heads) -> Value | None:
    """All masks in one, true where a key may be seen."""
    parts = [(x, False) for x in (m.mask, m.more) if x is not None]
    parts += [(x, True) for x in (m.blocked, m.also) if x is not None]
    seen = None
    for part, negated in parts:
        part = heads.scores(b, b.emit("not", part) if negated else part, _met(m, part))
        seen = part if seen is None else b.emit("and", seen, part)
    return seen


def _bias(b: Any, m: Match, heads: Heads) -> Value | None:
    total = None
    for part in (m.first, m.early, m.bias, m.late):
        if part is not None:
            met = _met(m, part)
            if part is m.first and _scale(m) != 1.0:
                part = b.emit("mul", part, b.constant(_scale(m), part.type.dtype))
            part = part if part.type.dtype == m.q.type.dtype else b.emit("cast", part, dtype=m.q.type.dtype)
            part = heads.scores(b, part, met)
            total = part if total is None else b.emit("add", total, part)
    return total


def _scale(m: Match) -> float:
    if m.divisor is not None:
        return 1.0 / m.divisor
    return 1.0 if m.scale is None else m.scale


def _always_sees(m: Match) -> bool:
    """Whether every query sees a key: as many queries as keys, and every mask a band that holds a query's own."""
    masks = [(part, False) for x in (m.mask, m.more) if x is not None for part in conjuncts(x, m.made_by)]
    masks += [(x, True) for x in (m.blocked, m.also) if x is not None]
    same = m.q.type.shape[-2] == m.k.type.shape[-1]
    return same and all(sees_own(x, m.q.type.shape[-2], m.made_by, negated) for x, negated in masks)


def _uniform_where_blind(b: Any, q: Value, bias: Value | None, mask: Value) -> tuple[Value, Value | None, Value]:
    """With a finite fill a row that sees nothing looks at every key alike: no query, no bias and an open mask."""
    sees = b.emit("any", mask, axes=(3,), keepdims=True)
    by_query = b.emit("transpose", sees, perm=HEADS_FIRST)
    zero = b.constant(0.0, q.type.dtype)
    if bias is not None:
        bias = b.emit("where", sees, bias, zero)
    return b.emit("where", by_query, q, zero), bias, b.emit("or", mask, b.emit("not", sees))


@rule(
    lambda p, s: p.softmax(p.sub(s, p.max(s, axes=(-1,), keepdims=True)), axis=-1),
    when=lambda m: None if m.s.type == m.root.output.type else "the shift changes the type",
)
def shifted_softmax(b: Any, m: Match) -> Value:
    """a softmax of scores less their greatest is the softmax of the scores"""
    return b.emit("softmax", m.s, axis=-1)


def _shared_heads(p: Any, x: Any, five: Any, wide: Any, shape: Any) -> Any:
    """transformers' repeat_kv: [b, g, t, d] -> [b, g, 1, t, d] -> [b, g, n, t, d] -> [b, g·n, t, d] -> heads last."""
    repeated = p.reshape(p.expand(p.reshape(x, shape=five), shape=wide), shape=shape)
    return p.transpose(repeated, perm=HEADS_FIRST)


def _repeats(m: Match) -> str | None:
    for x, five, wide in ((m.k, m.five, m.wide), (m.v, m.v_five, m.v_wide)):
        if x.type.rank != 4 or len(five) != 5 or len(wide) != 5:
            return "what is repeated is not [batch, heads, length, size]"
        b, g, t, d = x.type.shape
        if five != (b, g, 1, t, d) or wide != (b, g, wide[2], t, d):
            return "the repeat is not along the heads"
    return None if m.k.type.shape[1] == m.v.type.shape[1] else "keys and values have different heads"


@rule(
    lambda p, q, k, v, five, wide, shape, v_five, v_wide, v_shape, mask, bias, sinks, position: p.attention(
        q, _shared_heads(p, k, five, wide, shape), _shared_heads(p, v, v_five, v_wide, v_shape),
        p.maybe(mask), p.maybe(bias), p.maybe(sinks), p.maybe(position),
    ),
    when=_repeats,
)  # fmt: skip
def shared_heads(b: Any, m: Match) -> Value:
    """attention on repeated keys and values is grouped attention"""
    k, v = (b.emit("transpose", x, perm=HEADS_FIRST) for x in (m.k, m.v))
    return b.emit("attention", m.q, k, v, m.mask, m.bias, m.sinks, m.position, **m.root.attrs)


def _number(m: Match) -> float:
    if m.factor is not None:
        return m.factor
    return 1.0 / m.divisor


def _scaled(p: Any, x: Any, factor: Any, divisor: Any) -> Any:
    product = p.either(p.mul(x, p.const(factor)), p.div(x, p.const(divisor)))
    return p.either(product, p.transpose(product, perm=HEADS_FIRST))


def _moved(m: Match, b: Any, x: Value) -> Value:
    """Through the transpose that stood between the scaling and the attention."""
    moved = any(n.op.name == "transpose" for n in m.nodes if n is not m.root)
    return b.emit("transpose", x, perm=HEADS_FIRST) if moved else x


@rule(
    lambda p, x, k, v, factor, divisor, mask, bias, sinks, position: p.attention(
        _scaled(p, x, factor, divisor), k, v, p.maybe(mask), p.maybe(bias), p.maybe(sinks), p.maybe(position)
    ),
    when=lambda m: None if m.x.type.dtype == m.root.output.type.dtype else "the scaling changes the dtype",
)
def scaled_query(b: Any, m: Match) -> Value:
    """a query scaled beforehand is part of attention's scale"""
    attrs = {**m.root.attrs, "scale": m.root.attrs["scale"] * _number(m)}
    return b.emit("attention", _moved(m, b, m.x), m.k, m.v, m.mask, m.bias, m.sinks, m.position, **attrs)


@rule(
    lambda p, q, x, v, factor, divisor, mask, bias, sinks, position: p.attention(
        q, _scaled(p, x, factor, divisor), v, p.maybe(mask), p.maybe(bias), p.maybe(sinks), p.maybe(position)
    ),
    when=lambda m: None if m.x.type.dtype == m.root.output.type.dtype else "the scaling changes the dtype",
)
def scaled_key(b: Any, m: Match) -> Value:
    """a key scaled beforehand is part of attention's scale"""
    attrs = {**m.root.attrs, "scale": m.root.attrs["scale"] * _number(m)}
    return b.emit("attention", m.q, _moved(m, b, m.x), m.v, m.mask, m.bias, m.sinks, m.position, **attrs)


# The moves between what is drawn and the attention must be merged before the next rule can see through them.
MERGED = (merge_transposes, drop_transpose, merge_reshapes, drop_same)
RULES: tuple[Rule, ...] = (
    attention, shifted_softmax, shared_heads, *MASK_RULES, *BIAS_RULES, scaled_query, scaled_key, *MERGED,
)  # fmt: skip


def _lookalikes(graph: Graph, told: list[Event]) -> list[Event]:
    """Products with a softmax that were never drawn as attention, and why."""
    made_by, found = producers(graph), []
    known = {e.where for e in told if e.text.startswith("attention declined")}
    for node in graph.nodes:
        weights = _through_views(node.inputs[0], made_by) if node.op.name == "matmul" else None
        if weights is None or weights.op.name != "softmax" or node.where in known:
            continue
        last = weights.attrs["axis"] in (-1, weights.output.type.rank - 1)
        reason = "the scores are no product, scale, cap, bias and mask" if last else "its softmax is not over the keys"
        found.append(Event(f"attention declined: {reason}", node.where))
    return found


def _through_views(value: Value | None, made_by: Producers) -> Node | None:
    node = None if value is None else made_by.get(value)
    while node is not None and node.op.name in ("cast", "reshape", "transpose") and node.inputs[0] is not None:
        node = made_by.get(node.inputs[0])
    return node


@rewrite("raise_attention", optimizes=True)
def raise_attention(program: Program, task: Task) -> Rewritten:
    """Any order of scale, cap, bias and mask. A row that may see nothing gives 0 where -inf gave NaN."""
    hushed = tuple(f"{r.name} declined: " for r in MERGED)

    def change(graph: Graph) -> tuple[Graph, list[Event]]:
        graph, events = apply_rules(graph, RULES)
        events = [e for e in events if not e.text.startswith(hushed)]
        return graph, events + _lookalikes(graph, events)

    return rewrite_graphs(program, "raise_attention", change)
