"""ONNX ops that rename or move elements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ... import dims
from ...dims import Dim
from ..onnx_terms import of_dims
from .table import axis, enters

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_onnx import Importer
    from ..onnx_terms import Term

TABLE: dict[str, Any] = {}


@enters(TABLE, "Shape")
def _(to: Importer) -> Term:
    shape = to.term(0).shape
    rank = len(shape)
    start, end = to.attr("start", 0), to.attr("end", rank)
    return of_dims(shape[slice(*(max(0, min(rank, i + rank if i < 0 else i)) for i in (start, end)))])


@enters(TABLE, "Reshape")
def _(to: Importer) -> Value:
    x, shape = to.value(0), list(to.dims(1, "shape"))
    if not to.attr("allowzero", 0):
        shape = [x.type.shape[i] if s == 0 else s for i, s in enumerate(shape)]
    if -1 in shape:
        at = shape.index(-1)
        rest = dims.product(s for i, s in enumerate(shape) if i != at)
        shape[at] = _quotient(x.type.elements, rest)
    return x if tuple(shape) == x.type.shape else to.emit("reshape", x, shape=tuple(shape))


def _quotient(whole: Dim, part: Dim) -> Dim:
    return 0 if part == 0 else dims.floordiv(whole, part)


@enters(TABLE, "Concat")
def _(to: Importer) -> Value:
    parts = [to.value(i) for i in range(to.count)]
    return to.emit("concat", *parts, axis=axis(to.attr("axis"), parts[0].type.rank))


@enters(TABLE, "Unsqueeze")
def _(to: Importer) -> Value:
    x = to.value(0)
    axes = to.ints(1, "axes") if to.has(1) else tuple(to.attr("axes"))
    rank = x.type.rank + len(axes)
    new, old = {axis(a, rank) for a in axes}, iter(x.type.shape)
    return to.emit("reshape", x, shape=tuple(1 if i in new else next(old) for i in range(rank)))


@enters(TABLE, "Identity")
def _(to: Importer) -> Term:
    return to.term(0)
