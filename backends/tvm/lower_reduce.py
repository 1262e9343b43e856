"""Reductions, running sums, the greatest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...ir import dims
from ...ir.dims import Dim
from ...ir.graph import Node
from .emit import NAMES, Emit, View, row_major
from .kernels.reduce import argmax, cumsum, reduce, topk
from .kernels.softmax import softmax
from .lower import lowers
from .lower_move import copy_into, dense_of


def parts(shape: Sequence[Dim], axis: int, count: int = 1) -> tuple[Dim, Dim, Dim]:
    """(outer, n, inner): what stands before `count` axes from `axis` on, they, what stands behind."""
    return dims.product(shape[:axis]), dims.product(shape[axis : axis + count]), dims.product(shape[axis + count :])


def reshaped(view: View, shape: Sequence[Dim]) -> View:
    """A dense view under another shape."""
    return replace(view, shape=tuple(shape), strides=row_major(shape))


def transposed(view: View, perm: Sequence[int]) -> View:
    return replace(view, shape=tuple(view.shape[p] for p in perm), strides=tuple(view.strides[p] for p in perm))


@lowers("sum", "mean", "prod", "max", "min", "any", "all")
def _reduce(to: Emit, node: Node) -> None:
    x, y = to.view(node.inputs[0]), to.result(node)
    gone = sorted(a % len(x.shape) for a in node.attrs["axes"])
    if not gone:
        copy_into(to, x, y)
        return
    if gone != list(range(gone[0], gone[0] + len(gone))):  # those that go, together at the end
        kept = [i for i in range(len(x.shape)) if i not in gone]
        x, gone = transposed(x, [*kept, *gone]), list(range(len(kept), len(x.shape)))
    outer, n, inner = parts(x.shape, gone[0], len(gone))
    x = dense_of(to, x)
    static = {"kind": node.op.name, "dtype": NAMES[x.dtype.name], "last": inner == 1, "lanes": to.lanes}
    to.call(reduce, static, [x], [y], [outer, n, inner])


@lowers("cumsum")
def _cumsum(to: Emit, node: Node) -> None:
    x, axis = to.array(node.inputs[0]), node.attrs["axis"]
    to.call(cumsum, {"dtype": NAMES[x.dtype.name]}, [x], [to.result(node)], parts(x.shape, axis % len(x.shape)))


@lowers("argmax")
def _argmax(to: Emit, node: Node) -> None:
    x, axis = to.array(node.inputs[0]), node.attrs["axis"]
    to.call(argmax, {"dtype": NAMES[x.dtype.name]}, [x], [to.result(node)], parts(x.shape, axis % len(x.shape)))


@lowers("topk")
def _topk(to: Emit, node: Node) -> None:
    x, axis, k = to.array(node.inputs[0]), node.attrs["axis"], node.attrs["k"]
    static = {"dtype": NAMES[x.dtype.name], "largest": node.attrs["largest"]}
    results = [to.result(node, i) for i in range(2)]
    to.call(topk, static, [x], results, [*parts(x.shape, axis % len(x.shape)), k])


@lowers("softmax")
def _softmax(to: Emit, node: Node) -> None:
    """Of another axis than the last: over the transposed array, of which the result is the transposed view."""
    x, axis = to.view(node.inputs[0]), node.attrs["axis"] % len(node.output.type.shape)
    order = [*(i for i in range(len(x.shape)) if i != axis), axis]
    x = dense_of(to, transposed(x, order))
    y = reshaped(to.result(node), x.shape)
    rows, n, _ = parts(x.shape, len(x.shape) - 1)
    to.call(softmax, {"dtype": NAMES[x.dtype.name], "lanes": to.lanes}, [x], [y], [rows, n])
    to.views[node.output] = transposed(y, sorted(range(len(order)), key=lambda i: order[i]))
