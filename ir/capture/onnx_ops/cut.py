"""ONNX ops that cut pieces out of tensors, or fill around them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ... import dims
from ...diagnostics import CaptureError
from ...dims import Dim
from ...dtypes import i64
from .shape import expanded, reshaped
from .table import axis, enters, number, scalar

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_onnx import Importer

TABLE: dict[str, Any] = {}
_FAR = 2**31 - 1  # what exporters write for "to the end"


def least(to: Importer, a: Dim, b: Dim) -> Dim:
    """The lesser size; one of the two where the ranges of the symbols decide."""
    if dims.at_most(a, b, to.ranges):
        return a
    return b if dims.at_most(b, a, to.ranges) else dims.minimum(a, b)


def greatest(to: Importer, a: Dim, b: Dim) -> Dim:
    """The greater size; one of the two where the ranges of the symbols decide."""
    if dims.at_most(a, b, to.ranges):
        return b
    return a if dims.at_most(b, a, to.ranges) else dims.maximum(a, b)


@enters(TABLE, "Slice")
def _(to: Importer) -> Value:
    x = to.value(0)
    if to.count > 1:
        starts, ends = to.dims(1, "starts"), to.dims(2, "ends")
        axes = to.ints(3, "axes") if to.has(3) else tuple(range(len(starts)))
        steps = to.ints(4, "steps") if to.has(4) else (1,) * len(starts)
    else:
        starts, ends, steps = tuple(to.attr("starts")), tuple(to.attr("ends")), (1,) * len(to.attr("starts"))
        axes = tuple(to.attr("axes", range(len(starts))))
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise CaptureError(f"Slice: {len(starts)} starts, {len(ends)} ends, {len(axes)} axes, {len(steps)} steps")
    for start, end, at, step in zip(starts, ends, axes, steps, strict=True):
        x = sliced(to, x, axis(at, x.type.rank), start, end, step)
    return x


def sliced(to: Importer, x: Value, at: int, start: Dim, end: Dim, step: int) -> Value:
    """x[start:end:step] along one axis, with Python's meaning of negative and of far bounds."""
    size = x.type.shape[at]
    if step == 0:
        raise CaptureError("Slice: a step is 0")
    if step < 0:
        return _backwards(to, x, at, start, end, step)
    low = _bound(to, start, size)
    high = greatest(to, low, _bound(to, end, size))
    if low == 0 and high == size and step == 1:
        return x
    return to.emit("slice", x, axis=at, start=low, stop=high, step=step)


def _backwards(to: Importer, x: Value, at: int, start: Dim, end: Dim, step: int) -> Value:
    """By index: from start down to just above end, which counts from the end of the axis where it is negative."""
    size = x.type.shape[at]
    first = least(to, _counted(to, start, size), size - 1)
    last = greatest(to, _counted(to, end, size), -1)
    count = greatest(to, 0, dims.floordiv(first - last - step - 1, -step))
    if count == 0:
        return to.emit("slice", x, axis=at, start=0, stop=0)
    return to.emit("gather", x, to.emit("iota", length=count, start=first, step=step), axis=at)


def _bound(to: Importer, bound: Dim, size: Dim) -> Dim:
    """A bound counted from the front, within 0..size."""
    if isinstance(bound, int) and bound >= _FAR:
        return size
    return greatest(to, 0, least(to, _counted(to, bound, size), size))


def _counted(to: Importer, bound: Dim, size: Dim) -> Dim:
    if isinstance(bound, int):
        return bound + size if -_FAR <= bound < 0 else bound
    low, high = dims.bounds(bound, to.ranges)
    if low is not None and low >= 0:
        return bound
    if high is not None and high < 0:
        return bound + size
    raise CaptureError(f"Slice: whether {bound} counts from the front or from the end is not settled",
                       hint="narrow the range of its sizes")  # fmt: skip


@enters(TABLE, "Split")
def _(to: Importer) -> tuple[Value, ...]:
    """Sizes are an input since opset 13; `num_outputs` (18) makes the last piece the smaller one."""
    x = to.value(0)
    at = axis(to.attr("axis", 0), x.type.rank)
    if not x.type.rank:
        raise CaptureError("Split takes a tensor with axes, got a scalar")
    if to.has(1):
        sizes = to.dims(1, "sizes")
    elif to.attr("split", None) is not None:
        sizes = tuple(to.attr("split"))
    else:
        sizes = _even(to, x.type.shape[at], to.attr("num_outputs", len(to.node.output)))
    return to.emit_many("split", x, axis=at, sizes=sizes)


