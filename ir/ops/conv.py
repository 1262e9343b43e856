"""Convolution over any number of space axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import dims
from ..diagnostics import GraphError
from ..dims import Dim
from ..op import INTS, Attr, Op, op
from ..tensor import TensorType
from .checks import FLOATS, of_kind, same_dtype, within

Ints = tuple[int, ...]
_SPACE, _KERNEL, _OUT = "hwduv", "klmnz", "xyqrs"  # letters of the space axes, `b`, `c` and `o` being taken


@op
class conv(Op):
    """Cross-correlation of x with a bank of kernels, channels before space, over any number of space axes.

    Shapes: x [b, c, *space], weight [o, c / groups, *kernel], bias [o] -> [b, o, *out], each size of out being
    (space + before + after - dilation · (kernel - 1) - 1) // stride + 1.
    strides, dilations: one for each axis of space; empty is 1 on each. before, after: zeros put around, empty is none.
    groups: the channels fall in so many groups, and output channel i sees group i // (o / groups) only.
    Flops: 2 · outputs · (c / groups) · kernel, and one per output for the bias.
    """

    inputs = ("x", "weight", "bias?")
    attrs = {
        "strides": Attr(INTS, ()), "before": Attr(INTS, ()), "after": Attr(INTS, ()), "dilations": Attr(INTS, ()),
        "groups": Attr(int, 1),
    }  # fmt: skip
    axes = "b! c! *s!, o! i! *k!, o! -> b! o! *p!"

    def infer(self, x: TensorType, weight: TensorType, bias: Any = None, *, groups: int, **attrs: Ints) -> TensorType:
        of_kind("conv", "x", x, FLOATS)
        same_dtype("conv", x, weight, bias)
        if x.rank < 3 or weight.rank != x.rank:
            raise GraphError(
                f"conv: needs x [batch, channels, space...] and a weight of the same rank, got {x} and {weight}"
            )
        if groups < 1 or x.shape[1] != weight.shape[1] * groups or dims.mod(weight.shape[0], groups) != 0:
            raise GraphError(
                f"conv: {x.shape[1]} channels in {groups} groups do not fit the weight",
                found=f"{x} with {weight}", hint="the weight is [out, channels / groups, kernel...]",
            )  # fmt: skip
        if bias is not None and bias.shape != weight.shape[:1]:
            raise GraphError("conv: the bias does not fit the weight", found=f"{bias} for {weight}")
        return x.with_shape(x.shape[0], weight.shape[0], *_out_sizes(x.shape[2:], weight.shape[2:], **attrs))

    def axes_for(self, x: TensorType, weight: TensorType, bias: Any = None, *, groups: int, **attrs: Ints) -> str:
        """Batch and output channels are free, input channels need a sum; an axis of space only under a kernel of 1."""
        n = x.rank - 2
        same = [x.shape[2 + i] == d and weight.shape[2 + i] == 1 for i, d in enumerate(_out_sizes(
            x.shape[2:], weight.shape[2:], **attrs))]  # fmt: skip
        space = [s if keep else s + "!" for s, keep in zip(_SPACE[:n], same, strict=True)]
        out = [s if keep else p + "!" for s, p, keep in zip(_SPACE, _OUT[:n], same, strict=False)]
        channel, inner, made = ("c", "c", "o") if groups == 1 else ("c!", "i!", "o!")
        kernel = [k + "!" for k in _KERNEL[:n]]
        sides = ["b", channel, *space], [made, inner, *kernel], [made]
        return ", ".join(" ".join(s) for s in sides) + " -> " + " ".join(["b", made, *out])

    def flops(self, out: TensorType, x: TensorType, weight: TensorType, bias: Any = None, **attrs: Any) -> Dim:
        return 2 * dims.product(weight.shape[1:]) * out.elements + (0 if bias is None else out.elements)

    def reference(
        self, x: np.ndarray, weight: np.ndarray, bias: Any = None, *, groups: int, **attrs: Ints
    ) -> np.ndarray:
        wide = np.float64
        windows = _windows(x.astype(wide), weight.shape[2:], **attrs)
        n, made, per = x.ndim - 2, len(weight) // groups, weight.shape[1]
        over = [1, *range(2 + n, 2 + 2 * n)], list(range(1, 2 + n))
        parts = [
            np.tensordot(windows[:, g * per : (g + 1) * per], weight[g * made : (g + 1) * made].astype(wide), over)
            for g in range(groups)
        ]
        y = np.moveaxis(np.concatenate(parts, -1), -1, 1)
        return y if bias is None else y + bias.astype(wide).reshape(-1, *[1] * n)


def filled(name: str, given: Ints, count: int, default: int, least: int) -> Ints:
    """One number for each axis of space. Raises: GraphError where their number or size is wrong."""
    full = given or (default,) * count
    if len(full) != count or min(full) < least:
        raise GraphError(f"conv: {name} is {list(given)} for {count} axes of space, each at least {least}")
    return full


def _out_sizes(
    space: Sequence[Dim], kernel: Sequence[Dim], *, strides: Ints, before: Ints, after: Ints, dilations: Ints
) -> tuple[Dim, ...]:
    n = len(space)
    found = []
    steps, holes = filled("strides", strides, n, 1, 1), filled("dilations", dilations, n, 1, 1)
    low, high = filled("before", before, n, 0, 0), filled("after", after, n, 0, 0)
    for size, k, step, hole, a, b in zip(space, kernel, steps, holes, low, high, strict=True):
        span = hole * (k - 1) + 1
        within("conv", span, size + a + b, "the kernel is larger than the padded input")
        found.append(dims.floordiv(size + a + b - span, step) + 1)
    return tuple(found)


def _windows(
    x: np.ndarray, kernel: Ints, *, strides: Ints, before: Ints, after: Ints, dilations: Ints
) -> np.ndarray:
    """Every place of the kernel: [b, c, *out, *kernel], a view of the padded x."""
    n = len(kernel)
    steps, holes = strides or (1,) * n, dilations or (1,) * n
    x = np.pad(x, [(0, 0), (0, 0), *zip(before or (0,) * n, after or (0,) * n, strict=True)])
    spans = tuple(h * (k - 1) + 1 for h, k in zip(holes, kernel, strict=True))
    views = np.lib.stride_tricks.sliding_window_view(x, spans, tuple(range(2, 2 + n)))
    return views[(slice(None), slice(None), *(slice(None, None, s) for s in (*steps, *holes)))]
