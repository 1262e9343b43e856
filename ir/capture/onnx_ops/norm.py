"""ONNX's normalisations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ... import dims
from ...diagnostics import CaptureError
from ...dims import Dim
from ...dtypes import DType
from ...ops.broadcast import broadcast
from ...ops.widen import as_type, statistics_dtype
from ..onnx_terms import of_value
from .table import axis, enters, scalar

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_onnx import Importer
    from ..onnx_terms import Term

TABLE: dict[str, Any] = {}
_EPS = 1e-5


@enters(TABLE, "LayerNormalization")
def _(to: Importer) -> list[Term | None]:
    """Over all axes from `axis` on; the mean and 1 / deviation of each row where they are asked for."""
    x = to.value(0)
    at, eps = _first_axis(to, x), to.attr("epsilon", _EPS)
    tail = x.type.shape[at:]
    flat = _flat(to, x, at)
    parts = [_flat_parameter(to, v, tail) for v in (to.value(1), to.optional(2)) if v is not None]
    y = to.emit("layer_norm", flat, *(as_type(to, p, x.type.dtype) for p in parts), eps=eps)
    results: list[Term | None] = [of_value(_shaped(to, y, x.type.shape)), None, None]
    if to.wants(1) or to.wants(2):
        wide, shape = as_type(to, flat, _stash(to, x)), (*x.type.shape[:at], *[1] * len(tail))
        mean = to.emit("mean", wide, axes=(-1,), keepdims=True)
        inverse = _inverse_deviation(to, to.emit("sub", wide, mean), (-1,), eps)
        results[1:] = [of_value(_shaped(to, v, shape)) for v in (mean, inverse)]
    return results


@enters(TABLE, "RMSNormalization")
def _(to: Importer) -> Value:
    """Over all axes from `axis` on; the result is of the scale's type."""
    x, weight = to.value(0), to.value(1)
    at, kind = _first_axis(to, x), weight.type.dtype
    wide = x.type.dtype if x.type.dtype == kind else _stash(to, x)
    flat = as_type(to, _flat(to, x, at), wide)
    parameter = as_type(to, _flat_parameter(to, weight, x.type.shape[at:]), wide)
    y = to.emit("rms_norm", flat, parameter, eps=to.attr("epsilon", _EPS))
    return as_type(to, _shaped(to, y, x.type.shape), kind)


def _first_axis(to: Importer, x: Value) -> int:
    return axis(to.attr("axis", -1), x.type.rank)


def _stash(to: Importer, x: Value) -> DType:
    """The type of the statistics: `stash_type`, but never narrower than f32."""
    asked = to.dtype(to.attr("stash_type", 1))
    return max(asked, statistics_dtype(x.type.dtype), key=lambda d: d.bits)


def _flat(to: Importer, x: Value, at: int) -> Value:
    """The axes from `at` on as one."""
    return _shaped(to, x, (*x.type.shape[:at], dims.product(x.type.shape[at:])))


def _flat_parameter(to: Importer, p: Value, tail: tuple[Dim, ...]) -> Value:
    """A scale or bias as long as the flat axis. Raises: CaptureError where it varies along other axes too."""
    shape = p.type.shape
    while len(shape) > len(tail) and shape[0] == 1:
        shape = shape[1:]
    if len(shape) > len(tail) or broadcast(to.op, shape, tail) != tail:
        raise CaptureError(f"{to.op}: a scale or bias goes over the axes that are normalised",
                           found=f"{p.type} for {list(map(str, tail))}")  # fmt: skip
    p = _shaped(to, p, shape)
    return _shaped(to, p if shape == tail else to.emit("expand", p, shape=tail), (dims.product(tail),))


def _shaped(to: Importer, x: Value, shape: tuple[Dim, ...]) -> Value:
    return x if x.type.shape == tuple(shape) else to.emit("reshape", x, shape=tuple(shape))