def _even(to: Importer, size: Dim, count: int) -> tuple[Dim, ...]:
    if count < 1 or count != len(to.node.output):
        raise CaptureError(f"Split: {count} pieces for {len(to.node.output)} outputs")
    if isinstance(size, int):
        piece = -(-size // count)
        return tuple(max(0, min(piece, size - i * piece)) for i in range(count))
    if dims.mod(size, count) != 0:
        raise CaptureError(f"Split: whether {size} falls into {count} pieces of one size is not settled")
    return (dims.floordiv(size, count),) * count


@enters(TABLE, "Pad")
def _(to: Importer) -> Value:
    """Negative amounts cut. Amounts and value are inputs since opset 11, axes since 18."""
    x = to.value(0)
    if to.term(1).content is not None and not to.term(1).plain:
        return _by_sizes(to, x)
    pads = to.ints(1, "pads")
    axes = [axis(a, x.type.rank) for a in to.ints(3, "axes")] if to.has(3) else list(range(x.type.rank))
    if len(pads) != 2 * len(axes) or len(set(axes)) != len(axes):
        raise CaptureError(f"Pad: {len(pads)} amounts for {len(axes)} axes")
    before, after = [0] * x.type.rank, [0] * x.type.rank
    for i, at in enumerate(axes):
        before[at], after[at] = pads[i], pads[i + len(axes)]
    for at in axes:
        x = sliced(to, x, at, max(0, -before[at]), x.type.shape[at] - max(0, -after[at]), 1)
    return padded(to, x, tuple(max(0, b) for b in before), tuple(max(0, a) for a in after))


def _by_sizes(to: Importer, x: Value) -> Value:
    """Pads that follow from sizes: blocks of the value, put before and behind."""
    pads = to.dims(1, "pads")
    axes = [axis(a, x.type.rank) for a in to.ints(3, "axes")] if to.has(3) else list(range(x.type.rank))
    if len(pads) != 2 * len(axes) or len(set(axes)) != len(axes):
        raise CaptureError(f"Pad: {len(pads)} amounts for {len(axes)} axes")
    if to.attr("mode", "constant") != "constant" or not all(dims.at_most(0, p, to.ranges) for p in pads):
        raise CaptureError(f"Pad: amounts of {list(map(str, pads))} are for mode constant, and not below 0",
                           hint="narrow the range of the sizes")  # fmt: skip
    fill = reshaped(to, to.value(2), ()) if to.has(2) else scalar(to, 0, x)
    for at, before, after in zip(axes, pads, pads[len(axes) :], strict=False):
        parts = [expanded(to, fill, (*x.type.shape[:at], p, *x.type.shape[at + 1 :])) for p in (before, after)]
        x = to.emit("concat", parts[0], x, parts[1], axis=at)
    return x


def padded(to: Importer, x: Value, before: tuple[int, ...], after: tuple[int, ...]) -> Value:
    mode = to.attr("mode", "constant")
    if mode == "constant":
        return _filled(to, x, before, after)
    if mode not in _FROM:
        raise CaptureError(f"Pad: mode is constant, {', '.join(_FROM)}; got {mode!r}")
    for at, (b, a) in enumerate(zip(before, after, strict=True)):
        if b or a:
            x = to.emit("gather", x, _FROM[mode](to, x.type.shape[at], b, a), axis=at)
    return x


def _filled(to: Importer, x: Value, before: tuple[int, ...], after: tuple[int, ...]) -> Value:
    if not any((*before, *after)):
        return x
    fill = number(to, 2, "value") if to.has(2) and to.term(2).plain else 0
    wide = to.emit("pad", x, before=before, after=after, value=float(fill))
    if float(fill) == fill and not (to.has(2) and not to.term(2).plain):
        return wide
    inside = to.emit("pad", expanded(to, scalar(to, 1, x, "bool"), x.type.shape), before=before, after=after)
    return to.emit("where", inside, wide, reshaped(to, to.value(2), ()))


def _places(to: Importer, size: Dim, before: int, after: int) -> tuple[Value, Value]:
    """(-before, ..., size + after - 1), and the last place that there is."""
    return to.emit("iota", length=size + before + after, start=-before), _size(to, size - 1)


def _size(to: Importer, size: Dim) -> Value:
    return to.constant(size, i64) if isinstance(size, int) else to.emit("dim_value", dim=size)


def _from_edge(to: Importer, size: Dim, before: int, after: int) -> Value:
    at, last = _places(to, size, before, after)
    return to.emit("minimum", to.emit("maximum", at, to.constant(0, i64)), last)


def _from_mirror(to: Importer, size: Dim, before: int, after: int) -> Value:
    """There and back again, the ends being met once: place p of a round of 2 · (size - 1)."""
    at, last = _places(to, size, before, after)
    if size == 1:
        return to.emit("mul", at, to.constant(0, i64))
    round_trip = to.emit("mul", last, to.constant(2, i64))
    place = to.emit("mod", at, round_trip)
    return to.emit("minimum", place, to.emit("sub", round_trip, place))


def _from_wrap(to: Importer, size: Dim, before: int, after: int) -> Value:
    at, _ = _places(to, size, before, after)
    return to.emit("mod", at, _size(to, size))


_FROM = {"edge": _from_edge, "reflect": _from_mirror, "wrap": _from_wrap}


@enters(TABLE, "Trilu")
def _(to: Importer) -> Value:
    """What lies on one side of the diagonal k is kept, the rest is 0."""
    x = to.value(0)
    if x.type.rank < 2:
        raise CaptureError(f"Trilu takes matrices, got {x.type}")
    rows, columns = x.type.shape[-2:]
    k = reshaped(to, to.value(1), ()) if to.has(1) else to.constant(0, i64)
    row = to.emit("reshape", to.emit("iota", length=rows), shape=(rows, 1))
    off = to.emit("sub", to.emit("iota", length=columns), to.emit("add", row, k))
    keep = to.emit("ge" if to.attr("upper", 1) else "le", off, to.constant(0, i64))
    return to.emit("where", keep, x, scalar(to, 0, x))
