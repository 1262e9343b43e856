"""Rotary position embedding, written out, to `rotary` on [batch, length, heads, size]."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...ir import dims
from ...ir.dims import Dim
from ...ir.graph import Program, Value
from ...ir.tensor import TensorType
from ..pattern import Match, Rule, rule
from ..rewriting import Rewritten, pad_rank, rewrite_by_rules
from ..task import Task
from .pairs import HALVES, TWINS, Pairs
from .registry import rewrite

HEADS_FIRST = (0, 2, 1, 3)


def _rotated(p: Any, low: Any, high: Any) -> Any:
    """cat(-high, low)."""
    return p.concat(_negative(p, high), low, axis=-1)


def _negative(p: Any, x: Any) -> Any:
    return p.either(p.neg(x), p.mul(x, p.const(-1)))


def _turned(p: Any, x: Any, half: Any, size: Any, sizes: Any) -> Any:
    """cat(-x[half:], x[:half]), cut by slices or by a split."""
    low, high = p.slice(x, axis=-1, start=0, stop=half, step=1), p.slice(x, axis=-1, start=half, stop=size, step=1)
    pair = p.split(x, axis=-1, sizes=sizes)
    return p.either(_rotated(p, low, high), _rotated(p, p.output(0, pair), p.output(1, pair)))


def _draw(p: Any, x: Any, cos: Any, sin: Any, half: Any, size: Any, sizes: Any) -> Any:
    return p.add(p.mul(x, cos), p.mul(_turned(p, x, half, size, sizes), sin))


def _angles(m: Match, x: TensorType, heads: int) -> tuple[Dim, ...] | None:
    """The shape [batch or 1, length, features] of cos and sin if x has its heads on that axis; None: they do not."""
    length, shape = 3 - heads, pad_rank(m.cos.type.shape, 4)
    fits = shape[heads] == 1 and shape[length] == x.shape[length] and shape[0] in (1, x.shape[0])
    return (shape[0], shape[length], shape[3]) if fits else None


def _fits(m: Match, x: TensorType, features: Dim) -> str | None:
    """Whether x is [batch, heads, length, size] in either order, and cos and sin `features` angles for each place."""
    if x.rank != 4 or x != m.root.output.type:
        return f"what is turned is {x}, not [batch, heads, length, size]"
    if pad_rank(m.cos.type.shape, 4) != pad_rank(m.sin.type.shape, 4) or m.cos.type.rank > 4:
        return f"cos is {m.cos.type} and sin {m.sin.type}"
    if m.cos.type.shape[-1:] != (features,) or (_angles(m, x, 1) is None and _angles(m, x, 2) is None):
        return f"cos is {m.cos.type}, which has no axis of length {x.shape[2]} or {x.shape[1]} alone"
    return None


def _emit(b: Any, m: Match, x: Value, cos: Value, sin: Value, *, interleaved: bool = False) -> Value:
    """The rotary of x, by angles [batch or 1, 1, length, r] or [batch or 1, length, 1, r] with x's own order."""
    first = _angles(m, x.type, 1)
    angles = first or _angles(m, x.type, 2)
    assert angles is not None
    shape = (*angles[:2], cos.type.shape[-1])
    cos, sin = (b.emit("reshape", v, shape=shape) for v in (cos, sin))
    if first is None:
        return b.emit("rotary", x, cos, sin, interleaved=interleaved)
    turned = b.emit("rotary", b.emit("transpose", x, perm=HEADS_FIRST), cos, sin, interleaved=interleaved)
    return b.emit("transpose", turned, perm=HEADS_FIRST)


def _is_rotary(m: Match) -> str | None:
    half = m.sizes[0] if m.half is None else m.half
    if m.x.type.rank == 4 and half * 2 != m.x.type.shape[3]:
        return f"it is cut at {half} of {m.x.type.shape[3]}, not in halves"
    return _fits(m, m.x.type, m.x.type.shape[-1])


@rule(_draw, when=_is_rotary)
def rotary(b: Any, m: Match) -> Value:
    """x · cos + cat(-x₂, x₁) · sin is one rotary"""
    return _emit(b, m, m.x, m.cos, m.sin)


def _is_cut(m: Match) -> str | None:
    if m.start != 0 or m.first != 0 or m.stop != m.cut or m.half * 2 != m.cut:
        return f"{m.first} to {m.cut} is turned by {m.start} to {m.half} and {m.half} to {m.stop}"
    return _fits(m, _part(m).type, m.cut)


def _part(m: Match) -> Value:
    """The slice that is turned."""
    return next(v for n in m.nodes if n.op.name == "mul" for v in n.inputs if v is not None and _is_slice(m, v))


def _is_slice(m: Match, value: Value) -> bool:
    node = m.made_by.get(value)
    return node is not None and node.op.name == "slice" and node.inputs[0] is m.whole


@rule(
    lambda p, whole, cos, sin, start, first, half, cut, stop: p.add(
        p.mul(p.slice(whole, axis=-1, start=first, stop=cut, step=1), cos),
        p.mul(
            _rotated(
                p, p.slice(whole, axis=-1, start=start, stop=half, step=1),
                p.slice(whole, axis=-1, start=half, stop=stop, step=1),
            ),
            sin,
        ),
    ),
    when=_is_cut,
)  # fmt: skip
def rotary_of_a_slice(b: Any, m: Match) -> Value:
    """rotary whose halves are cut from the whole of which it turns a part"""
    return _emit(b, m, _part(m), m.cos, m.sin)


