"""ONNX's attention, rotary positions and cache writes, each as the one op of ours that it is."""

from __future__ import annotations

import functools
from math import inf, sqrt
from typing import TYPE_CHECKING, Any

from ... import dims
from ...diagnostics import CaptureError
from ...dims import Dim
from ...dtypes import boolean, i64
from ...op import get
from ...ops.checks import same_but
from ...ops.widen import as_type
from ..onnx_terms import of_value
from .table import axis, enters

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_onnx import Importer
    from ..onnx_terms import Term

TABLE: dict[str, Any] = {}


@enters(TABLE, "Attention")
def _(to: Importer) -> list[Term | None]:
    """Heads lie before positions in inputs of four axes, and within the features of three."""
    if to.wants(3):
        return _by_definition(to)
    given = [to.value(i) for i in range(3)]
    flat = [v.type.rank == 3 for v in given]
    q, k, v = (heads_last(to, x, "q_num_heads" if i == 0 else "kv_num_heads") for i, x in enumerate(given))
    offset: Dim | Value = 0
    if to.has(4) != to.has(5):
        raise CaptureError("Attention: past_key and past_value come together")
    if to.has(4):
        if to.value(4).type.rank != 4:
            raise CaptureError("Attention: past_key is [batch, heads, length, size]", found=str(to.value(4).type))
        offset = to.value(4).type.shape[2]
        k, v = (to.emit("concat", swapped(to, to.value(i)), x, axis=1) for i, x in ((4, k), (5, v)))
    valid = None
    if to.has(6):
        lengths = as_type(to, to.value(6), i64)
        valid, offset = up_to(to, lengths, k.type.shape[1]), to.emit("sub", lengths, _number(to, q.type.shape[1]))
    mask, bias = _mask(to, 3, k.type.shape[1]) if to.has(3) else (None, None)
    y = attend(
        to, q, k, v, scale=to.attr("scale", None), causal=bool(to.attr("is_causal", 0)), offset=offset,
        masks=(mask, valid), bias=bias, softcap=to.attr("softcap", 0.0),
        window=(to.attr("left_window_size", -1), to.attr("right_window_size", -1)),
    )  # fmt: skip
    y = merged(to, y) if flat[0] else swapped(to, y)
    return [of_value(y), *(of_value(swapped(to, x)) if to.wants(i) else None for i, x in ((1, k), (2, v)))]


def _by_definition(to: Importer) -> list[Term | None]:
    """The scores are an output too: the op as ONNX writes it out."""
    made = to.defined()
    if made is None:
        raise CaptureError(f"{to.op}: the output qk_matmul_output is not known in this form")
    return made


# -- layouts: ours is [batch, positions, heads, size] ---------------------------------------------------


def swapped(to: Importer, x: Value) -> Value:
    """Heads and positions change places."""
    return to.emit("transpose", x, perm=(0, 2, 1, 3))


def heads_last(to: Importer, x: Value, name: str) -> Value:
    """x [b, h, s, d], or [b, s, h · d] with the number of heads as attribute `name`, as [b, s, h, d]."""
    if x.type.rank == 4:
        return swapped(to, x)
    if x.type.rank != 3:
        raise CaptureError(f"{to.op}: takes tensors of three or four axes, got {x.type}")
    return split_heads(to, x, to.attr(name, 0), name)


def split_heads(to: Importer, x: Value, count: int, name: str = "num_heads") -> Value:
    """x [b, s, h · d] as [b, s, h, d]. Raises: CaptureError where the heads do not divide the features."""
    if count < 1 or dims.mod(x.type.shape[2], count) != 0:
        raise CaptureError(f"{to.op}: {name} = {count} does not divide the features of {x.type}")
    return to.emit("reshape", x, shape=(*x.type.shape[:2], count, dims.floordiv(x.type.shape[2], count)))


def merged(to: Importer, x: Value) -> Value:
    """x [b, s, h, d] as [b, s, h · d]."""
    return to.emit("reshape", x, shape=(*x.type.shape[:2], dims.product(x.type.shape[2:])))


# -- who may look where -----------------------------------------------------------------------------------


