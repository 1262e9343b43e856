"""ONNX ops that look for elements: the greatest, those that are not 0, those that are alike; and running sums."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...diagnostics import CaptureError
from ...dtypes import from_numpy, i64
from ..onnx_terms import Term
from .cut import sliced
from .index import size_value
from .shape import reshaped
from .table import axis, enters, number, scalar

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_onnx import Importer

TABLE: dict[str, Any] = {}


@enters(TABLE, "ArgMax", "ArgMin")
def _(to: Importer) -> Value:
    """The first of equals, or the last."""
    x = to.value(0)
    at, keep = axis(to.attr("axis", 0), x.type.rank), bool(to.attr("keepdims", 1))
    if not x.type.rank:
        raise CaptureError(f"{to.op} takes a tensor with axes, got a scalar")
    if to.op == "ArgMin":
        x = _turned(to, x)
    if not to.attr("select_last_index", 0):
        return to.emit("argmax", x, axis=at, keepdims=keep)
    found = to.emit("argmax", _flipped(to, x, at), axis=at, keepdims=keep)
    return to.emit("sub", size_value(to, x.type.shape[at] - 1), found)


def _turned(to: Importer, x: Value) -> Value:
    """In the opposite order; the least whole number has no negative."""
    if x.type.dtype.is_float:
        return to.emit("neg", x)
    if x.type.dtype.kind == "uint":
        return to.emit("sub", to.emit("sub", scalar(to, 0, x), scalar(to, 1, x)), x)
    return to.emit("sub", to.emit("neg", x), scalar(to, 1, x))


def _flipped(to: Importer, x: Value, at: int) -> Value:
    size = x.type.shape[at]
    return to.emit("gather", x, to.emit("iota", length=size, start=size - 1, step=-1), axis=at)


@enters(TABLE, "TopK")
def _(to: Importer) -> tuple[Value, ...]:
    x, k = to.value(0), int(number(to, 1, "k"))
    at = axis(to.attr("axis", -1), x.type.rank)
    return to.emit_many("topk", x, k=k, axis=at, largest=bool(to.attr("largest", 1)))


@enters(TABLE, "CumSum")
def _(to: Importer) -> Value:
    """Exclusive leaves the element itself out, reverse goes from the end."""
    x = to.value(0)
    at = axis(int(number(to, 1, "axis")), x.type.rank)
    if not x.type.rank:
        raise CaptureError("CumSum takes a tensor with axes, got a scalar")
    return _running(to, x, at, lambda y: to.emit("cumsum", y, axis=at), 0.0)


@enters(TABLE, "CumProd")
def _(to: Importer) -> Value:
    """Each product on its own, of the elements up to its place."""
    x = to.value(0)
    at = axis(int(number(to, 1, "axis")), x.type.rank)
    if not x.type.rank:
        raise CaptureError("CumProd takes a tensor with axes, got a scalar")
    size, rest = x.type.shape[at], [1] * (x.type.rank - at - 1)

    def products(y: Value) -> Value:
        column = to.emit("iota", length=size)
        within = to.emit("le", column, to.emit("reshape", column, shape=(size, 1)))
        rows = reshaped(to, y, (*y.type.shape[:at], 1, *y.type.shape[at:]))
        return to.emit("prod", to.emit("where", reshaped(to, within, (size, size, *rest)), rows, scalar(to, 1, y)),
                       axes=(at + 1,))  # fmt: skip

    return _running(to, x, at, products, 1.0)


def _running(to: Importer, x: Value, at: int, run: Any, first: float) -> Value:
    size, reverse = x.type.shape[at], to.attr("reverse", 0)
    x = _flipped(to, x, at) if reverse else x
    if to.attr("exclusive", 0):
        before = tuple(int(i == at) for i in range(x.type.rank))
        x = sliced(to, to.emit("pad", x, before=before, after=(0,) * x.type.rank, value=first), at, 0, size, 1)
    y: Value = run(x)
    return _flipped(to, y, at) if reverse else y


@enters(TABLE, "OneHot")
def _(to: Importer) -> Value:
    """`on` where the index names the place on the new axis; an index outside of -depth..depth-1 names none."""
    indices, depth, values = to.value(0), int(number(to, 1, "depth")), to.value(2)
    rank = indices.type.rank + 1
    at = axis(to.attr("axis", -1), rank)
    if values.type.shape != (2,) or depth < 0:
        raise CaptureError(f"OneHot: a depth of {depth} and values {values.type}, which are two numbers")
    off, on = (reshaped(to, v, ()) for v in to.emit_many("split", values, axis=0, sizes=(1, 1)))
    shape = (*indices.type.shape[:at], 1, *indices.type.shape[at:])
    near = reshaped(to, indices if indices.type.dtype == i64 else to.emit("cast", indices, dtype=i64), shape)
    zero, full = to.constant(0, i64), to.constant(depth, i64)
    near = to.emit("where", to.emit("lt", near, zero), to.emit("add", near, full), near)
    places = to.emit("reshape", to.emit("iota", length=depth), shape=(depth, *[1] * (rank - 1 - at)))
    return to.emit("where", to.emit("eq", near, places), on, off)


# -- what has as many elements as the data say ----------------------------------------------------------------


@enters(TABLE, "NonZero")
def _(to: Importer) -> Term:
    """The number of places found is a size of the result, so the data must be known."""
    found = np.array(np.nonzero(np.atleast_1d(to.content(0, "number of elements that are not 0"))), np.int64)
    return Term(i64, found.shape, content=found)


@enters(TABLE, "Compress")
def _(to: Importer) -> Value:
    """The slices, or without an axis the elements, at which the condition holds."""
    x, kept = to.value(0), np.flatnonzero(to.content(1, "condition"))
    at = to.attr("axis", None)
    if at is None:
        x, at = reshaped(to, x, (x.type.elements,)), 0
    return to.emit("gather", x, to.weight("kept", kept.astype(np.int64)), axis=axis(at, x.type.rank))


@enters(TABLE, "Unique")
def _(to: Importer) -> list[Term]:
    """Each element, or slice along the axis, once: sorted, or in the order in which they come."""
    x, at = to.content(0, "number of different elements"), to.attr("axis", None)
    at = None if at is None else axis(at, x.ndim)
    values, first, inverse, count = np.unique(x, return_index=True, return_inverse=True, return_counts=True, axis=at)
    order = np.arange(len(first)) if to.attr("sorted", 1) else np.argsort(first, kind="stable")
    place = np.argsort(order, kind="stable")
    results = [np.take(values, order, at or 0), first[order], place[inverse.reshape(-1)], count[order]]
    results[1:] = [r.astype(np.int64) for r in results[1:]]
    return [Term(from_numpy(r.dtype), r.shape, content=r) for r in results]
