"""ONNX's poolings, over all windows of a kernel laid out as axes of their own."""

from __future__ import annotations

from dataclasses import replace
from math import inf, prod
from typing import TYPE_CHECKING, Any

from ... import dims
from ...diagnostics import CaptureError
from ...dims import Dim
from ...dtypes import i64
from . import space as spaces
from .index import size_value
from .shape import expanded, reshaped
from .space import Space
from .table import enters, scalar

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_onnx import Importer

TABLE: dict[str, Any] = {}


@enters(TABLE, "GlobalAveragePool", "GlobalMaxPool")
def _(to: Importer) -> Value:
    x = to.value(0)
    axes = tuple(range(2, x.type.rank))
    return to.emit("mean" if to.op == "GlobalAveragePool" else "max", x, axes=axes, keepdims=True)


@enters(TABLE, "MaxPool")
def _(to: Importer) -> tuple[Value, ...]:
    x = to.value(0)
    s = spaces.read(to, x, to.attr("kernel_shape"))
    low = -inf if x.type.dtype.is_float else x.type.dtype.range[0]
    windows = _windows(to, x, s, low)
    y = to.emit("max", windows, axes=(-1,))
    return (y, _chosen(to, x, s, windows)) if to.wants(1) else (y,)


@enters(TABLE, "AveragePool")
def _(to: Importer) -> Value:
    """The sum over how many elements lie in the window: those of x, or also those that pads put around it."""
    x = to.value(0)
    s = spaces.read(to, x, to.attr("kernel_shape"))
    total = to.emit("sum", _windows(to, x, s, 0.0), axes=(-1,))
    ones = expanded(to, scalar(to, 1, x), (1, 1, *x.type.shape[2:]))
    if to.attr("count_include_pad", 0):
        ones = to.emit("pad", ones, before=(0, 0, *s.before), after=(0, 0, *s.after), value=1.0)
        beyond = _over(to, x, s)
        n = (0,) * len(s.kernel)
        counted = _laid_out(to, ones, replace(s, before=n, after=tuple(beyond)), 0.0)
    else:
        counted = _windows(to, ones, s, 0.0)
    return to.emit("div", total, to.emit("sum", counted, axes=(-1,)))


@enters(TABLE, "LpPool")
def _(to: Importer) -> Value:
    """The p-th root of the sum of the p-th powers of |x|."""
    x, p = to.value(0), to.attr("p", 2)
    if p < 1:
        raise CaptureError(f"LpPool: p is 1 or more, got {p}")
    s = spaces.read(to, x, to.attr("kernel_shape"))
    powers = to.emit("pow", to.emit("abs", x), scalar(to, p, x))
    return to.emit("pow", to.emit("sum", _windows(to, powers, s, 0.0), axes=(-1,)), scalar(to, 1 / p, x))


def _over(to: Importer, x: Value, s: Space) -> list[int]:
    """What `ceil_mode` adds behind the padding so that a last window, begun inside, is whole; 0 without it."""
    found = []
    for size, span, stride, before, after in zip(x.type.shape[2:], s.span, s.strides, s.before, s.after, strict=True):
        if not to.attr("ceil_mode", 0) or stride == 1:
            found.append(0)
            continue
        if not isinstance(size, int):
            raise CaptureError(f"{to.op}: ceil_mode depends on the size {size}", hint="fix that size")
        count = -(-(size + before + after - span) // stride) + 1
        if (count - 1) * stride >= size + before:
            count -= 1
        found.append(max(0, (count - 1) * stride + span - size - before - after))
    return found


def _windows(to: Importer, x: Value, s: Space, fill: float) -> Value:
    """[batch, channels, *places, kernel] of x padded with `fill`."""
    after = tuple(a + o for a, o in zip(s.after, _over(to, x, s), strict=True))
    return _laid_out(to, x, replace(s, after=after), fill)


def _laid_out(to: Importer, x: Value, s: Space, fill: float) -> Value:
    if any((*s.before, *s.after)):
        x = to.emit("pad", x, before=(0, 0, *s.before), after=(0, 0, *s.after), value=fill)
    n = len(s.kernel)
    for i in range(n):  # axis 2 + 2 · i of x is the next one of space; it becomes places and kernel
        x = to.emit("gather", x, _reach(to, x.type.shape[2 + 2 * i], s, i), axis=2 + 2 * i)
    apart = to.emit("transpose", x, perm=(0, 1, *range(2, 2 + 2 * n, 2), *range(3, 3 + 2 * n, 2)))
    return reshaped(to, apart, (*apart.type.shape[: 2 + n], prod(s.kernel)))


def _reach(to: Importer, size: Dim, s: Space, i: int) -> Value:
    """Which elements each place of a kernel sees along an axis: [places, kernel]."""
    count = spaces.places(size, s.span[i], s.strides[i], 0, 0)
    if dims.at_most(count, 0, to.ranges):
        raise CaptureError(f"{to.op}: a kernel that reaches over {s.span[i]} does not fit into {size}")
    first = _steps(to, count, s.strides[i])
    return to.emit("add", to.emit("reshape", first, shape=(count, 1)), _steps(to, s.kernel[i], s.dilations[i]))


def _steps(to: Importer, count: Dim, step: int) -> Value:
    return to.emit("iota", length=count, step=step)


def _chosen(to: Importer, x: Value, s: Space, windows: Value) -> Value:
    """Where the greatest of each window stands in x, counted through all of it; padding is never chosen."""
    best = to.emit("argmax", windows, axis=windows.type.rank - 1)
    out, space = best.type.shape, x.type.shape[2:]
    column = to.attr("storage_order", 0)
    total = to.emit("mul", _down(to, (*out[:2],), len(space)), size_value(to, dims.product(space)))
    for i, k in enumerate(s.kernel):
        local = to.emit("div", best, to.constant(prod(s.kernel[i + 1 :]), i64))
        local = to.emit("mul", to.emit("mod", local, to.constant(k, i64)), to.constant(s.dilations[i], i64))
        first = to.emit("iota", length=out[2 + i], start=-s.before[i], step=s.strides[i])
        first = reshaped(to, first, (out[2 + i], *[1] * (len(space) - 1 - i)))
        step = dims.product(space[:i] if column else space[i + 1 :])
        total = to.emit("add", total, to.emit("mul", to.emit("add", local, first), size_value(to, step)))
    return total


def _down(to: Importer, outer: tuple[Dim, ...], behind: int) -> Value:
    """The number of each image: [batch, channels, 1, ...]."""
    return reshaped(to, to.emit("iota", length=dims.product(outer)), (*outer, *[1] * behind))
