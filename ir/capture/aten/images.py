"""ATen ops that image models need: pooling, resizing, norms over channels, windows that wrap around."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from ...diagnostics import CaptureError
from ...dims import Dim
from .table import axis, enters

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_torch import Translator

TABLE: dict[str, Any] = {}


@enters(TABLE, "roll.default")
def _(to: Translator) -> Value:
    """Each axis cut in two, the pieces swapped."""
    x, shifts, over = to.args("self", "shifts", "dims")
    value = to.value(x)
    if not over:
        raise CaptureError("roll over all axes at once is not captured", hint="name the axes")
    for shift, at in zip(shifts, over, strict=True):
        at, shift = axis(at, value.type.rank), to.dim(shift)
        size = value.type.shape[at]
        cut = -shift if isinstance(shift, int) and shift <= 0 else size - shift
        if cut == 0:
            continue
        ends = ((cut, size), (0, cut))
        parts = [to.emit("slice", value, axis=at, start=a, stop=b) for a, b in ends]
        value = to.emit("concat", *parts, axis=at)
    return value


@enters(TABLE, "meshgrid.indexing", "meshgrid.default")
def _(to: Translator) -> tuple[Value, ...]:
    parts, indexing = to.args("tensors", "indexing")
    order = list(range(len(parts)))
    if indexing == "xy" and len(parts) > 1:
        order[0], order[1] = order[1], order[0]
    found = []
    for part, at, meta in zip(parts, order, to.node.meta["val"], strict=True):
        value, shape = to.value(part), to.type(meta).shape
        spread = tuple(shape[at] if i == at else 1 for i in range(len(shape)))
        found.append(to.emit("expand", to.emit("reshape", value, shape=spread), shape=shape))
    return tuple(found)


@enters(TABLE, "batch_norm.default", "_native_batch_norm_legit_no_training.default", "cudnn_batch_norm.default")
def _(to: Translator) -> Any:
    """In eval mode: one factor and one offset for each channel."""
    x, weight, bias, mean, variance, eps = to.args("input", "weight", "bias", "running_mean", "running_var", "eps")
    training = to.args("training")[0]
    if training or mean is None or variance is None:
        raise CaptureError("a batch norm without running statistics is not captured", hint="put the model in eval mode")
    value, dtype = to.value(x), to.value(x).type.dtype
    deviation = to.emit("sqrt", to.emit("add", to.value(variance), to.value(float(eps), dtype)))
    factor = to.emit("div", to.value(weight) if weight is not None else to.value(1.0, dtype), deviation)
    offset = to.emit("mul", to.value(mean), factor)
    offset = to.emit("sub", to.value(bias) if bias is not None else to.value(0.0, dtype), offset)
    y = to.emit("add", to.emit("mul", value, _by_channel(to, factor, value)), _by_channel(to, offset, value))
    return y if not isinstance(to.node.meta["val"], (tuple, list)) else (y, mean, variance)


def _by_channel(to: Translator, x: Value, like: Value) -> Value:
    return to.emit("reshape", x, shape=(*x.type.shape, *(1,) * (like.type.rank - 2)))


@enters(TABLE, "group_norm.default")
def _(to: Translator) -> Value:
    x, groups, weight, bias, eps = to.args("input", "num_groups", "weight", "bias", "eps")
    value = to.value(x)
    shape, dtype = value.type.shape, value.type.dtype
    inside: Dim = shape[1] // int(groups)  # type: ignore[operator]
    grouped = to.emit("reshape", value, shape=(shape[0], int(groups), inside, *shape[2:]))
    over = tuple(range(2, grouped.type.rank))
    centred = to.emit("sub", grouped, to.emit("mean", grouped, axes=over, keepdims=True))
    variance = to.emit("mean", to.emit("mul", centred, centred), axes=over, keepdims=True)
    scale = to.emit("rsqrt", to.emit("add", variance, to.value(float(eps), dtype)))
    y = to.emit("reshape", to.emit("mul", centred, scale), shape=shape)
    y = y if weight is None else to.emit("mul", y, _by_channel(to, to.value(weight), value))
    return y if bias is None else to.emit("add", y, _by_channel(to, to.value(bias), value))


# -- pooling ---------------------------------------------------------------------------------------------


def _each(given: Any, count: int) -> tuple[int, ...]:
    listed = [int(n) for n in given] if isinstance(given, (list, tuple)) else [int(given)]
    return tuple(listed * count if len(listed) == 1 else listed)


@enters(TABLE, "max_pool1d.default", "max_pool2d.default", "avg_pool1d.default", "avg_pool2d.default")
def _(to: Translator) -> Value:
    """The window's places one beside the other: as many slices as it has elements."""
    x, kernel, stride, padding = to.args("self", "kernel_size", "stride", "padding")
    dilation, ceil, counts_pad, divisor = to.args("dilation", "ceil_mode", "count_include_pad", "divisor_override")
    n = 1 if "pool1d" in str(to.node.target) else 2
    takes_max = "max_pool" in str(to.node.target)
    if ceil:
        raise CaptureError("pooling with ceil_mode is not captured", hint="pad the input instead")
    value, out = to.value(x), to.type()
    window, pads, holes = _each(kernel, n), _each(padding, n), _each(dilation or 1, n)
    steps = _each(stride, n) if stride else window
    fill = float("-inf") if takes_max else 0.0
    places = _Places(to, out.shape[-n:], window, steps, holes)
    total = places.joined(_padded(to, value, pads, fill), "maximum" if takes_max else "add")
    if takes_max:
        return total
    if divisor or counts_pad or not any(pads):
        return to.emit("div", total, to.value(float(divisor or np.prod(window)), out.dtype))
    one = to.emit("expand", to.value(1.0, out.dtype), shape=(1,) * (value.type.rank - n) + value.type.shape[-n:])
    return to.emit("div", total, places.joined(_padded(to, one, pads, 0.0), "add"))


