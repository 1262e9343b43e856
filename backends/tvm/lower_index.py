"""Elements by index, and numbers in order."""

from __future__ import annotations

from ...ir.dims import Dim
from ...ir.graph import Node
from .emit import NAMES, Emit, View
from .kernels.index import gather, gather_elements, iota, panel_gather, scatter_elements
from .lower import lowers
from .lower_move import copy_into
from .lower_reduce import parts

_UNSIGNED = {8: "uint8", 16: "uint16", 32: "int32", 64: "int64"}


def _moved(view: View) -> str:
    """A type of as many bits, in which elements move as they are."""
    return _UNSIGNED[view.dtype.bits]


@lowers("iota")
def _iota(to: Emit, node: Node) -> None:
    a = node.attrs
    static = {"dtype": NAMES[a["dtype"].name], "step": a["step"], "lanes": to.lanes}
    to.call(iota, static, [], [to.result(node)], [a["length"], a["start"]])


@lowers("gather")
def _gather(to: Emit, node: Node) -> None:
    x, ids = (to.array(v) for v in node.inputs)
    outer, n, inner = parts(x.shape, node.attrs["axis"] % len(x.shape))
    static = {"dtype": _moved(x), "ids": NAMES[ids.dtype.name], "single": inner == 1, "lanes": to.lanes}
    sizes: list[Dim] = [outer, n, parts(ids.shape, 0, len(ids.shape))[1], inner]
    to.call(gather, static, [x, ids], [to.result(node)], sizes, reports=True)


@lowers("panel_gather")
def _panel_gather(to: Emit, node: Node) -> None:
    panels, ids = (to.array(v) for v in node.inputs)
    _, k, width, *deep = panels.shape
    (depth,) = deep or (1,)
    assert isinstance(depth, int)
    moved = _UNSIGNED[panels.dtype.bits * depth]
    static = {"dtype": moved, "ids": NAMES[ids.dtype.name], "width": width, "depth": depth}
    sizes: list[Dim] = [node.attrs["columns"], parts(ids.shape, 0, len(ids.shape))[1], k]
    to.call(panel_gather, static, [panels, ids], [to.result(node)], sizes, reports=True)


@lowers("gather_elements")
def _gather_elements(to: Emit, node: Node) -> None:
    x, ids = (to.array(v) for v in node.inputs)
    axis = node.attrs["axis"] % len(x.shape)
    outer, m, inner = parts(ids.shape, axis)
    static = {"dtype": _moved(x), "ids": NAMES[ids.dtype.name]}
    to.call(gather_elements, static, [x, ids], [to.result(node)], [outer, x.shape[axis], m, inner], reports=True)


@lowers("scatter_elements")
def _scatter_elements(to: Emit, node: Node) -> None:
    x, (ids, updates) = to.view(node.inputs[0]), (to.array(v) for v in node.inputs[1:])
    axis, y = node.attrs["axis"] % len(x.shape), to.result(node)
    copy_into(to, x, y)
    outer, m, inner = parts(ids.shape, axis)
    static = {"dtype": NAMES[x.dtype.name], "ids": NAMES[ids.dtype.name], "reduction": node.attrs["reduction"]}
    to.call(scatter_elements, static, [ids, updates], [y], [outer, x.shape[axis], m, inner], reports=True)
