"""ONNX ops that rename elements or join tensors. Those that cut and fill stand in cut.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ... import dims
from ...diagnostics import CaptureError
from ...dims import Dim
from ...ops.broadcast import broadcast
from ..onnx_terms import of_dims
from .table import axis, enters, sizes

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_onnx import Importer
    from ..onnx_terms import Term

TABLE: dict[str, Any] = {}


@enters(TABLE, "Identity")
def _(to: Importer) -> Term:
    return to.term(0)


@enters(TABLE, "Shape")
def _(to: Importer) -> Term:
    """Its sizes from start to end; opset 15 brought those, which are clamped."""
    shape = to.term(0).shape
    rank = len(shape)
    start, end = to.attr("start", 0), to.attr("end", rank)
    return of_dims(shape[slice(*(max(0, min(rank, i + rank if i < 0 else i)) for i in (start, end)))])


@enters(TABLE, "Size")
def _(to: Importer) -> Term:
    return of_dims(dims.product(to.term(0).shape))


@enters(TABLE, "Reshape")
def _(to: Importer) -> Value:
    x, shape = to.value(0), list(to.dims(1, "shape"))
    if not to.attr("allowzero", 0):
        shape = [_kept(x, i) if s == 0 else s for i, s in enumerate(shape)]
    if -1 in shape:
        at = shape.index(-1)
        rest = dims.product(s for i, s in enumerate(shape) if i != at)
        shape[at] = 0 if rest == 0 else dims.floordiv(x.type.elements, rest)
    return reshaped(to, x, shape)


def _kept(x: Value, i: int) -> Dim:
    if i >= x.type.rank:
        raise CaptureError(f"Reshape: a 0 keeps the size of axis {i}, which {x.type} lacks")
    return x.type.shape[i]


def reshaped(to: Importer, x: Value, shape: Any) -> Value:
    return x if tuple(shape) == x.type.shape else to.emit("reshape", x, shape=tuple(shape))


@enters(TABLE, "Flatten")
def _(to: Importer) -> Value:
    x, at = to.value(0), to.attr("axis", 1)
    if not -x.type.rank <= at <= x.type.rank:
        raise CaptureError(f"Flatten: axis {at} is outside {x.type}")
    at += x.type.rank if at < 0 else 0
    return reshaped(to, x, (dims.product(x.type.shape[:at]), dims.product(x.type.shape[at:])))


@enters(TABLE, "Squeeze")
def _(to: Importer) -> Value:
    """Axes are an input since opset 13; without any, all of size 1 go."""
    x = to.value(0)
    given = _axes(to, 1)
    gone = {i for i, d in enumerate(x.type.shape) if d == 1} if given is None else {axis(a, x.type.rank) for a in given}
    for i in gone:
        if x.type.shape[i] != 1:
            raise CaptureError(f"Squeeze: axis {i} of {x.type} is not of size 1")
    return reshaped(to, x, [d for i, d in enumerate(x.type.shape) if i not in gone])


@enters(TABLE, "Unsqueeze")
def _(to: Importer) -> Value:
    x, axes = to.value(0), _axes(to, 1)
    if axes is None:
        raise CaptureError("Unsqueeze lacks its axes")
    rank = x.type.rank + len(axes)
    new, old = {axis(a, rank) for a in axes}, iter(x.type.shape)
    if len(new) != len(axes):
        raise CaptureError(f"Unsqueeze: an axis is named twice in {list(axes)}")
    return reshaped(to, x, [1 if i in new else next(old) for i in range(rank)])


def _axes(to: Importer, i: int) -> tuple[int, ...] | None:
    """Axes from input i, or from the attribute that it was before."""
    if to.has(i):
        return to.ints(i, "axes")
    given = to.attr("axes", None)
    return None if given is None else tuple(given)


@enters(TABLE, "Transpose")
def _(to: Importer) -> Value:
    x = to.value(0)
    perm = tuple(to.attr("perm", range(x.type.rank)[::-1]))
    return x if perm == tuple(range(x.type.rank)) else to.emit("transpose", x, perm=perm)


@enters(TABLE, "Concat")
def _(to: Importer) -> Value:
    parts = [to.value(i) for i in range(to.count)]
    return parts[0] if len(parts) == 1 else to.emit("concat", *parts, axis=axis(to.attr("axis"), parts[0].type.rank))


@enters(TABLE, "Expand")
def _(to: Importer) -> Value:
    """Both sides broadcast: a 1 in the shape keeps the size."""
    x, shape = to.value(0), sizes(to, 1, "shape")
    return expanded(to, x, broadcast("Expand", x.type.shape, shape))


def expanded(to: Importer, x: Value, shape: tuple[Dim, ...]) -> Value:
    return x if shape == x.type.shape else to.emit("expand", x, shape=shape)


@enters(TABLE, "Tile")
def _(to: Importer) -> Value:
    """Each axis between a new one in front, which is expanded, and both then taken as one."""
    x, repeats = to.value(0), sizes(to, 1, "repeats")
    shape = x.type.shape
    if len(repeats) != len(shape):
        raise CaptureError(f"Tile: {len(repeats)} repeats for {x.type}")
    apart = reshaped(to, x, [d for size in shape for d in (1, size)])
    wide = expanded(to, apart, tuple(d for pair in zip(repeats, shape, strict=True) for d in pair))
    return reshaped(to, wide, [r * d for r, d in zip(repeats, shape, strict=True)])


@enters(TABLE, "DepthToSpace")
def _(to: Importer) -> Value:
    x, b = to.value(0), to.attr("blocksize")
    n, c, h, w = _image(to, x)
    mode = to.attr("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise CaptureError(f"DepthToSpace: mode is DCR or CRD, got {mode!r}")
    depth = dims.floordiv(c, b * b)
    apart, perm = ((n, b, b, depth, h, w), (0, 3, 4, 1, 5, 2)) if mode == "DCR" else (
        (n, depth, b, b, h, w), (0, 1, 4, 2, 5, 3))  # fmt: skip
    blocks = to.emit("transpose", reshaped(to, x, apart), perm=perm)
    return reshaped(to, blocks, (n, depth, h * b, w * b))


@enters(TABLE, "SpaceToDepth")
def _(to: Importer) -> Value:
    x, b = to.value(0), to.attr("blocksize")
    n, c, h, w = _image(to, x)
    mode = to.attr("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise CaptureError(f"SpaceToDepth: mode is DCR or CRD, got {mode!r}")
    rows, columns = dims.floordiv(h, b), dims.floordiv(w, b)
    perm = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    blocks = to.emit("transpose", reshaped(to, x, (n, c, rows, b, columns, b)), perm=perm)
    return reshaped(to, blocks, (n, c * b * b, rows, columns))


def _image(to: Importer, x: Value) -> tuple[Dim, ...]:
    if x.type.rank != 4 or to.attr("blocksize") < 1:
        raise CaptureError(f"{to.op} takes [batch, channels, height, width] and a blocksize of 1 or more, got {x.type}")
    return x.type.shape