class _Places:
    """All places of a window over the last axes."""

    def __init__(self, to: Translator, out: Sequence[Dim], window: Any, steps: Any, holes: Any) -> None:
        self.to, self.out, self.window, self.steps, self.holes = to, out, window, steps, holes

    def joined(self, x: Value, op: str) -> Value:
        result = None
        for place in product(*map(range, self.window)):
            part = x
            for i, at in enumerate(place):
                start, size, step = at * self.holes[i], self.out[i], self.steps[i]
                stop = start + (size - 1) * step + 1
                axis = x.type.rank - len(place) + i
                part = self.to.emit("slice", part, axis=axis, start=start, stop=stop, step=step)
            result = part if result is None else self.to.emit(op, result, part)
        assert result is not None
        return result


def _padded(to: Translator, x: Value, pads: tuple[int, ...], fill: float) -> Value:
    if not any(pads):
        return x
    around = (*(0,) * (x.type.rank - len(pads)), *pads)
    return to.emit("pad", x, before=around, after=around, value=fill)


@enters(TABLE, "adaptive_avg_pool1d.default", "adaptive_avg_pool2d.default")
def _(to: Translator) -> Value:
    """Where the size is a whole multiple of what is asked for, a mean over equal blocks."""
    value, out = to.value(to.node.args[0]), to.type().shape
    n = 1 if "pool1d" in str(to.node.target) else 2
    lead, split, over = value.type.shape[:-n], [], []
    for i, (size, wanted) in enumerate(zip(value.type.shape[-n:], out[-n:], strict=True)):
        if not isinstance(wanted, int) or (wanted != 1 and (not isinstance(size, int) or size % wanted)):
            raise CaptureError(f"adaptive pooling of {size} to {wanted} is not captured", hint="use equal windows")
        split += [wanted, size if wanted == 1 else size // wanted]  # type: ignore[operator]
        over.append(len(lead) + 2 * i + 1)
    return to.emit("mean", to.emit("reshape", value, shape=(*lead, *split)), axes=tuple(over), keepdims=False)


# -- resizing --------------------------------------------------------------------------------------------


@enters(TABLE, "upsample_bilinear2d.vec", "upsample_bicubic2d.vec", "upsample_nearest2d.vec", "upsample_linear1d.vec",
        "upsample_nearest1d.vec", "upsample_bilinear2d.default", "upsample_bicubic2d.default",
        "_upsample_bilinear2d_aa.vec", "_upsample_bicubic2d_aa.vec")  # fmt: skip
def _(to: Translator) -> Value:
    """Resizing is linear and works on each axis alone: one small matrix for each, asked of torch itself."""
    value, out = to.value(to.node.args[0]), to.type()
    n = 1 if "1d" in str(to.node.target) else 2
    for i in range(n):
        at = value.type.rank - n + i
        size, wanted = value.type.shape[at], out.shape[at]
        if not isinstance(size, int) or not isinstance(wanted, int):
            raise CaptureError(f"resizing {size} to {wanted} is not captured", hint="fix the image's size")
        matrix = _resizing(to, at, size, wanted)
        if np.array_equal(matrix, np.eye(size)):
            continue
        table = to.table(f"resize.{size}.{wanted}", matrix.astype(value.type.dtype.numpy))
        last = at == value.type.rank - 1
        value = to.emit("matmul", value, to.emit("transpose", table, perm=(1, 0))) if last else to.emit(
            "matmul", table, value)  # fmt: skip
    return value


def _resizing(to: Translator, at: int, size: int, wanted: int) -> np.ndarray:
    """[wanted, size]: what the node's own op makes of each unit vector along this axis of space."""
    import torch

    n = to.node.args[0].meta["val"].ndim - 2
    beside = 2  # the size of the other axis: one of 1 can be taken for another memory format
    unit = torch.eye(size, dtype=torch.float64).reshape(1, size, *(size if 2 + j == at else 1 for j in range(n)))
    unit = unit.expand(1, size, *(size if 2 + j == at else beside for j in range(n))).contiguous()
    schema = [a.name for a in to.node.target._schema.arguments]
    given = dict(zip(schema, to.node.args, strict=False)) | dict(to.node.kwargs)
    scale = _scale(given, at - 2)
    options = {"align_corners": given["align_corners"]} if "align_corners" in schema else {}
    if scale is None:
        options |= {"output_size": [wanted if 2 + j == at else beside for j in range(n)], "scale_factors": None}
    else:
        options |= {"output_size": None, "scale_factors": [scale if 2 + j == at else 1.0 for j in range(n)]}
    resize = getattr(torch.ops.aten, to.node.target._schema.name.split("::")[1]).vec
    found = resize(unit, **options).select(5 - at, 0) if n == 2 else resize(unit, **options)
    return np.ascontiguousarray(found.reshape(size, wanted).numpy().T)


def _scale(given: dict[str, Any], at: int) -> float | None:
    """The factor that was asked for along an axis of space; None where a size was."""
    scales = given.get("scale_factors") or [given.get(n) for n in ("scales_h", "scales_w") if n in given]
    return scales[at] if scales else None