def _inverse_deviation(to: Importer, centred: Value, axes: tuple[int, ...], eps: float) -> Value:
    variance = to.emit("mean", to.emit("mul", centred, centred), axes=axes, keepdims=True)
    return to.emit("rsqrt", to.emit("add", variance, scalar(to, eps, variance)))


def _standard(to: Importer, x: Value, axes: tuple[int, ...], eps: float) -> Value:
    """(x - mean) / sqrt(variance + eps) over these axes, in f32 or wider."""
    wide = as_type(to, x, statistics_dtype(x.type.dtype))
    centred = to.emit("sub", wide, to.emit("mean", wide, axes=axes, keepdims=True))
    return to.emit("mul", centred, _inverse_deviation(to, centred, axes, eps))


def _by_channel(to: Importer, i: int, x: Value) -> Value:
    """Input i, one number for each place on axis 1 of x."""
    p = to.value(i)
    if p.type.shape != x.type.shape[1:2]:
        raise CaptureError(f"{to.op}: a parameter is as long as axis 1", found=f"{p.type} for {x.type}")
    return to.emit("reshape", p, shape=(*p.type.shape, *[1] * (x.type.rank - 2)))


def _scaled_by_channel(to: Importer, y: Value, like: Value) -> Value:
    scale, bias = (as_type(to, _by_channel(to, i, like), y.type.dtype) for i in (1, 2))
    return as_type(to, to.emit("add", to.emit("mul", y, scale), bias), like.type.dtype)


@enters(TABLE, "InstanceNormalization")
def _(to: Importer) -> Value:
    x = to.value(0)
    if x.type.rank < 3:
        raise CaptureError(f"InstanceNormalization: takes [batch, channels, places...], got {x.type}")
    y = _standard(to, x, tuple(range(2, x.type.rank)), to.attr("epsilon", _EPS))
    return _scaled_by_channel(to, y, x)


