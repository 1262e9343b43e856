"""Rules that merge and drop what only moves, renames or repeats elements."""

from __future__ import annotations

from typing import Any

from ...ir import dims
from ...ir.dtypes import DType
from ...ir.graph import Value
from ...ir.op import OPS
from ...ir.ops.broadcast import broadcast
from ..pattern import Match, Rule, rule


def holds_all(wide: DType, narrow: DType) -> bool:
    """Whether every number of `narrow` is a number of `wide`."""
    if wide == narrow:
        return True
    if narrow.kind == "bool":
        return wide.range[0] <= 0  # a type of exponents alone has no 0
    if wide.is_float and narrow.is_float:
        finer = wide.significand >= narrow.significand and wide.exponent >= narrow.exponent
        return finer and wide.bits >= 16  # those of 8 bits differ in more than their widths
    if wide.is_float and narrow.is_int:
        return wide.significand > narrow.bits
    if wide.kind == "int" and narrow.is_int:
        return wide.bits > narrow.bits if narrow.kind == "uint" else wide.bits >= narrow.bits
    return wide.kind == narrow.kind == "uint" and wide.bits >= narrow.bits


def unchanged(m: Match) -> str | None:
    """None where the input has the type of the output already."""
    return None if m.x.type == m.root.outputs[0].type else "it changes the type"


@rule(lambda p, x, first, then: p.transpose(p.transpose(x, perm=first), perm=then))
def merge_transposes(b: Any, m: Match) -> Value:
    """two transposes are one"""
    return b.emit("transpose", m.x, perm=tuple(m.first[i] for i in m.then))


@rule(
    lambda p, x, perm: p.transpose(x, perm=perm),
    when=lambda m: None if m.perm == tuple(range(len(m.perm))) else "it moves axes",
)
def drop_transpose(b: Any, m: Match) -> Value:
    """a transpose that moves nothing is dropped"""
    return m.x


@rule(lambda p, x, shape: p.reshape(p.reshape(x), shape=shape))
def merge_reshapes(b: Any, m: Match) -> Value:
    """two reshapes are one"""
    return b.emit("reshape", m.x, shape=m.shape)


@rule(lambda p, x, shape: p.expand(p.expand(x), shape=shape))
def merge_expands(b: Any, m: Match) -> Value:
    """two expands are one"""
    return b.emit("expand", m.x, shape=m.shape)


@rule(lambda p, x: p.either(p.reshape(x), p.expand(x), p.cast(x)), when=unchanged)
def drop_same(b: Any, m: Match) -> Value:
    """a reshape, expand or cast to the type that is there already is dropped"""
    return m.x


def _first_cast_loses(m: Match) -> str | None:
    (inner,) = (n for n in m.nodes if n is not m.root)
    middle, first = inner.output.type.dtype, m.x.type.dtype
    return None if holds_all(middle, first) else f"{middle} does not hold all of {first}"


@rule(lambda p, x, dtype: p.cast(p.cast(x), dtype=dtype), when=_first_cast_loses)
def merge_casts(b: Any, m: Match) -> Value:
    """a cast through a wider type is one cast"""
    return b.emit("cast", m.x, dtype=m.dtype)


@rule(lambda p, x: p.slice(x, start=0, step=1), when=unchanged)
def drop_slice(b: Any, m: Match) -> Value:
    """a slice of everything is dropped"""
    return m.x


@rule(
    lambda p, x, axis, a, z, first, last: p.slice(
        p.slice(x, axis=axis, start=a, stop=z, step=1), axis=axis, start=first, stop=last, step=1
    )
)
def merge_slices(b: Any, m: Match) -> Value:
    """two slices along one axis are one"""
    return b.emit("slice", m.x, axis=m.axis, start=m.a + m.first, stop=m.a + m.last)


def _one_piece(m: Match) -> str | None:
    """Of several pieces one may be all of it, where the others are empty."""
    return unchanged(m) if len(m.root.outputs) == 1 else "it gives several pieces"


