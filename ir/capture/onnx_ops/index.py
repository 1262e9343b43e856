"""ONNX ops that look elements up or put them in place by index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .table import axis, enters

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_onnx import Importer

TABLE: dict[str, Any] = {}


@enters(TABLE, "Gather")
def _(to: Importer) -> Value:
    x = to.value(0)
    at = axis(to.attr("axis", 0), x.type.rank)
    return to.emit("gather", x, counted(to, 1, x.type.shape[at]), axis=at)


def counted(to: Importer, i: int, size: Any) -> Value:
    """Input i as indices from the front; ONNX counts negative ones from the end. `size` is the axis's length."""
    term = to.term(i)
    if term.plain and (term.content is None or term.content.size == 0 or term.content.min() >= 0):
        return to.value(i)
    indices = to.value(i)
    if indices.type.dtype.kind == "uint":
        return indices
    length = to.emit("cast", to.emit("dim_value", dim=size), dtype=indices.type.dtype)
    zero = to.constant(0, indices.type.dtype)
    return to.emit("where", to.emit("lt", indices, zero), to.emit("add", indices, length), indices)
