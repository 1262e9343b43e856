"""ONNX ops that look elements up or put them in place by index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ... import dims
from ...diagnostics import CaptureError
from ...dims import Dim
from ...dtypes import DType, i64
from .cut import sliced
from .shape import expanded, reshaped
from .table import axis, enters

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_onnx import Importer

TABLE: dict[str, Any] = {}
_REDUCTIONS = ("none", "add", "mul", "max", "min")


@enters(TABLE, "Gather")
def _(to: Importer) -> Value:
    x = to.value(0)
    if not x.type.rank:
        raise CaptureError("Gather takes a tensor with axes, got a scalar")
    at = axis(to.attr("axis", 0), x.type.rank)
    return to.emit("gather", x, counted(to, 1, x.type.shape[at]), axis=at)


def counted(to: Importer, i: int, size: Dim) -> Value:
    """Input i as indices from the front; ONNX counts negative ones from the end. `size` is the axis's length."""
    term = to.term(i)
    if term.plain and (term.content is None or term.content.size == 0 or term.content.min() >= 0):
        return to.value(i)
    return from_front(to, to.value(i), size)


def from_front(to: Importer, indices: Value, size: Dim) -> Value:
    if indices.type.dtype.kind == "uint":
        return indices
    zero = to.constant(0, indices.type.dtype)
    wrapped = to.emit("add", indices, size_value(to, size, indices.type.dtype))
    return to.emit("where", to.emit("lt", indices, zero), wrapped, indices)


def size_value(to: Importer, size: Dim, dtype: DType = i64) -> Value:
    """A size as a scalar of the graph."""
    if isinstance(size, int):
        return to.constant(size, dtype)
    value = to.emit("dim_value", dim=size)
    return value if dtype == i64 else to.emit("cast", value, dtype=dtype)


@enters(TABLE, "GatherElements")
def _(to: Importer) -> Value:
    """Off the axis the indices may reach less far than x."""
    x, shape = to.value(0), to.term(1).shape
    at = _element_axis(to, x, shape)
    for i, size in enumerate(shape):
        if i != at:
            x = sliced(to, x, i, 0, size, 1)
    return to.emit("gather_elements", x, counted(to, 1, x.type.shape[at]), axis=at)


def _element_axis(to: Importer, x: Value, shape: Sequence[Dim]) -> int:
    if len(shape) != x.type.rank or not shape:
        raise CaptureError(f"{to.op}: the indices have {len(shape)} axes, the data are {x.type}")
    return axis(to.attr("axis", 0), x.type.rank)


@enters(TABLE, "ScatterElements", "Scatter")
def _(to: Importer) -> Value:
    """Off the axis the indices may reach less far than x; then places are counted through all of x."""
    x, updates = to.value(0), to.value(2)
    at = _element_axis(to, x, to.term(1).shape)
    indices, shape = counted(to, 1, x.type.shape[at]), x.type.shape
    reduction = _reduction(to)
    if all(i == at or d == shape[i] for i, d in enumerate(indices.type.shape)):
        return to.emit("scatter_elements", x, indices, updates, axis=at, reduction=reduction)
    places = _linear(to, [indices if i == at else _along(to, i, indices.type.shape) for i in range(len(shape))], shape)
    flat = to.emit(
        "scatter_elements", _flat(to, x), _flat(to, expanded(to, places, indices.type.shape)), _flat(to, updates),
        axis=0, reduction=reduction,
    )  # fmt: skip
    return reshaped(to, flat, shape)


def _reduction(to: Importer) -> str:
    found: str = to.attr("reduction", "none")
    if found not in _REDUCTIONS:
        raise CaptureError(f"{to.op}: reduction is one of {', '.join(_REDUCTIONS)}; got {found!r}")
    return found


def _flat(to: Importer, x: Value) -> Value:
    return reshaped(to, x, (x.type.elements,))


def _along(to: Importer, i: int, shape: Sequence[Dim]) -> Value:
    """0, 1, 2, ... along axis i of a shape, with the axes behind it as 1."""
    return to.emit("reshape", to.emit("iota", length=shape[i]), shape=(shape[i], *[1] * (len(shape) - 1 - i)))