@rule(lambda p, x: p.either(p.concat(x), p.split(x)), when=_one_piece)
def drop_concat(b: Any, m: Match) -> Value:
    """a concat or split of one piece is dropped"""
    return m.x


def _piece(m: Match) -> Value | None:
    """The input of the concat that a slice takes out whole."""
    start: dims.Dim = 0
    (joint,) = (n for n in m.nodes if n is not m.root)
    for value in joint.inputs:
        assert value is not None
        size = value.type.shape[m.axis]
        if start == m.start and start + size == m.stop:
            return value
        start = start + size
    return None


def _slices_of_concats(inputs: int) -> Rule:
    def build(b: Any, m: Match) -> Value:
        """a slice that takes out one piece of a concat is that piece"""
        piece = _piece(m)
        assert piece is not None
        return piece

    def draw(p: Any, axis: Any, start: Any, stop: Any) -> Any:
        pieces = [type(axis)(f"piece{i}") for i in range(inputs)]
        return p.slice(p.concat(*pieces, axis=axis), axis=axis, start=start, stop=stop, step=1)

    return rule(draw, when=lambda m: None if _piece(m) is not None else "it cuts a piece")(build)


def _spreads(m: Match) -> bool:
    """Whether an operand is an expand that broadcasting would do anyway, or a scalar in a larger shape."""
    return any(a is not b for a, b in zip(_narrow(m), m.root.inputs, strict=True))


def _narrow(m: Match) -> list[Value | None]:
    """The operands, each as small as it may be for the result to keep its shape."""
    inputs = list(m.root.inputs)
    for i, value in enumerate(m.root.inputs):
        node = m.made_by.get(value) if value is not None else None
        if node is None or node.op.name not in ("expand", "reshape"):
            continue
        small = node.inputs[0]
        if small is None or (node.op.name == "reshape" and small.type.rank != 0):
            continue
        tried = [*inputs[:i], small, *inputs[i + 1 :]]
        if broadcast("", *(v.type.shape for v in tried if v is not None)) == m.root.outputs[0].type.shape:
            inputs = tried
    return inputs


ELEMENTWISE = (
    "add", "sub", "mul", "div", "pow", "maximum", "minimum", "mod", "eq", "ne", "lt", "le", "gt", "ge",
    "and", "or", "xor", "where",
)  # fmt: skip


def _unspread(op: str) -> Rule:
    def build(b: Any, m: Match) -> Value:
        """an expand before an op that broadcasts is dropped"""
        return b.emit(m.root.op, *_narrow(m))

    def draw(p: Any, x: Any, y: Any, z: Any) -> Any:
        return getattr(p, op)(*(x, y, z)[: len(OPS[op].inputs)])

    return rule(draw, when=lambda m: None if _spreads(m) else "nothing is expanded")(build)


def _attention_unspread(m: Match) -> str | None:
    return None if m.small.type.rank == 4 else "the mask's rank would change"


@rule(
    lambda p, q, k, v, small, bias, sinks: p.attention(q, k, v, p.expand(small), p.maybe(bias), p.maybe(sinks)),
    when=_attention_unspread,
)
def unspread_mask(b: Any, m: Match) -> Value:
    """an expanded attention mask stays small"""
    return b.emit("attention", m.q, m.k, m.v, m.small, m.bias, m.sinks, **m.root.attrs)


@rule(
    lambda p, q, k, v, mask, small, sinks: p.attention(q, k, v, p.maybe(mask), p.expand(small), p.maybe(sinks)),
    when=_attention_unspread,
)
def unspread_bias(b: Any, m: Match) -> Value:
    """an expanded attention bias stays small"""
    return b.emit("attention", m.q, m.k, m.v, m.mask, m.small, m.sinks, **m.root.attrs)


MOVES: tuple[Rule, ...] = (
    merge_transposes, drop_transpose, merge_reshapes, merge_expands, drop_same, merge_casts, drop_slice, merge_slices,
    drop_concat, *map(_slices_of_concats, (2, 3, 4)), *map(_unspread, ELEMENTWISE), unspread_mask, unspread_bias,
)  # fmt: skip
