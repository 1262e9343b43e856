"""Products with, and rows of, weights that stay quantised: worked on as they are, where the backend can."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...ir.dtypes import f32
from ...ir.graph import Graph, Node, Program, Value, producers
from ...ir.ops.quantize import middle
from ...ir.ops.widen import as_type
from ..rewriting import Event, Rewritten, RuleBuilder, drop_dead, rewrite_graphs
from ..task import Task
from .registry import rewrite
from .stored import takes


@rewrite("raise_quantized", optimizes=True)
def raise_quantized(program: Program, task: Task) -> Rewritten:
    """linear(x, dequantize(q)) -> quantized_matmul; gather(dequantize(q), rows) -> quantized_gather.

    By hand and not by rules: a tied embedding is dequantised once for both uses, and each of them is better off
    without that.
    """
    if "quantized_matmul" not in task.capabilities.ops:
        return Rewritten(program)
    return rewrite_graphs(program, "raise_quantized", lambda graph: _raised(graph, task))


def _raised(graph: Graph, task: Task) -> tuple[Graph, list[Event]]:
    made_by = producers(graph)
    events: list[Event] = []
    b = RuleBuilder(graph)
    for node in graph.nodes:
        raise_ = _RAISES.get(node.op.name)
        new = raise_(b, node, made_by, task) if raise_ else None
        if new is None:
            b.copy(node)
            continue
        b.replace(node, (new,))
        events.append(Event(f"{node.op.name} works on the quantised weight as it is", node.where))
    return (drop_dead(b.done()) if events else graph), events


def dequantized(weight: Value | None, made_by: Mapping[Value, Node]) -> tuple[Node, bool] | None:
    """The `dequantize` node that a linear's weight [k, n] comes from, along k; and whether its rows are k.

    None where it comes from none, or along n.
    """
    maker = made_by.get(present(weight))
    turned = maker is not None and maker.op.name == "transpose" and maker.attrs["perm"] == (1, 0)
    source = made_by.get(present(maker.inputs[0])) if maker is not None and turned else maker
    if source is None or source.op.name != "dequantize" or source.attrs["axis"] % 2 != (1 if turned else 0):
        return None
    return source, not turned


def _product(b: RuleBuilder, node: Node, made_by: Mapping[Value, Node], task: Task) -> Value | None:
    """A linear whose weight is dequantised along k."""
    found = dequantized(node.inputs[1], made_by)
    if found is None or found[0].output.type.dtype != node.output.type.dtype:
        return None
    source, by_k = found
    if not _taken(source, task):
        return None
    with b.at(node.where):
        parts = [None if v is None else b.emit("transpose", v, perm=(1, 0)) if by_k else v for v in source.inputs]
        q, scale, zero = (*parts, None)[:3]
        attrs = {k: source.attrs[k] for k in ("bits", "group", "scheme")}
        return b.emit("quantized_matmul", node.inputs[0], q, _plain(b, present(scale), task), zero, *node.inputs[2:],
                      x_bits=task.capabilities.x_bits, **attrs)  # fmt: skip


@rewrite("split_offsets")
def split_offsets(program: Program, task: Task) -> Rewritten:
    """An offset that a backend's kernels do not add is added apart: each group of x has one number for all of it.

    q · scale + zero = (q - middle) · scale + (middle · scale + zero), of which the last is the same in a group. It
    meets the mean of the group's x, times their number: as groups are powers of two, that changes no digit.
    """
    return rewrite_graphs(program, "split_offsets", lambda graph: _split(graph, task))


def _split(graph: Graph, task: Task) -> tuple[Graph, list[Event]]:
    events: list[Event] = []
    b = RuleBuilder(graph)
    for node in graph.nodes:
        a = node.attrs
        if node.op.name != "quantized_matmul" or takes(task, a["bits"], a["group"], a["scheme"]) == a["scheme"]:
            b.copy(node)
            continue
        with b.at(node.where):
            b.replace(node, (_apart(b, node),))
        events.append(Event("the offsets of a quantised weight are added apart", node.where))
    return (b.done() if events else graph), events


def _apart(b: RuleBuilder, node: Node) -> Value:
    x, q, scale, zero, bias = (*node.inputs, None)[:5]
    x, bits, group = present(x), node.attrs["bits"], node.attrs["group"]
    scale, zero = (as_type(b, b.present(present(v)), f32) for v in (scale, zero))
    product = b.emit("quantized_matmul", x, q, scale, **{**node.attrs, "scheme": "centred"})
    rest = b.emit("add", b.emit("mul", scale, b.constant(middle(bits), f32)), zero)  # [n, k / group]
    rest = b.emit("mul", rest, b.constant(float(group), f32))
    groups = b.emit("reshape", x, shape=(*x.type.shape[:-1], x.type.shape[-1] // group, group))
    means = b.emit("mean", groups, axes=(groups.type.rank - 1,), keepdims=False)
    rest = b.emit("transpose", as_type(b, rest, x.type.dtype), perm=(1, 0))
    return b.emit("add", product, b.emit("linear", means, rest, bias))


def _plain(b: RuleBuilder, scale: Value, task: Task) -> Value:
    """The scale in the type that chosen kernels want; a backend that takes all forms takes this one too."""
    return scale if task.capabilities.blocks is None else as_type(b, scale, f32)


def _rows(b: RuleBuilder, node: Node, made_by: Mapping[Value, Node], task: Task) -> Value | None:
    """A gather of whole rows along which the groups run."""
    source, rows = made_by.get(present(node.inputs[0])), node.inputs[1]
    if source is None or source.op.name != "dequantize" or rows is None or source.output.type.rank != 2:
        return None
    if source.attrs["axis"] % 2 != 1 or node.attrs["axis"] % 2 != 0 or _taken(source, task) != source.attrs["scheme"]:
        return None
    q, scale, *zero = source.inputs
    attrs = {k: v for k, v in source.attrs.items() if k != "axis"}
    with b.at(node.where):
        return b.emit("quantized_gather", q, rows, _plain(b, present(scale), task), *zero, **attrs)


def _taken(source: Node, task: Task) -> str | None:
    """The scheme under which the backend works on such numbers; None where it does not."""
    return takes(task, source.attrs["bits"], source.attrs["group"], source.attrs["scheme"])


def present(value: Value | None) -> Value:
    assert value is not None
    return value


_RAISES: dict[str, Any] = {"linear": _product, "gather": _rows}
