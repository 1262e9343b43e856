"""ONNX's reductions."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

from ... import dims
from ...diagnostics import CaptureError
from ...dtypes import boolean
from .index import size_value
from .shape import expanded, reshaped
from .table import axis, enters, scalar

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_onnx import Importer

    Axes = tuple[int, ...]

TABLE: dict[str, Any] = {}


def _reduction(name: str) -> Callable[[Callable[[Importer, Value, Axes, bool], Value]], Any]:
    """Enters a reduction, whose function is given x, the axes counted from the front, and whether they stay as 1."""

    def register(function: Callable[[Importer, Value, Axes, bool], Value]) -> Any:
        @enters(TABLE, name)
        def translate(to: Importer) -> Value:
            x = to.value(0)
            axes = _axes(to, x)
            return x if axes is None else function(to, x, axes, bool(to.attr("keepdims", 1)))

        return function

    return register


def _axes(to: Importer, x: Value) -> Axes | None:
    """Which axes go, an input since opset 13 (ReduceSum) or 18; None where there are none and that means none."""
    given = to.ints(1, "axes") if to.has(1) else to.attr("axes", None)
    if given is None or len(given) == 0:
        return None if to.attr("noop_with_empty_axes", 0) else tuple(range(x.type.rank))
    axes = [axis(a, x.type.rank) for a in given] if x.type.rank else []
    if len(set(axes)) != len(axes):
        raise CaptureError(f"{to.op}: an axis is named twice in {list(given)}")
    return tuple(sorted(axes))


@_reduction("ReduceSum")
def _sum(to: Importer, x: Value, axes: Axes, keep: bool) -> Value:
    return to.emit("sum", x, axes=axes, keepdims=keep)


@_reduction("ReduceProd")
def _(to: Importer, x: Value, axes: Axes, keep: bool) -> Value:
    return to.emit("prod", x, axes=axes, keepdims=keep)


@_reduction("ReduceMean")
def _(to: Importer, x: Value, axes: Axes, keep: bool) -> Value:
    if x.type.dtype.is_float:
        return to.emit("mean", x, axes=axes, keepdims=keep)
    count = dims.product(x.type.shape[a] for a in axes)
    return to.emit("div", _sum(to, x, axes, keep), size_value(to, count, x.type.dtype))


@_reduction("ReduceMax")
def _max(to: Importer, x: Value, axes: Axes, keep: bool) -> Value:
    return _extreme(to, x, axes, keep, ("max", "any"), -inf)


@_reduction("ReduceMin")
def _(to: Importer, x: Value, axes: Axes, keep: bool) -> Value:
    return _extreme(to, x, axes, keep, ("min", "all"), inf)


def _extreme(to: Importer, x: Value, axes: Axes, keep: bool, ops: tuple[str, str], far: float) -> Value:
    """Of nothing it is the type's own end."""
    dtype = x.type.dtype
    if dtype == boolean:
        return to.emit(ops[1], x, axes=axes, keepdims=keep)
    if any(x.type.shape[a] == 0 for a in axes):
        end = far if dtype.is_float else dtype.range[far > 0]
        kept = tuple(1 if i in axes else d for i, d in enumerate(x.type.shape) if keep or i not in axes)
        return expanded(to, to.constant(end, dtype), kept)
    return to.emit(ops[0], x, axes=axes, keepdims=keep)


@_reduction("ReduceL1")
def _(to: Importer, x: Value, axes: Axes, keep: bool) -> Value:
    return _sum(to, to.emit("abs", x), axes, keep)


@_reduction("ReduceSumSquare")
def _squares(to: Importer, x: Value, axes: Axes, keep: bool) -> Value:
    return _sum(to, to.emit("mul", x, x), axes, keep)


@_reduction("ReduceL2")
def _(to: Importer, x: Value, axes: Axes, keep: bool) -> Value:
    return to.emit("sqrt", _squares(to, x, axes, keep))


@_reduction("ReduceLogSum")
def _(to: Importer, x: Value, axes: Axes, keep: bool) -> Value:
    return to.emit("log", _sum(to, x, axes, keep))


@_reduction("ReduceLogSumExp")
def _(to: Importer, x: Value, axes: Axes, keep: bool) -> Value:
    """The greatest is taken out, so that nothing overflows; where that is not finite there is nothing to take out."""
    top = _max(to, x, axes, True)
    finite = to.emit("lt", to.emit("abs", top), scalar(to, inf, x))
    top = to.emit("where", finite, top, scalar(to, 0, x))
    total = to.emit("add", to.emit("log", _sum(to, to.emit("exp", to.emit("sub", x, top)), axes, True)), top)
    return total if keep else reshaped(to, total, [d for i, d in enumerate(x.type.shape) if i not in axes])
