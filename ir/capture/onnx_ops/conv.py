"""ONNX's convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...diagnostics import CaptureError
from . import space as spaces
from .cut import sliced
from .shape import reshaped
from .space import Space
from .subpixel import subpixel
from .table import enters

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_onnx import Importer

TABLE: dict[str, Any] = {}


@enters(TABLE, "Conv")
def _(to: Importer) -> Value:
    x, weight = to.value(0), to.value(1)
    s = spaces.read(to, x, to.attr("kernel_shape", weight.type.shape[2:]))
    if s.kernel != weight.type.shape[2:]:
        raise CaptureError(f"Conv: a kernel_shape of {list(s.kernel)}, but the weight is {weight.type}")
    return to.emit("conv", x, weight, to.optional(2), strides=s.strides, before=s.before, after=s.after,
                   dilations=s.dilations, groups=to.attr("group", 1))  # fmt: skip


@enters(TABLE, "ConvTranspose")
def _(to: Importer) -> Value:
    """A convolution for each phase of the stride; a dilated one with the kernel turned round, over x with zeros put
    between its elements."""
    x, weight, groups = to.value(0), to.value(1), to.attr("group", 1)
    if weight.type.rank != x.type.rank or groups < 1 or x.type.shape[1] != weight.type.shape[0]:
        raise CaptureError(f"ConvTranspose: {weight.type} in {groups} groups does not fit {x.type}")
    s = _transposed_space(to, x, weight)
    extra = spaces.listed(to, "output_padding", len(s.kernel), 0, 0)
    if set(s.dilations) == {1} and max(s.strides) > 1 and weight.type.shape[0] % groups == 0:
        return subpixel(to, x, weight, to.optional(2), groups, s, extra)
    low = [span - 1 - b for span, b in zip(s.span, s.before, strict=True)]
    high = [span - 1 - a + e for span, a, e in zip(s.span, s.after, extra, strict=True)]
    wide = _spread(to, x, s.strides)
    for i, (a, b) in enumerate(zip(low, high, strict=True), 2):
        wide = sliced(to, wide, i, max(0, -a), wide.type.shape[i] - max(0, -b), 1)
    return to.emit(
        "conv", wide, _turned(to, weight, groups), to.optional(2), dilations=s.dilations, groups=groups,
        before=tuple(max(0, a) for a in low), after=tuple(max(0, b) for b in high),
    )  # fmt: skip


def _transposed_space(to: Importer, x: Value, weight: Value) -> Space:
    """The padding, which `output_shape` or `auto_pad` may say through the sizes that the result is to have."""
    kernel, n = to.attr("kernel_shape", weight.type.shape[2:]), x.type.rank - 2
    wanted, mode = to.attr("output_shape", None), to.attr("auto_pad", "NOTSET")
    if wanted is None and mode in ("NOTSET", "VALID"):
        return spaces.read(to, x, kernel)
    strides, dilations = spaces.listed(to, "strides", n, 1), spaces.listed(to, "dilations", n, 1)
    s = spaces.unpadded(to, x, kernel, strides, dilations)
    extra = spaces.listed(to, "output_padding", n, 0, 0)
    sizes = x.type.shape[2:]
    if wanted is not None and len(wanted) < n:
        raise CaptureError(f"ConvTranspose: output_shape is {list(wanted)} for {n} axes of space")
    if wanted is None:
        wanted = [d * stride for d, stride in zip(sizes, strides, strict=True)]
    total = []
    for size, stride, span, e, out in zip(sizes, strides, s.span, extra, wanted[-n:], strict=True):
        over = stride * (size - 1) + e + span - out
        if not isinstance(over, int):
            raise CaptureError(f"ConvTranspose: how much to pad depends on the size {size}", hint="fix that size")
        total.append(over)  # where it is negative, the result is longer than the input fills
    small = tuple(max(0, t) // 2 for t in total)
    large = tuple(t - less for t, less in zip(total, small, strict=True))
    upper = mode == "SAME_UPPER" or min(total) < 0
    low, high = (small, large) if upper else (large, small)
    return Space(s.kernel, strides, dilations, low, high)


def _spread(to: Importer, x: Value, strides: tuple[int, ...]) -> Value:
    """x with stride - 1 zeros between its elements along each axis of space."""
    for at, stride in enumerate(strides, 2):
        if stride == 1:
            continue
        shape, size = x.type.shape, x.type.shape[at]
        apart = reshaped(to, x, (*shape[: at + 1], 1, *shape[at + 1 :]))
        after = tuple(stride - 1 if i == at + 1 else 0 for i in range(len(shape) + 1))
        apart = to.emit("pad", apart, before=(0,) * (len(shape) + 1), after=after)
        x = sliced(to, reshaped(to, apart, (*shape[:at], size * stride, *shape[at + 1 :])), at, 0,
                   (size - 1) * stride + 1, 1)  # fmt: skip
    return x


def _turned(to: Importer, weight: Value, groups: int) -> Value:
    """[in, out / groups, *kernel] as [out, in / groups, *kernel], each kernel read backwards."""
    for at in range(2, weight.type.rank):
        weight = sliced(to, weight, at, -1, -(2**31), -1)
    into, made, *kernel = weight.type.shape
    if not isinstance(into, int) or into % groups:
        raise CaptureError(f"ConvTranspose: {into} channels do not fall into {groups} groups")
    grouped = reshaped(to, weight, (groups, into // groups, made, *kernel))
    perm = (0, 2, 1, *range(3, 3 + len(kernel)))
    return reshaped(to, to.emit("transpose", grouped, perm=perm), (groups * made, into // groups, *kernel))