def attend(to: Importer, q: Value, k: Value, v: Value, *, scale: float | None, causal: bool = False,
           offset: Dim | Value = 0, masks: tuple[Value | None, ...] = (), bias: Value | None = None,
           window: tuple[int, int] = (-1, -1), softcap: float = 0.0, sinks: Value | None = None) -> Value:  # fmt: skip
    """One `attention`. offset: how many keys lie before the first query, for all rows or for each.

    masks: where attention is allowed, each [b, t] or broadcastable to [b, h, s, t]; all must hold.
    window: how many positions to the left and to the right are seen, -1 for all.
    """
    size, s, t = q.type.shape[3], q.type.shape[1], k.type.shape[1]
    if scale is None and not isinstance(size, int):
        raise CaptureError(f"{to.op}: the size of a head is not a number, but {size}", hint="fix that size")
    if size == 0:
        raise CaptureError(f"{to.op}: a head of no numbers", found=str(q.type))
    if min(window) < -1:
        raise CaptureError(f"{to.op}: a window is -1 or more, got {window}")
    left, right = window
    aligned = isinstance(offset, (int, dims.Expr)) and t - s == offset
    attrs: dict[str, Any] = {"softcap": softcap, "scale": 1 / sqrt(int(str(size))) if scale is None else scale}
    if aligned and causal:
        attrs["causal"], causal, right = True, False, -1
    if aligned and left >= 0 and ("causal" in attrs or left == right):
        attrs["window"], left, right = left + 1, -1, -1
    found = [m for m in masks if m is not None]
    if causal or left >= 0 or right >= 0:
        found.append(_visible(to, s, t, offset, causal, left, right))
    return to.emit("attention", q, k, v, _all(to, found), bias, sinks, **attrs)


def _visible(to: Importer, s: Dim, t: Dim, offset: Dim | Value, causal: bool, left: int, right: int) -> Value:
    """bool [1, 1, s, t], or [b, 1, s, t] where each row has its own offset."""
    rows = to.emit("reshape", to.emit("iota", length=s), shape=(s, 1))
    if isinstance(offset, (int, dims.Expr)):
        first = _number(to, offset)
    else:
        if offset.type.rank != 1:
            raise CaptureError(f"{to.op}: a length for each row is wanted", found=str(offset.type))
        first = to.emit("reshape", offset, shape=(offset.type.shape[0], 1, 1, 1))
    distance = to.emit("sub", to.emit("add", rows, first), to.emit("iota", length=t))
    if distance.type.rank == 2:
        distance = to.emit("reshape", distance, shape=(1, 1, s, t))
    parts = [to.emit("ge", distance, to.constant(0, i64))] if causal else []
    parts += [to.emit("le", distance, to.constant(left, i64))] if left >= 0 else []
    parts += [to.emit("ge", distance, to.constant(-right, i64))] if right >= 0 else []
    found = _all(to, parts)
    assert found is not None
    return found


def _all(to: Importer, masks: list[Value]) -> Value | None:
    """Where all of them are true; a single one keeps its form."""
    if len(masks) < 2:
        return masks[0] if masks else None
    wide = [to.emit("reshape", m, shape=(m.type.shape[0], 1, 1, m.type.shape[1])) if m.type.rank == 2 else m
            for m in masks]  # fmt: skip
    return functools.reduce(lambda a, b: to.emit("and", a, b), wide)


def up_to(to: Importer, lengths: Value, t: Dim) -> Value:
    """bool [b, t], true before each row's length."""
    places = to.emit("iota", length=t)
    return to.emit("lt", places, to.emit("reshape", lengths, shape=(*lengths.type.shape, 1)))


def _mask(to: Importer, i: int, t: Dim) -> tuple[Value | None, Value | None]:
    """(bool mask, bias) of input i as [b, h, s, t]; what it is short of keys is not attended."""
    value = to.value(i)
    value = four_axes(to, value)
    shape, kind = value.type.shape, value.type.dtype
    if shape[3] != t:
        blank = to.constant(0, kind) if kind == boolean else to.constant(-inf, kind)
        blank = to.emit("expand", blank, shape=(*shape[:3], t - shape[3]))
        value = to.emit("concat", value, blank, axis=3)
    return (value, None) if kind == boolean else (None, value)


