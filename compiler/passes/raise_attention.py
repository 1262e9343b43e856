"""Attention, written out as products and a softmax, to `attention` on [batch, length, heads, size]."""

from __future__ import annotations

import math
from typing import Any

from ...ir.diagnostics import GraphError
from ...ir.graph import Program, Value
from ...ir.ops.broadcast import broadcast
from ..pattern import Match, Rule, rule
from ..rewriting import Rewritten, as_rank, pad_rank, rewrite_by_rules
from ..task import Task
from .clean_moves import drop_transpose, merge_reshapes, merge_transposes
from .raise_attention_mask import MASK_RULES, is_causal
from .registry import rewrite

HEADS_FIRST = (0, 2, 1, 3)
NOTHING = -1e9  # a finite fill at or below this leaves a masked key no weight in f32, as -inf does


def _scores(p: Any, q: Any, k: Any, scale: Any, divisor: Any, cap: Any) -> Any:
    """q kᵀ, scaled, perhaps capped."""
    s = p.maybe_cast(p.matmul(q, k))
    s = p.either(p.mul(s, p.const(scale)), p.div(s, p.const(divisor)), s)
    return p.either(p.mul(p.tanh(p.div(s, p.const(cap))), p.const(cap)), s)


def _masked(p: Any, s: Any, mask: Any, blocked: Any, fill: Any, bias: Any, late: Any) -> Any:
    """Bias and mask on the scores, in either order."""
    s = p.either(p.add(s, bias), s)
    s = p.either(p.where(mask, s, p.const(fill)), p.where(blocked, p.const(fill), s), s)
    return p.either(p.add(s, late), s)


def _draw(p: Any, q: Any, k: Any, v: Any, scale: Any, divisor: Any, cap: Any, mask: Any, blocked: Any, fill: Any,
          bias: Any, late: Any) -> Any:  # fmt: skip
    s = _masked(p, p.maybe_cast(_scores(p, q, k, scale, divisor, cap)), mask, blocked, fill, bias, late)
    return p.matmul(p.maybe_cast(p.softmax(p.maybe_cast(s), axis=-1)), v)


def _is_attention(m: Match) -> str | None:
    ranks = {v.type.rank for v in (m.q, m.k, m.v)}
    if len(ranks) > 1 or not ranks <= {3, 4}:
        return f"q, k and v are {m.q.type}, {m.k.type} and {m.v.type}"
    if len({v.type.shape[:-2] for v in (m.q, m.k, m.v)}) > 1:
        return "q, k and v have different leading axes"
    if m.q.type.rank == 4 and not isinstance(m.q.type.shape[1], int):
        return f"the number of heads, {m.q.type.shape[1]}, is not fixed"
    if m.root.output.type.dtype != m.q.type.dtype:
        return f"it turns {m.q.type.dtype} into {m.root.output.type.dtype}"
    return _fill_fits(m) or _extras_fit(m)


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
    q, t = m.q.type.shape, m.k.type.shape[-1]
    scores = (*q[:-1], t)
    for what, value in (("mask", m.mask), ("mask", m.blocked), ("bias", m.bias), ("bias", m.late)):
        if value is None:
            continue
        try:
            if broadcast("", value.type.shape, scores) != scores:
                return f"the {what} {value.type} is larger than the scores"
        except GraphError:
            return f"the {what} {value.type} does not broadcast to the scores"
    return None


@rule(_draw, when=_is_attention)
def attention(b: Any, m: Match) -> Value:
    """softmax(q kᵀ) v is one attention"""
    heads = m.q.type.rank == 4
    q, v = (_to_heads_last(b, x, heads) for x in (m.q, m.v))
    keys = b.emit("transpose", m.k, perm=(0, 3, 1, 2) if heads else (0, 2, 1))
    k = keys if heads else _to_heads_last(b, keys, heads)
    mask, bias = _scores_like(b, m, m.mask), _bias(b, m)
    if m.blocked is not None:
        mask = _scores_like(b, m, b.emit("not", m.blocked))
    if mask is not None and math.isfinite(m.fill) and not _always_sees(m):
        q, bias, mask = _uniform_where_blind(b, q, bias, mask)
    out = b.emit("attention", q, k, v, mask, bias, scale=_scale(m), softcap=m.cap or 0.0)
    if heads:
        return b.emit("transpose", out, perm=HEADS_FIRST)
    return b.emit("reshape", out, shape=m.root.output.type.shape)


def _to_heads_last(b: Any, x: Value, heads: bool) -> Value:
    """[b, h, s, d] -> [b, s, h, d]; [n, s, d] -> [n, s, 1, d]."""
    if heads:
        return b.emit("transpose", x, perm=HEADS_FIRST)
    n, s, d = x.type.shape
    return b.emit("reshape", x, shape=(n, s, 1, d))


