"""Weights of products in the panels that a backend's kernels read: packed once, when a program is built."""

from __future__ import annotations

from typing import NamedTuple

from ...ir.dtypes import DTYPES, DType, bf16, f32
from ...ir.graph import Graph, Node, Program, Value, producers
from ...ir.ops.widen import as_type
from ..analysis import static_values
from ..rewriting import Event, Rewritten, RuleBuilder, drop_dead, notes_of
from ..task import Task
from .hoist import hoisted
from .recipes import is_recipe
from .registry import rewrite


@rewrite("pack_panels")
def pack_panels(program: Program, task: Task) -> Rewritten:
    """linear(x, w) -> panel_linear(x, to_panels(w)), where w is a weight; quantized_matmul -> quad_linear. An embedding
    whose transpose is packed for a head is looked up there, so that there is one copy."""
    width = task.capabilities.panel
    if not width:
        return Rewritten(program)
    static = static_values(program)
    tied = {name for n, g in program.functions.items() for name in _tied(g, static[n])}
    functions, events = {}, {}
    for name, graph in program.functions.items():
        functions[name], events[name] = _packed(graph, static[name], tied, width)
    changed = program.replace(functions=functions)
    notes = notes_of(changed, "pack_panels", events)
    bits = DTYPES[task.precision.weights].bits
    done = hoisted(changed, "pack_panels", lambda n: is_recipe(n, bits), lambda n: False)
    return done._replace(notes=(*notes, *done.notes))


def _packs(node: Node, static: set[Value]) -> bool:
    return node.op.name == "linear" and node.inputs[1] in static


def _tied(graph: Graph, static: set[Value]) -> list[str]:
    """The weights whose transposes are packed."""
    made_by, found = producers(graph), []
    for node in graph.nodes:
        if _packs(node, static):
            peeled = _peeled(node.inputs[1], made_by)
            found += [peeled.name] if peeled.turned and peeled.name else []
    return found


class Peeled(NamedTuple):
    """A matrix without its casts and transposes: what is left, its name where it is a weight, whether it is turned, and
    the narrowest type that it passes through."""

    base: Value
    name: str
    turned: bool
    held: DType


def _peeled(value: Value | None, made_by: dict[Value, Node]) -> Peeled:
    assert value is not None
    turned, held = False, value.type.dtype
    node = made_by.get(value)
    while node is not None and _is_peel(node):
        turned ^= node.op.name == "transpose" and node.attrs["perm"] == (1, 0)
        assert node.inputs[0] is not None
        value = node.inputs[0]
        held = min(held, value.type.dtype, key=lambda d: d.bits)
        node = made_by.get(value)
    name = node.attrs["name"] if node is not None and node.op.name == "weight" else ""
    return Peeled(value, name, turned, held)


def _is_peel(node: Node) -> bool:
    """A transpose, or a cast between types whose panels kernels read."""
    if node.op.name == "cast":
        return {v.type.dtype for v in (*node.inputs, node.output) if v is not None} <= {f32, bf16}
    return node.op.name == "transpose" and node.output.type.rank == 2


def _panels(b: RuleBuilder, peeled: Peeled, width: int, turned: bool) -> Value:
    """The panels of a matrix, turned or not; the same for equal matrices, however they were written."""
    value = b.emit("transpose", peeled.base, perm=(1, 0)) if turned else peeled.base
    return b.emit("to_panels", as_type(b, b.present(value), peeled.held), width=width)


def _packed(graph: Graph, static: set[Value], tied: set[str], width: int) -> tuple[Graph, list[Event]]:
    made_by, events = producers(graph), list[Event]()
    b = RuleBuilder(graph)
    for node in graph.nodes:
        if _packs(node, static):
            x, weight, *bias = node.inputs
            peeled = _peeled(weight, made_by)
            with b.at(node.where):
                panels = _panels(b, peeled, width, peeled.turned)
                new = b.emit("panel_linear", x, panels, *bias, columns=node.output.type.shape[-1])
        elif _looks_up(node, made_by, tied):
            table, ids = node.inputs
            peeled = _peeled(table, made_by)
            with b.at(node.where):
                panels = _panels(b, peeled, width, True)
                new = b.emit("panel_gather", panels, ids, columns=peeled.base.type.shape[0])
                new = as_type(b, new, node.output.type.dtype)
            events.append(Event("an embedding is looked up in the head's weight", node.where))
        elif node.op.name in _QUADS and node.inputs[0 if node.op.name == "quantized_gather" else 1] in static:
            with b.at(node.where):
                new = _QUADS[node.op.name](b, node, width)
        else:
            b.copy(node)
            continue
        b.replace(node, [new])
    return drop_dead(b.done()), events


def _looks_up(node: Node, made_by: dict[Value, Node], tied: set[str]) -> bool:
    if node.op.name != "gather" or node.attrs["axis"] != 0:
        return False
    peeled = _peeled(node.inputs[0], made_by)
    return not peeled.turned and peeled.name in tied


def _quad_linear(b: RuleBuilder, node: Node, width: int) -> Value:
    x, q, scale, zero, bias = (*node.inputs, None, None)[:5]
    assert q is not None
    return b.emit("quad_linear", x, *_cut(b, q, (scale, zero), width, node.attrs["bits"]), bias,
                  columns=q.type.shape[0], **node.attrs)  # fmt: skip


def _quad_gather(b: RuleBuilder, node: Node, width: int) -> Value:
    q, ids, scale, zero = (*node.inputs, None)[:4]
    assert q is not None
    quads, scale, zero = _cut(b, q, (scale, zero), width, node.attrs["bits"])
    return b.emit("quad_gather", quads, ids, scale, zero, columns=q.type.shape[0], **node.attrs)


def _cut(b: RuleBuilder, q: Value, beside: tuple[Value | None, ...], width: int, bits: int) -> list[Value | None]:
    """Numbers in quads, and what stands beside them in panels."""
    turned = [None if v is None else b.emit("transpose", v, perm=(1, 0)) for v in beside]
    panels = [None if v is None else b.emit("to_panels", v, width=width) for v in turned]
    return [b.emit("to_quads", q, width=width, bits=bits), *panels]


_QUADS = {"quantized_matmul": _quad_linear, "quantized_gather": _quad_gather}