def four_axes(to: Importer, x: Value) -> Value:
    """With axes of one in front. Raises: CaptureError where there are more than four."""
    if x.type.rank > 4:
        raise CaptureError(f"{to.op}: a mask broadcasts to [batch, heads, queries, keys], got {x.type}")
    return x if x.type.rank == 4 else to.emit("reshape", x, shape=(*[1] * (4 - x.type.rank), *x.type.shape))


def _number(to: Importer, dim: Dim) -> Value:
    return to.constant(dim, i64) if isinstance(dim, int) else to.emit("dim_value", dim=dim)


# -- rotary positions -----------------------------------------------------------------------------------


@enters(TABLE, "RotaryEmbedding")
def _(to: Importer) -> Value:
    x = to.value(0)
    turned = rotated(to, heads_last(to, x, "num_heads"), to.value(1), to.value(2), to.optional(3),
                     bool(to.attr("interleaved", 0)))  # fmt: skip
    return merged(to, turned) if x.type.rank == 3 else swapped(to, turned)


def rotated(to: Importer, x: Value, cos: Value, sin: Value, positions: Value | None, interleaved: bool) -> Value:
    """x [b, s, h, d] turned by cos and sin, [b, s, r / 2] or, where positions are given, [places, r / 2]."""
    asked = to.attr("rotary_embedding_dim", 0)
    if asked and 2 * cos.type.shape[-1] != asked:
        raise CaptureError(f"{to.op}: rotary_embedding_dim is {asked}, the caches are {cos.type}")
    tables = [_both_members(to, table, interleaved) for table in (cos, sin)]
    if positions is not None:
        tables = [to.emit("gather", table, positions, axis=0) for table in tables]
    return to.emit("rotary", x, *tables, interleaved=interleaved)


def _both_members(to: Importer, table: Value, interleaved: bool) -> Value:
    """Each angle for both members of its pair."""
    if not interleaved:
        return to.emit("concat", table, table, axis=table.type.rank - 1)
    lead, half = table.type.shape[:-1], table.type.shape[-1]
    wide = to.emit("expand", to.emit("reshape", table, shape=(*lead, half, 1)), shape=(*lead, half, 2))
    return to.emit("reshape", wide, shape=(*lead, 2 * half))


# -- caches ---------------------------------------------------------------------------------------------


@enters(TABLE, "TensorScatter")
def _(to: Importer) -> Value:
    """New rows of a cache on some axis after the first, from each row's index on; `circular` begins anew at the end."""
    cache, new = to.value(0), to.value(1)
    rank, mode = cache.type.rank, to.attr("mode", "linear")
    at = axis(to.attr("axis", -2), rank)
    if at == 0 or mode not in ("linear", "circular"):
        raise CaptureError(f"TensorScatter: axis {at}, mode {mode!r}", hint="not the batch; linear or circular")
    same_but(to.op, at, cache.type, new.type)
    order = (0, at, *(i for i in range(1, rank) if i != at))
    back = tuple(order.index(i) for i in range(rank))
    first = as_type(to, to.value(2), i64) if to.has(2) else to.constant(0, i64)
    moved = [v if order == back == tuple(range(rank)) else to.emit("transpose", v, perm=order) for v in (cache, new)]
    if mode == "circular":
        written = _written_around(to, moved[0], moved[1], first)
    elif moved[0] is cache and to.read_elsewhere(0):
        written = get("cache_write").decompose(to, *moved, first, axis=1)
    else:
        written = to.emit("cache_write", *moved, first)
    return written if moved[0] is cache else to.emit("transpose", written, perm=back)


def _written_around(to: Importer, cache: Value, new: Value, first: Value) -> Value:
    """Place i of axis 1 takes the new row (i - first) mod places where there is one."""
    (b, t, *rest), s = cache.type.shape, new.type.shape[1]
    first = to.emit("reshape", first, shape=(first.type.shape[0] if first.type.rank else 1, 1))
    at = to.emit("mod", to.emit("sub", to.emit("iota", length=t), first), _number(to, t))
    inside = to.emit("lt", at, _number(to, s))
    at = to.emit("minimum", at, _number(to, s - 1))
    wide = (at.type.shape[0], t, *[1] * len(rest))
    at = to.emit("expand", to.emit("reshape", at, shape=wide), shape=(b, t, *rest))
    return to.emit("where", to.emit("reshape", inside, shape=wide), to.emit("gather_elements", new, at, axis=1), cache)