def _scores_like(b: Any, m: Match, value: Value | None) -> Value | None:
    """A mask or bias with the rank of [b, h, s, t]."""
    if value is None or m.q.type.rank == 4:
        return None if value is None else as_rank(b, value, 4)
    n, s, t = pad_rank(value.type.shape, 3)
    return b.emit("reshape", value, shape=(n, 1, s, t))


def _bias(b: Any, m: Match) -> Value | None:
    found = [v for v in (m.bias, m.late) if v is not None]
    if not found:
        return None
    total = found[0] if len(found) == 1 else b.emit("add", *found)
    if total.type.dtype != m.q.type.dtype:
        total = b.emit("cast", total, dtype=m.q.type.dtype)
    return _scores_like(b, m, total)


def _scale(m: Match) -> float:
    if m.divisor is not None:
        return 1.0 / m.divisor
    return 1.0 if m.scale is None else m.scale


def _always_sees(m: Match) -> bool:
    """Whether every query sees a key: with a causal mask, and no more queries than keys, it sees its own."""
    queries, keys = m.q.type.shape[-2], m.k.type.shape[-1]
    return queries == keys and m.mask is not None and is_causal(m.mask, queries, keys, m.made_by)


def _uniform_where_blind(b: Any, q: Value, bias: Value | None, mask: Value) -> tuple[Value, Value | None, Value]:
    """With a finite fill a row that sees nothing looks at every key alike: no query, no bias and an open mask."""
    sees = b.emit("any", mask, axes=(3,), keepdims=True)
    by_query = b.emit("transpose", sees, perm=HEADS_FIRST)
    zero = b.constant(0.0, q.type.dtype)
    if bias is not None:
        bias = b.emit("where", sees, bias, zero)
    return b.emit("where", by_query, q, zero), bias, b.emit("or", mask, b.emit("not", sees))


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
    lambda p, q, k, v, five, wide, shape, v_five, v_wide, v_shape, mask, bias, sinks: p.attention(
        q, _shared_heads(p, k, five, wide, shape), _shared_heads(p, v, v_five, v_wide, v_shape),
        p.maybe(mask), p.maybe(bias), p.maybe(sinks),
    ),
    when=_repeats,
)  # fmt: skip
def shared_heads(b: Any, m: Match) -> Value:
    """attention on repeated keys and values is grouped attention"""
    k, v = (b.emit("transpose", x, perm=HEADS_FIRST) for x in (m.k, m.v))
    return b.emit("attention", m.q, k, v, m.mask, m.bias, m.sinks, **m.root.attrs)


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
    lambda p, x, k, v, factor, divisor, mask, bias, sinks: p.attention(
        _scaled(p, x, factor, divisor), k, v, p.maybe(mask), p.maybe(bias), p.maybe(sinks)
    ),
    when=lambda m: None if m.x.type.dtype == m.root.output.type.dtype else "the scaling changes the dtype",
)
def scaled_query(b: Any, m: Match) -> Value:
    """a query scaled beforehand is part of attention's scale"""
    attrs = {**m.root.attrs, "scale": m.root.attrs["scale"] * _number(m)}
    return b.emit("attention", _moved(m, b, m.x), m.k, m.v, m.mask, m.bias, m.sinks, **attrs)


@rule(
    lambda p, q, x, v, factor, divisor, mask, bias, sinks: p.attention(
        q, _scaled(p, x, factor, divisor), v, p.maybe(mask), p.maybe(bias), p.maybe(sinks)
    ),
    when=lambda m: None if m.x.type.dtype == m.root.output.type.dtype else "the scaling changes the dtype",
)
def scaled_key(b: Any, m: Match) -> Value:
    """a key scaled beforehand is part of attention's scale"""
    attrs = {**m.root.attrs, "scale": m.root.attrs["scale"] * _number(m)}
    return b.emit("attention", m.q, _moved(m, b, m.x), m.v, m.mask, m.bias, m.sinks, **attrs)


# The moves between what is drawn and the attention must be merged before the next rule can see through them.
MERGED = (merge_transposes, drop_transpose, merge_reshapes)
RULES: tuple[Rule, ...] = (attention, shared_heads, *MASK_RULES, scaled_query, scaled_key, *MERGED)


@rewrite("raise_attention", optimizes=True)
def raise_attention(program: Program, task: Task) -> Rewritten:
    """Any order of scale, cap, bias and mask. A row that may see nothing gives 0 where -inf gave NaN."""
    return rewrite_by_rules(program, "raise_attention", RULES, quiet=[r.name for r in MERGED])
