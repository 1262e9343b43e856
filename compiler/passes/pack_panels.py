"""Weights of products in the panels that a backend's kernels read: packed once, when a program is built."""

from __future__ import annotations

from ...ir.dtypes import DTYPES
from ...ir.graph import Graph, Node, Program, Value, producers
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
            name = _transposed(made_by.get(node.inputs[1]), made_by)  # type: ignore[arg-type]
            found += [name] if name else []
    return found


def _transposed(node: Node | None, made_by: dict[Value, Node]) -> str | None:
    """The weight that a node transposes, by its name."""
    if node is None or node.op.name != "transpose":
        return None
    source = made_by.get(node.inputs[0])  # type: ignore[arg-type]
    return source.attrs["name"] if source is not None and source.op.name == "weight" else None


def _packed(graph: Graph, static: set[Value], tied: set[str], width: int) -> tuple[Graph, list[Event]]:
    made_by, events = producers(graph), list[Event]()
    b = RuleBuilder(graph)
    for node in graph.nodes:
        if _packs(node, static):
            x, weight, *bias = node.inputs
            assert weight is not None
            with b.at(node.where):
                panels = b.emit("to_panels", weight, width=width)
                new = b.emit("panel_linear", x, panels, *bias, columns=weight.type.shape[1])
        elif _looks_up(node, made_by, tied):
            table, ids = node.inputs
            assert table is not None
            with b.at(node.where):
                panels = b.emit("to_panels", b.emit("transpose", table, perm=(1, 0)), width=width)
                new = b.emit("panel_gather", panels, ids, columns=table.type.shape[0])
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
    source = made_by.get(node.inputs[0])  # type: ignore[arg-type]
    return source is not None and source.op.name == "weight" and source.attrs["name"] in tied


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