def _linear(to: Importer, coordinates: Sequence[Value], shape: Sequence[Dim]) -> Value:
    """The place in row-major order that coordinates name in a shape."""
    total: Value | None = None
    for i, c in enumerate(coordinates):
        step = dims.product(shape[i + 1 :])
        wide = c if c.type.dtype == i64 else to.emit("cast", c, dtype=i64)
        part = wide if step == 1 else to.emit("mul", wide, size_value(to, step))
        total = part if total is None else to.emit("add", total, part)
    assert total is not None, "a place has coordinates"
    return total


@enters(TABLE, "GatherND")
def _(to: Importer) -> Value:
    """Slices of x by places of their leading axes; x as one list of them."""
    x, indices, batch = to.value(0), to.value(1), to.attr("batch_dims", 0)
    k = _depth(to, x, indices, batch)
    outer = indices.type.shape[:-1]
    named = x.type.shape[: batch + k]
    places = [_along(to, i, outer) for i in range(batch)]
    places += _coordinates(to, indices, x.type.shape[batch : batch + k])
    at = expanded(to, _linear(to, places, named), outer)
    rows = reshaped(to, x, (dims.product(named), *x.type.shape[batch + k :]))
    return to.emit("gather", rows, at, axis=0)


def _depth(to: Importer, x: Value, indices: Value, batch: int = 0) -> int:
    """How many axes of x an index names."""
    k = indices.type.shape[-1] if indices.type.rank else 0
    if not isinstance(k, int) or not 1 <= k <= x.type.rank - batch or not 0 <= batch < indices.type.rank:
        raise CaptureError(f"{to.op}: indices {indices.type} do not name places of {x.type}")
    return k


def _coordinates(to: Importer, indices: Value, shape: Sequence[Dim]) -> list[Value]:
    """The last axis taken apart, each coordinate from the front."""
    last = indices.type.rank - 1
    parts = to.emit_many("split", indices, axis=last, sizes=(1,) * len(shape))
    return [from_front(to, reshaped(to, p, p.type.shape[:-1]), d) for p, d in zip(parts, shape, strict=True)]


@enters(TABLE, "ScatterND")
def _(to: Importer) -> Value:
    """Slices of x replaced at places of its leading axes; x as one list of them, each element with its place."""
    x, indices, updates = to.value(0), to.value(1), to.value(2)
    k = _depth(to, x, indices)
    named, slices = x.type.shape[:k], dims.product(x.type.shape[k:])
    count = dims.product(indices.type.shape[:-1])
    at = reshaped(to, _linear(to, _coordinates(to, indices, named), named), (count, 1))
    rows = to.emit(
        "scatter_elements", reshaped(to, x, (dims.product(named), slices)), expanded(to, at, (count, slices)),
        reshaped(to, updates, (count, slices)), axis=0, reduction=_reduction(to),
    )  # fmt: skip
    return reshaped(to, rows, x.type.shape)


@enters(TABLE, "ReverseSequence")
def _(to: Importer) -> Value:
    """Along time the first `sequence_lens[b]` places of batch b are turned round."""
    x = to.value(0)
    time, batch = to.attr("time_axis", 0), to.attr("batch_axis", 1)
    if {time, batch} != {0, 1} or x.type.rank < 2:
        raise CaptureError(f"ReverseSequence: its axes are 0 and 1, got time {time} and batch {batch} of {x.type}")
    length = to.emit("cast", to.value(1), dtype=i64)
    length = reshaped(to, length, (x.type.shape[batch], 1) if batch == 0 else (x.type.shape[batch],))
    at = _along(to, time, x.type.shape[:2])
    turned = to.emit("sub", to.emit("sub", length, to.constant(1, i64)), at)
    places = to.emit("where", to.emit("lt", at, length), turned, at)
    full = expanded(to, reshaped(to, places, (*places.type.shape, *[1] * (x.type.rank - 2))), x.type.shape)
    return to.emit("gather_elements", x, full, axis=time)
