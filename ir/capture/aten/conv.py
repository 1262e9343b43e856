"""ATen convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...diagnostics import CaptureError
from .table import enters

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_torch import Translator

TABLE: dict[str, Any] = {}


def _each(given: Any, count: int) -> tuple[int, ...]:
    """torch takes one number for all axes of space."""
    listed = tuple(int(n) for n in (given if isinstance(given, (list, tuple)) else [given]))
    return listed * count if len(listed) == 1 else listed


def _padding(given: Any, weight: Value, dilations: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(before, after) on each axis; torch's "same" puts the odd zero behind."""
    if not isinstance(given, str):
        both = _each(given, len(dilations))
        return both, both
    if given == "valid":
        return (0,) * len(dilations), (0,) * len(dilations)
    totals = [d * (int(k) - 1) for d, k in zip(dilations, weight.type.shape[2:], strict=True)]  # type: ignore[arg-type]
    return tuple(t // 2 for t in totals), tuple(t - t // 2 for t in totals)


@enters(TABLE, "conv1d.default", "conv2d.default", "conv3d.default", "convolution.default",
        "conv1d.padding", "conv2d.padding", "conv3d.padding")  # fmt: skip
def _(to: Translator) -> Value:
    x, weight = (to.value(a) for a in to.node.args[:2])
    bias, stride, padding, dilation, groups, transposed = to.args(
        "bias", "stride", "padding", "dilation", "groups", "transposed"
    )
    if transposed:
        raise CaptureError("a transposed convolution is not captured", hint="models that make images are not supported")
    n, out = weight.type.rank - 2, to.type()
    dilations = _each(dilation, n)
    before, after = _padding(padding, weight, dilations)
    x = x if x.type.rank == n + 2 else to.emit("reshape", x, shape=(1, *x.type.shape))
    y = to.emit(
        "conv", x, weight, to.optional(bias), strides=_each(stride, n), before=before, after=after,
        dilations=dilations, groups=int(groups),
    )  # fmt: skip
    return y if y.type.rank == out.rank else to.emit("reshape", y, shape=out.shape)


@enters(TABLE, "im2col.default")
def _(to: Translator) -> Value:
    """torch's unfold, [b, c, h, w] -> [b, c * kh * kw, places]: each element of the kernel is one strided slice."""
    dilation, padding, stride = to.args("dilation", "padding", "stride")
    x, (kh, kw) = to.value(to.node.args[0]), to.args("kernel_size")[0]
    dh, dw = _each(dilation, 2)
    around = (0, 0, *_each(padding, 2))
    x = to.emit("pad", x, before=around, after=around, value=0.0) if any(around) else x
    b, c, h, w = x.type.shape
    sh, sw = _each(stride, 2)
    rows, columns = (h - dh * (kh - 1) - 1) // sh + 1, (w - dw * (kw - 1) - 1) // sw + 1
    parts = []
    for i in range(kh):
        line = to.emit("slice", x, axis=2, start=i * dh, stop=i * dh + (rows - 1) * sh + 1, step=sh)
        for j in range(kw):
            part = to.emit("slice", line, axis=3, start=j * dw, stop=j * dw + (columns - 1) * sw + 1, step=sw)
            parts.append(to.emit("reshape", part, shape=(b, c, 1, rows * columns)))
    return to.emit("reshape", to.emit("concat", *parts, axis=2), shape=to.type().shape)