@enters(TABLE, "GroupNormalization")
def _(to: Importer) -> Value:
    """Scale and bias are per channel since opset 21, per group before."""
    x, groups = to.value(0), to.attr("num_groups")
    channels = x.type.shape[1] if x.type.rank > 2 else 0
    if groups < 1 or x.type.rank < 3 or dims.mod(channels, groups) != 0:
        raise CaptureError(f"GroupNormalization: {groups} groups do not divide axis 1 of {x.type}")
    grouped = to.emit("reshape", x, shape=(x.type.shape[0], groups, dims.product(x.type.shape[1:]) // groups))
    y = _standard(to, grouped, (2,), to.attr("epsilon", _EPS))
    if to.opset >= 21:
        return _scaled_by_channel(to, to.emit("reshape", y, shape=x.type.shape), x)
    return to.emit("reshape", as_type(to, _scaled_by_channel(to, y, y), x.type.dtype), shape=x.type.shape)


@enters(TABLE, "BatchNormalization")
def _(to: Importer) -> list[Value]:
    """One factor and one shift for each channel. In training mode they come from the batch."""
    x, eps, training = to.value(0), to.attr("epsilon", _EPS), to.attr("training_mode", 0)
    if x.type.rank < 2 or (to.opset < 14 and to.wanted > 1):
        raise CaptureError(f"BatchNormalization: {x.type} of opset {to.opset} is in training",
                           hint="export the model for inference")  # fmt: skip
    wide = statistics_dtype(x.type.dtype)
    mean, variance = (as_type(to, _by_channel(to, i, x), wide) for i in (3, 4))
    if training:
        return _trained(to, x, mean, variance, eps)
    return [_normalised(to, x, mean, variance, eps)]


def _normalised(to: Importer, x: Value, mean: Value, variance: Value, eps: float) -> Value:
    dtype = mean.type.dtype
    scale, bias = (as_type(to, _by_channel(to, i, x), dtype) for i in (1, 2))
    factor = to.emit("mul", scale, to.emit("rsqrt", to.emit("add", variance, scalar(to, eps, variance))))
    shift = to.emit("sub", bias, to.emit("mul", mean, factor))
    return as_type(to, to.emit("add", to.emit("mul", as_type(to, x, dtype), factor), shift), x.type.dtype)


def _trained(to: Importer, x: Value, mean: Value, variance: Value, eps: float) -> list[Value]:
    """With the batch's own statistics; the running ones move towards them."""
    axes, keep = tuple(i for i in range(x.type.rank) if i != 1), to.attr("momentum", 0.9)
    wide = as_type(to, x, mean.type.dtype)
    own_mean = to.emit("mean", wide, axes=axes, keepdims=True)
    centred = to.emit("sub", wide, own_mean)
    own_variance = to.emit("mean", to.emit("mul", centred, centred), axes=axes, keepdims=True)
    own = [to.emit("reshape", v, shape=mean.type.shape) for v in (own_mean, own_variance)]
    y = _normalised(to, x, own[0], own[1], eps)
    running = []
    for i, old, new in ((3, mean, own[0]), (4, variance, own[1])):
        parts = to.emit("mul", old, scalar(to, keep, old)), to.emit("mul", new, scalar(to, 1 - keep, new))
        moved = to.emit("add", *parts)
        running.append(as_type(to, to.emit("reshape", moved, shape=x.type.shape[1:2]), to.term(i).dtype))
    return [y, *running]


# -- over one axis ---------------------------------------------------------------------------------------


def _over_one_axis(to: Importer) -> tuple[Value, int, tuple[Dim, ...]]:
    """(x, the axis, the shape to give the result): before opset 13 all axes from `axis` on are one."""
    x = to.value(0)
    if to.opset >= 13:
        return x, axis(to.attr("axis", -1), x.type.rank), x.type.shape
    given, rank = to.attr("axis", 1), x.type.rank
    if not -rank <= given <= rank:
        raise CaptureError(f"{to.op}: axis {given} is outside {x.type}")
    at = given % rank if given != rank else rank
    flat = (dims.product(x.type.shape[:at]), dims.product(x.type.shape[at:]))
    return (x, rank - 1, x.type.shape) if at == rank - 1 else (_shaped(to, x, flat), 1, x.type.shape)


@enters(TABLE, "Softmax")
def _(to: Importer) -> Value:
    x, at, shape = _over_one_axis(to)
    return _shaped(to, to.emit("softmax", x, axis=at), shape)


@enters(TABLE, "LogSoftmax")
def _(to: Importer) -> Value:
    x, at, shape = _over_one_axis(to)
    wide = as_type(to, x, statistics_dtype(x.type.dtype))
    low = to.emit("sub", wide, to.emit("max", wide, axes=(at,), keepdims=True))
    total = to.emit("sum", to.emit("exp", low), axes=(at,), keepdims=True)
    return _shaped(to, as_type(to, to.emit("sub", low, to.emit("log", total)), x.type.dtype), shape)


@enters(TABLE, "Hardmax")
def _(to: Importer) -> Value:
    """1 at the first of the greatest, 0 elsewhere."""
    x, at, shape = _over_one_axis(to)
    top = to.emit("argmax", x, axis=at, keepdims=True)
    size = x.type.shape[at]
    places = _shaped(to, to.emit("iota", length=size), tuple(size if i == at else 1 for i in range(x.type.rank)))
    return _shaped(to, to.emit("cast", to.emit("eq", places, top), dtype=x.type.dtype), shape)


@enters(TABLE, "LpNormalization")
def _(to: Importer) -> Value:
    """x / (|x| summed) or x / sqrt(x² summed) along one axis; 0 where that is 0."""
    x, p = to.value(0), to.attr("p", 2)
    at = axis(to.attr("axis", -1), x.type.rank)
    if p not in (1, 2):
        raise CaptureError(f"LpNormalization: p is 1 or 2, got {p}")
    total = to.emit("sum", to.emit("abs", x) if p == 1 else to.emit("mul", x, x), axes=(at,), keepdims=True)
    norm = total if p == 1 else to.emit("sqrt", total)
    zero = scalar(to, 0, x)
    return to.emit("where", to.emit("eq", norm, zero), zero, to.emit("div", x, norm))
