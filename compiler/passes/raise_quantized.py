"""Products with, and rows of, weights that stay quantised: worked on as they are, where the backend can."""

from __future__ import annotations

from typing import Any

from ...ir.graph import Graph, Node, Program, Value, producers
from ..rewriting import Event, Rewritten, RuleBuilder, drop_dead, rewrite_graphs
from ..task import Task
from .registry import rewrite


@rewrite("raise_quantized", optimizes=True)
def raise_quantized(program: Program, task: Task) -> Rewritten:
    """linear(x, dequantize(q)) -> quantized_matmul; gather(dequantize(q), rows) -> dequantize(gather(q, rows)).

    By hand and not by rules: a tied embedding is dequantised once for both uses, and each of them is better off
    without that.
    """
    if "quantized_matmul" not in task.capabilities.ops:
        return Rewritten(program)
    return rewrite_graphs(program, "raise_quantized", _raised)


def _raised(graph: Graph) -> tuple[Graph, list[Event]]:
    made_by = producers(graph)
    events: list[Event] = []
    b = RuleBuilder(graph)
    for node in graph.nodes:
        raise_ = _RAISES.get(node.op.name)
        new = raise_(b, node, made_by) if raise_ else None
        if new is None:
            b.copy(node)
            continue
        b.replace(node, (new,))
        events.append(Event(f"{node.op.name} works on the quantised weight as it is", node.where))
    return (drop_dead(b.done()) if events else graph), events


def _product(b: RuleBuilder, node: Node, made_by: dict[Value, Node]) -> Value | None:
    """A linear whose weight [k, n] is dequantised along k, or is the transpose of one dequantised along its rows."""
    weight = made_by.get(_present(node.inputs[1]))
    turned = weight is not None and weight.op.name == "transpose" and weight.attrs["perm"] == (1, 0)
    source = made_by.get(_present(weight.inputs[0])) if weight is not None and turned else weight
    if source is None or source.op.name != "dequantize" or source.output.type.dtype != node.output.type.dtype:
        return None
    if source.attrs["axis"] % 2 != (1 if turned else 0):
        return None
    with b.at(node.where):
        parts = [None if v is None else b.emit("transpose", v, perm=(1, 0)) if turned else v for v in source.inputs]
        parts += [None] * (3 - len(parts))
        attrs = {k: source.attrs[k] for k in ("bits", "group", "scheme")}
        return b.emit("quantized_matmul", node.inputs[0], *parts, *node.inputs[2:], **attrs)


def _rows(b: RuleBuilder, node: Node, made_by: dict[Value, Node]) -> Value | None:
    """A gather along an axis that the groups do not run along."""
    source, rows = made_by.get(_present(node.inputs[0])), node.inputs[1]
    if source is None or source.op.name != "dequantize" or rows is None:
        return None
    rank = source.output.type.rank
    along, at = source.attrs["axis"] % rank, node.attrs["axis"] % rank
    if along == at:
        return None
    with b.at(node.where):
        parts = [None if v is None else b.emit("gather", v, rows, axis=at) for v in source.inputs]
        moved = along if along < at else along + rows.type.rank - 1
        return b.emit("dequantize", *parts, **{**source.attrs, "axis": moved})


def _present(value: Value | None) -> Value:
    assert value is not None
    return value


_RAISES: dict[str, Any] = {"linear": _product, "gather": _rows}
