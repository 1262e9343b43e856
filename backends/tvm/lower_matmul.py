"""Products of activations, and convolutions as such products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...ir import dims
from ...ir.dims import Dim
from ...ir.dtypes import DTYPES
from ...ir.graph import Node
from ...ir.tensor import TensorType
from .emit import NAMES, Emit, View
from .kernels.matmul import Tile, matmul
from .lower import lowers
from .lower_elementwise import broadcast, run_chain
from .lower_move import converted, copy_into, dense_of, fill
from .lower_reduce import reshaped
from .script import wide
from .steps import Chain, Step

Ints = Sequence[int]


@lowers("matmul")
def _matmul(to: Emit, node: Node) -> None:
    a, b = (to.view(v) for v in node.inputs)
    product(to, a, b, to.result(node))


def product(to: Emit, a: View, b: View, y: View) -> None:
    """y = a · b, over the axes before the last two with broadcasting; y is dense. Of 16 bits: computed in f32."""
    computed = wide(NAMES[y.dtype.name])
    if computed != NAMES[y.dtype.name]:
        f32 = DTYPES["f32"]
        total = to.new(TensorType(f32, y.shape))
        product(to, converted(to, a, f32), converted(to, b, f32), total)
        copy_into(to, total, y)
        return
    (*batch, m, n), k = y.shape, a.shape[-1]
    contiguous = b.strides[-1] == 1
    tile = Tile(to.lanes, computed)
    sizes: list[Dim] = [m, k, n, *a.strides[-2:], *b.strides[-2:]]
    steps = [broadcast(v.shape[:-2], v.strides[:-2], batch) for v in (a, b)]
    for size, *step in zip(batch, *steps, strict=True):
        sizes += [size, *step]
    scratch = (k * tile.width + tile.scratch) * (y.dtype.bits // 8)
    static = {"tile": tile, "rank": len(batch), "contiguous": contiguous}
    to.call(matmul, static, [a, b], [y], sizes, scratch=scratch)


@lowers("conv")
def _conv(to: Emit, node: Node) -> None:
    """weight [o, c · kernel] · every place of the kernel [c · kernel, out], for each group."""
    x, weight = (to.view(v) for v in node.inputs[:2])
    attrs, n = node.attrs, len(x.shape) - 2
    x = _padded(to, x, attrs["before"] or (0,) * n, attrs["after"] or (0,) * n)
    y = to.result(node)
    groups, per, kernel, out = attrs["groups"], weight.shape[1], weight.shape[2:], y.shape[2:]
    strides, dilations = attrs["strides"] or (1,) * n, attrs["dilations"] or (1,) * n
    windows = dense_of(to, _windows(x, groups, per, kernel, out, strides, dilations))
    inside, places, made = per * dims.product(kernel), dims.product(out), dims.floordiv(weight.shape[0], groups)
    a = reshaped(dense_of(to, weight), (1, groups, made, inside))
    b = reshaped(windows, (x.shape[0], groups, inside, places))
    product(to, a, b, reshaped(y, (x.shape[0], groups, made, places)))
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = dense_of(to, to.view(node.inputs[2]))
        name = NAMES[y.dtype.name]
        run_chain(to, Chain((name, name), (), (Step("add", (0, 1)),)), [y, reshaped(bias, (*bias.shape, *(1,) * n))], y)


def _padded(to: Emit, x: View, before: Ints, after: Ints) -> View:
    if not any((*before, *after)):
        return x
    return padded(to, x, (0, 0, *before), (0, 0, *after), 0.0)


def padded(to: Emit, x: View, before: Ints, after: Ints, value: float) -> View:
    """A new array with `value` around x."""
    shape = tuple(d + p + q for d, p, q in zip(x.shape, before, after, strict=True))
    y = to.new(TensorType(x.dtype, shape))
    fill(to, y, value)
    start = sum((p * s for p, s in zip(before, y.strides, strict=True)), start=0)
    copy_into(to, x, replace(y, shape=x.shape, offset=y.offset + start))
    return y


@lowers("pad")
def _pad(to: Emit, node: Node) -> None:
    a = node.attrs
    to.views[node.output] = padded(to, to.view(node.inputs[0]), a["before"], a["after"], a["value"])


def _windows(
    x: View, groups: int, per: Dim, kernel: Sequence[Dim], out: Sequence[Dim], strides: Ints, dilations: Ints
) -> View:  # fmt: skip
    """[b, groups, c / groups, *kernel, *out]: what each place of a kernel meets."""
    batch, channel, *space = x.strides
    apart = [s * d for s, d in zip(space, dilations, strict=True)]
    step = [s * d for s, d in zip(space, strides, strict=True)]
    return replace(
        x, shape=(x.shape[0], groups, per, *kernel, *out), strides=(batch, channel * per, channel, *apart, *step)
    )
