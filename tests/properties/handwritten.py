"""Attention written out by hand, in a way drawn at random, as a step of a random program."""

from __future__ import annotations

from typing import Any

import numpy as np

from tundish.ir.dtypes import f32, i64
from tundish.ir.graph import Value

INF, LEAST = float("-inf"), float(np.finfo(np.float32).min)
HEADS = (0, 2, 1, 3)


def written_attention(m: Any, x: Value, heads: int = 2) -> Value:
    """Of x [batch, seq, d], with its shape: any scale, cap, bias, one or two masks, shared keys, and casts."""
    lead, d = x.type.shape[:2], x.type.shape[-1]
    size = d // heads
    groups = m.pick((heads, 1))
    q, k, v = (
        m.emit("transpose", m.emit("reshape", m.linear(x, n * size), shape=(*lead, n, size)), perm=HEADS)
        for n in (heads, groups, groups)
    )
    if m.pick((False, True)):
        q = m.emit("mul", q, _number(m, 0.5))
    s = m.emit("matmul", q, m.emit("transpose", k, perm=(0, 1, 3, 2)))
    s = _masked(m, _shaped(m, s, heads))
    y = m.emit("matmul", _softmax(m, s), v)
    return m.emit("reshape", m.emit("transpose", y, perm=HEADS), shape=x.type.shape)


def _number(m: Any, value: float) -> Value:
    return m.emit("constant", value=value, dtype=f32)


def _shaped(m: Any, s: Value, heads: int) -> Value:
    """Scaled, capped, biased."""
    way = m.pick((None, "mul", "div"))
    s = s if way is None else m.emit(way, s, _number(m, 0.7))
    if m.pick((False, False, True)):
        s = m.emit("mul", m.emit("tanh", m.emit("div", s, _number(m, 3.0))), _number(m, 3.0))
    if m.pick((False, False, True)):
        s = m.emit("add", s, m.weight(heads, 1, 1))
    return s


def _masked(m: Any, s: Value) -> Value:
    """With no mask, one, two in one, or one after the other. -inf only where every query sees its own key."""
    kind = m.pick(("none", "causal", "padding", "joined", "both", "added"))
    if kind == "none":
        return s
    if kind == "added":
        return m.emit("add", s, m.emit("where", _causal(m, s), _number(m, 0.0), _number(m, m.pick((INF, LEAST)))))
    fill = m.pick((INF, -1e9, LEAST, -5.0) if kind == "causal" else (-1e9, LEAST, -5.0))
    if kind == "joined":
        return _filled(m, s, m.emit("and", _causal(m, s), _padding(m)), fill)
    for one in {"causal": (_causal(m, s),), "padding": (_padding(m),), "both": (_causal(m, s), _padding(m))}[kind]:
        s = _filled(m, s, one, fill)
    return s


def _filled(m: Any, s: Value, seen: Value, fill: float) -> Value:
    if m.pick((False, True)):
        return m.emit("where", seen, s, _number(m, fill))
    return m.emit("where", m.emit("not", seen), _number(m, fill), s)


def _causal(m: Any, s: Value) -> Value:
    """key <= query, or nearly so, in one of the ways in which it is written."""
    length = s.type.shape[-1]
    at = m.emit("iota", length=length, dtype=i64)
    query, key = m.emit("reshape", at, shape=(length, 1)), m.emit("reshape", at, shape=(1, length))
    if m.pick((False, True)):
        op, a, b = m.pick((("ge", query, key), ("le", key, query), ("lt", key, m.emit("add", query, m.emit(
            "constant", value=1.0, dtype=i64)))))  # fmt: skip
    else:
        zero = m.emit("constant", value=0.0, dtype=i64)
        op, a, b = m.pick((("ge", m.emit("sub", query, key), zero), ("le", m.emit("sub", key, query), zero)))
    return m.emit("reshape", m.emit(op, a, b), shape=(1, 1, length, length))


def _padding(m: Any) -> Value:
    """From an input [batch, seq], or its opposite, under which whole rows see nothing."""
    batch, length = m.flags[0].type.shape
    seen = m.emit("reshape", m.flags[0], shape=(batch, 1, 1, length))
    return m.emit("not", seen) if m.pick((False, False, True)) else seen


def _softmax(m: Any, s: Value) -> Value:
    if m.pick((False, False, True)):
        s = m.emit("sub", s, m.emit("max", s, axes=(3,), keepdims=True))
    return m.emit("softmax", s, axis=m.pick((-1, 3)))
