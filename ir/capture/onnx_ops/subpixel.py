"""A transposed convolution as an ordinary one: for each phase of the stride, one with a part of the kernel."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from ...dims import Dim
from .cut import sliced
from .shape import reshaped
from .space import Space

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_onnx import Importer


def subpixel(to: Importer, x: Value, weight: Value, bias: Value | None, groups: int, s: Space,
             extra: tuple[int, ...]) -> Value:  # fmt: skip
    """x [b, in, *n], weight [in, out / groups, *kernel] without dilation -> [b, out, *sizes].

    Along one axis, y[q · stride + r - before] = sum over j of x[q - j] · weight[j · stride + r]: for each phase r a
    convolution over x, without the zeros that a transposed one puts between its elements.
    Source: Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?".
    """
    strides, kernel, axes = s.strides, s.kernel, len(s.kernel)
    taps = tuple(-(-k // stride) for k, stride in zip(kernel, strides, strict=True))
    sizes = tuple(
        (n - 1) * stride + k - a - b + e
        for n, stride, k, b, a, e in zip(x.type.shape[2:], strides, kernel, s.before, s.after, extra, strict=True)
    )
    more = tuple(  # rows that only the output's own padding reaches
        max(0, -(-(k - a + e - stride * t) // stride))
        for k, stride, t, a, e in zip(kernel, strides, taps, s.after, extra, strict=True)
    )
    y = to.emit(
        "conv", x, _phases(to, weight, groups, strides, taps), _repeated(to, bias, strides), groups=groups,
        before=tuple(t - 1 for t in taps), after=tuple(t - 1 + m for t, m in zip(taps, more, strict=True)),
    )  # fmt: skip
    y = _woven(to, y, strides)
    for at in range(axes):
        y = sliced(to, y, at + 2, s.before[at], s.before[at] + sizes[at], 1)
    return y


def _phases(to: Importer, weight: Value, groups: int, strides: tuple[int, ...], taps: tuple[int, ...]) -> Value:
    """[in, out / groups, *kernel] as [out · phases, in / groups, *taps], each phase's taps read backwards."""
    into, made, *kernel = weight.type.shape
    assert isinstance(into, int)
    after = [t * stride - k for t, stride, k in zip(taps, strides, kernel, strict=True)]
    if any(after):
        weight = to.emit("pad", weight, before=(0,) * (2 + len(taps)), after=(0, 0, *after))
    split: list[Dim] = [n for pair in zip(taps, strides, strict=True) for n in pair]
    weight = reshaped(to, weight, (groups, into // groups, made, *split))
    for i in range(len(taps)):
        weight = sliced(to, weight, 3 + 2 * i, -1, -(2**31), -1)
    places = range(3, 3 + 2 * len(taps))
    weight = to.emit("transpose", weight, perm=(0, 2, *places[1::2], 1, *places[::2]))
    phases = prod(strides)
    return reshaped(to, weight, (groups * made * phases, into // groups, *taps))


def _repeated(to: Importer, bias: Value | None, strides: tuple[int, ...]) -> Value | None:
    """The bias once for each phase."""
    if bias is None:
        return None
    phases = prod(strides)
    (made,) = bias.type.shape
    return reshaped(to, to.emit("expand", reshaped(to, bias, (made, 1)), shape=(made, phases)), (made * phases,))


def _woven(to: Importer, y: Value, strides: tuple[int, ...]) -> Value:
    """[b, out · phases, *q] as [b, out, *(q · stride)]: the phases of each axis put between each other."""
    batch, channels, *q = y.type.shape
    phases = prod(strides)
    assert isinstance(channels, int)
    y = reshaped(to, y, (batch, channels // phases, *strides, *q))
    n = len(strides)
    order = [place for i in range(n) for place in (2 + n + i, 2 + i)]
    y = to.emit("transpose", y, perm=(0, 1, *order))
    return reshaped(to, y, (batch, channels // phases, *(d * stride for d, stride in zip(q, strides, strict=True))))
