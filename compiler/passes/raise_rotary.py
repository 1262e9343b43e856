"""Rotary position embedding, written out, to `rotary` on [batch, length, heads, size]."""

from __future__ import annotations

from typing import Any

from ...ir.dims import Dim
from ...ir.graph import Program, Value
from ..pattern import Match, Rule, rule
from ..rewriting import Rewritten, pad_rank, rewrite_by_rules
from ..task import Task
from .registry import rewrite

HEADS_FIRST = (0, 2, 1, 3)


def _turned(p: Any, x: Any, half: Any, size: Any, sizes: Any) -> Any:
    """cat(-x[half:], x[:half]), cut by slices or by a split."""
    low, high = p.slice(x, axis=-1, start=0, stop=half, step=1), p.slice(x, axis=-1, start=half, stop=size, step=1)
    pair = p.split(x, axis=-1, sizes=sizes)
    return p.either(
        p.concat(_negative(p, high), low, axis=-1),
        p.concat(_negative(p, p.output(1, pair)), p.output(0, pair), axis=-1),
    )


def _negative(p: Any, x: Any) -> Any:
    return p.either(p.neg(x), p.mul(x, p.const(-1)))


def _draw(p: Any, x: Any, cos: Any, sin: Any, half: Any, size: Any, sizes: Any) -> Any:
    return p.add(p.mul(x, cos), p.mul(_turned(p, x, half, size, sizes), sin))


def _half(m: Match) -> Dim:
    return m.sizes[0] if m.half is None else m.half


def _angles(m: Match, heads: int) -> tuple[Dim, ...] | None:
    """The shape [batch or 1, length, features] of cos and sin if x has its heads on that axis; None: they do not."""
    x, length = m.x.type.shape, 3 - heads
    shape = pad_rank(m.cos.type.shape, 4)
    fits = shape[heads] == 1 and shape[length] == x[length] and shape[0] in (1, x[0]) and shape[3] == x[3]
    return (shape[0], shape[length], shape[3]) if fits else None


def _is_rotary(m: Match) -> str | None:
    x = m.x.type
    if x.rank != 4 or x != m.root.output.type:
        return f"what is turned is {x}, not [batch, heads, length, size]"
    if _half(m) * 2 != x.shape[3]:
        return f"it is cut at {_half(m)} of {x.shape[3]}, not in halves"
    if pad_rank(m.cos.type.shape, 4) != pad_rank(m.sin.type.shape, 4) or m.cos.type.rank > 4:
        return f"cos is {m.cos.type} and sin {m.sin.type}"
    if _angles(m, 1) is None and _angles(m, 2) is None:
        return f"cos is {m.cos.type}, which has no axis of length {x.shape[2]} or {x.shape[1]} alone"
    return None


@rule(_draw, when=_is_rotary)
def rotary(b: Any, m: Match) -> Value:
    """x · cos + cat(-x₂, x₁) · sin is one rotary"""
    first = _angles(m, 1)
    angles = first or _angles(m, 2)
    cos, sin = (b.emit("reshape", v, shape=angles) for v in (m.cos, m.sin))
    if first is None:
        return b.emit("rotary", m.x, cos, sin)
    turned = b.emit("rotary", b.emit("transpose", m.x, perm=HEADS_FIRST), cos, sin)
    return b.emit("transpose", turned, perm=HEADS_FIRST)


def _is_partial(m: Match) -> str | None:
    if m.first != 0 or m.cut != m.start or m.size != m.x.type.shape[3]:
        return "the turned part and the rest are not the whole"
    return None


@rule(
    lambda p, x, cos, sin, first, cut, start, size: p.concat(
        p.rotary(p.slice(x, axis=-1, start=first, stop=cut, step=1), cos, sin, interleaved=False),
        p.slice(x, axis=-1, start=start, stop=size, step=1),
        axis=-1,
    ),
    when=_is_partial,
)
def partial_rotary(b: Any, m: Match) -> Value:
    """rotary on the first features, joined with the rest, is one rotary"""
    return b.emit("rotary", m.x, m.cos, m.sin)


@rule(
    lambda p, x, cos, sin, first, cut, start, size: p.concat(
        p.transpose(
            p.rotary(p.transpose(p.slice(x, axis=-1, start=first, stop=cut, step=1), perm=HEADS_FIRST), cos, sin,
                     interleaved=False),
            perm=HEADS_FIRST,
        ),
        p.slice(x, axis=-1, start=start, stop=size, step=1),
        axis=-1,
    ),
    when=_is_partial,
)  # fmt: skip
def partial_rotary_heads_first(b: Any, m: Match) -> Value:
    """rotary on the first features of [batch, heads, length, size], joined with the rest, is one rotary"""
    turned = b.emit("rotary", b.emit("transpose", m.x, perm=HEADS_FIRST), m.cos, m.sin)
    return b.emit("transpose", turned, perm=HEADS_FIRST)


RULES: tuple[Rule, ...] = (rotary, partial_rotary, partial_rotary_heads_first)


@rewrite("raise_rotary", optimizes=True)
def raise_rotary(program: Program, task: Task) -> Rewritten:
    """As transformers' apply_rotary_pos_emb writes it; the transposes around it cancel with the model's own."""
    return rewrite_by_rules(program, "raise_rotary", RULES)