def _draw_interleaved(p: Any, x: Any, cos: Any, sin: Any, even: Any, odd: Any, one: Any, two: Any, all_: Any) -> Any:
    high = p.reshape(_negative(p, p.slice(x, axis=-1, start=1, stop=odd, step=2)), shape=one)
    low = p.reshape(p.slice(x, axis=-1, start=0, stop=even, step=2), shape=two)
    return p.add(p.mul(x, cos), p.mul(p.reshape(p.concat(high, low, axis=-1), shape=all_), sin))


def _is_interleaved(m: Match) -> str | None:
    x = m.x.type
    pairs = (*x.shape[:-1], dims.floordiv(x.shape[-1], 2), 1)
    if m.one != pairs or m.two != pairs or m.all_ != x.shape:
        return f"the members of pairs are put together as {m.one} and {m.two}, not {pairs}"
    return _fits(m, x, x.shape[-1])


@rule(_draw_interleaved, when=_is_interleaved)
def interleaved_rotary(b: Any, m: Match) -> Value:
    """x · cos + stack(-x[1::2], x[::2]) · sin is one rotary"""
    return _emit(b, m, m.x, m.cos, m.sin, interleaved=True)


def _draw_complex(p: Any, x: Any, cos: Any, sin: Any, five: Any, four: Any, one: Any, out: Any) -> Any:
    pairs = p.reshape(x, shape=five)
    a, b = (p.reshape(p.slice(pairs, axis=-1, start=i, stop=i + 1, step=1), shape=four) for i in (0, 1))
    real = p.reshape(p.sub(p.mul(a, cos), p.mul(b, sin)), shape=one)
    imag = p.reshape(p.add(p.mul(a, sin), p.mul(b, cos)), shape=one)
    return p.reshape(p.concat(real, imag, axis=-1), shape=out)


def _is_complex(m: Match) -> str | None:
    x = m.root.output.type  # what is turned may be taken apart before its heads are
    if x.rank != 4:
        return f"it gives {x}, not [batch, heads, length, size]"
    half = dims.floordiv(x.shape[-1], 2)
    if m.five != (*x.shape[:-1], half, 2) or m.one != (*x.shape[:-1], half, 1):
        return f"it makes {m.five} of {x}, not pairs"
    return _fits(m, x, half)


@rule(_draw_complex, when=_is_complex)
def complex_rotary(b: Any, m: Match) -> Value:
    """pairs multiplied as complex numbers are one rotary"""

    def both(angles: Value) -> Value:
        shape = angles.type.shape
        wide = b.emit("expand", b.emit("reshape", angles, shape=(*shape, 1)), shape=(*shape, 2))
        return b.emit("reshape", wide, shape=(*shape[:-1], shape[-1] * 2))

    x = b.emit("reshape", m.x, shape=m.root.output.type.shape)
    return _emit(b, m, x, both(m.cos), both(m.sin), interleaved=True)


def _is_partial(m: Match) -> str | None:
    if m.first != 0 or m.cut != m.start or m.size != m.x.type.shape[3]:
        return "the turned part and the rest are not the whole"
    return None


@rule(
    lambda p, x, cos, sin, first, cut, start, size, interleaved: p.concat(
        p.rotary(p.slice(x, axis=-1, start=first, stop=cut, step=1), cos, sin, interleaved=interleaved),
        p.slice(x, axis=-1, start=start, stop=size, step=1),
        axis=-1,
    ),
    when=_is_partial,
)
def partial_rotary(b: Any, m: Match) -> Value:
    """rotary on the first features, joined with the rest, is one rotary"""
    return b.emit("rotary", m.x, m.cos, m.sin, interleaved=m.interleaved)


@rule(
    lambda p, x, cos, sin, first, cut, start, size, interleaved: p.concat(
        p.transpose(
            p.rotary(p.transpose(p.slice(x, axis=-1, start=first, stop=cut, step=1), perm=HEADS_FIRST), cos, sin,
                     interleaved=interleaved),
            perm=HEADS_FIRST,
        ),
        p.slice(x, axis=-1, start=start, stop=size, step=1),
        axis=-1,
    ),
    when=_is_partial,
)  # fmt: skip
def partial_rotary_heads_first(b: Any, m: Match) -> Value:
    """rotary on the first features of [batch, heads, length, size], joined with the rest, is one rotary"""
    turned = b.emit("rotary", b.emit("transpose", m.x, perm=HEADS_FIRST), m.cos, m.sin, interleaved=m.interleaved)
    return b.emit("transpose", turned, perm=HEADS_FIRST)


# What must be known of the angles, by rule: the op holds both members of each pair, and backends read only one.
PAIRED: dict[Rule, str] = {rotary: HALVES, rotary_of_a_slice: HALVES, interleaved_rotary: TWINS}
RULES: tuple[Rule, ...] = (*PAIRED, complex_rotary, partial_rotary, partial_rotary_heads_first)


def _where_paired(given: Rule, pairs: Pairs) -> Rule:
    """The rule, where the angles of this program are paired too."""
    way = PAIRED.get(given)
    if way is None:
        return given

    def when(m: Match) -> str | None:
        assert given.when is not None and way is not None
        lone = [name for name in ("cos", "sin") if not pairs.are(way, getattr(m, name), m.made_by)]
        return given.when(m) or (f"{' and '.join(lone)} may differ between the two of a pair" if lone else None)

    return replace(given, when=when)


@rewrite("raise_rotary", optimizes=True)
def raise_rotary(program: Program, task: Task) -> Rewritten:
    """As transformers write it in three ways; the transposes around it cancel with the model's own."""
    pairs = Pairs(program)
    return rewrite_by_rules(program, "raise_rotary", [_where_paired(r, pairs) for r in RULES])
