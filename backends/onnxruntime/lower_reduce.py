"""Reductions."""

from __future__ import annotations

from ...ir.dtypes import boolean, f32, i32, i64
from ...ir.graph import Node
from .emit import Arg, Emit
from .lower import FAST, STANDARD, Lowering, lowers

_AXES_AS_INPUT = {"ReduceSum": 13}  # the rest take axes as an attribute before opset 18


def _reduce(to: Emit, op_type: str, x: Arg, node: Node) -> str:
    axes, keep = node.attrs["axes"], int(node.attrs["keepdims"])
    if not axes:
        return to.name(x)
    if to.opset >= _AXES_AS_INPUT.get(op_type, 18):
        return to(op_type, x, to.ints(*axes), keepdims=keep)
    return to(op_type, x, axes=axes, keepdims=keep)


def _plain(op_type: str) -> Lowering:
    def lower(to: Emit, node: Node) -> str:
        return _reduce(to, op_type, node.inputs[0], node)

    return lower


def _over_booleans(op_type: str) -> Lowering:
    def lower(to: Emit, node: Node) -> str:
        return to.cast(_reduce(to, op_type, to.cast(node.inputs[0], i32), node), boolean)

    return lower


for _name in ("sum", "mean", "max", "min", "prod"):
    lowers(STANDARD, _name)(_plain(f"Reduce{_name.capitalize()}"))
lowers(STANDARD, "all")(_over_booleans("ReduceMin"))


@lowers(FAST, "mean")
def _mean(to: Emit, node: Node) -> str:
    """The means of groups along the last axis of [b, s, n · group] are a pooling of it, without another shape."""
    (x,) = node.inputs
    assert x is not None
    name, before = to.unshaped(x)
    *rows, group = x.type.shape
    wanted = (*rows[:-1], rows[-1] * group) if rows else ()
    pooled = before == wanted and len(before) == 3 and isinstance(group, int) and x.type.dtype == f32
    if not pooled or node.attrs["axes"] != (x.type.rank - 1,) or node.attrs["keepdims"]:
        return _reduce(to, "ReduceMean", x, node)
    return to("AveragePool", name, kernel_shape=[group], strides=[group])


@lowers(STANDARD, "any")
def _any(to: Emit, node: Node) -> str:
    """The greatest of no numbers is below 0."""
    return to("Greater", _reduce(to, "ReduceMax", to.cast(node.inputs[0], i32), node), to.scalar(0, i32))


@lowers(STANDARD, "argmax")
def _argmax(to: Emit, node: Node) -> str:
    a = node.attrs
    return to("ArgMax", node.inputs[0], axis=a["axis"], keepdims=int(a["keepdims"]), select_last_index=0)


@lowers(STANDARD, "cumsum")
def _cumsum(to: Emit, node: Node) -> str:
    return to("CumSum", node.inputs[0], to.scalar(node.attrs["axis"], i64))
