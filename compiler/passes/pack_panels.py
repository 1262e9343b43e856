"""Weights of products in the panels that a backend's kernels read: packed once, when a program is built."""

from __future__ import annotations

from typing import NamedTuple

from ...ir.dtypes import DTYPES, DType, bf16, f32
from ...ir.graph import Graph, Node, Program, Value, callee, producers
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
    whose transpose is packed for a head is looked up there, so that there is one copy. Where x and w are both rounded
    to a type that the backend's products multiply in, panels hold pairs along k, and x comes as it is rounded."""
    if not task.capabilities.panel:
        return Rewritten(program)
    static, cut = static_values(program), Cut(task.capabilities.panel, task.capabilities.products)
    origins = _origins(program)
    tied = {name: deep for n, g in program.functions.items() for name, deep in _tied(g, static[n], cut, origins[n])}
    functions, events = {}, {}
    for name, graph in program.functions.items():
        functions[name], events[name] = _packed(graph, static[name], tied, cut, origins[name])
    changed = program.replace(functions=functions)
    notes = notes_of(changed, "pack_panels", events)
    bits = DTYPES[task.precision.weights].bits
    done = hoisted(changed, "pack_panels", lambda n: is_recipe(n, bits), lambda n: False)
    return done._replace(notes=(*notes, *done.notes))


class Cut(NamedTuple):
    """How panels are cut: their columns, and the types of which two numbers along k lie beside each other."""

    width: int
    pairs: frozenset[str]


def _packs(node: Node, static: set[Value]) -> bool:
    return node.op.name == "linear" and node.inputs[1] in static


def _origins(program: Program) -> dict[str, Origins]:
    """By function. Callers come first here, so that a layer knows what its parameters were before they were widened."""
    found, passed = dict[str, Origins](), dict[Value, set[DType]]()
    for name, graph in reversed(list(program.functions.items())):
        narrow = {v: types.pop() for v in graph.inputs if len(types := passed.get(v, set())) == 1}
        found[name] = here = Origins(producers(graph), narrow)
        for node in graph.nodes:
            inner = callee(node)
            if inner is not None:
                for parameter, value in zip(program.functions[inner].inputs, node.inputs, strict=True):
                    if value is not None:
                        passed.setdefault(parameter, set()).add(_peeled(value, here).held)
    return found


def _tied(graph: Graph, static: set[Value], cut: Cut, origins: Origins) -> list[tuple[str, int]]:
    """The weights whose transposes are packed, and how deep."""
    found = []
    for node in graph.nodes:
        if _packs(node, static):
            peeled = _peeled(node.inputs[1], origins)
            found += [(peeled.name, _depth(node, origins, cut)[0])] if peeled.turned and peeled.name else []
    return found


def _depth(node: Node, origins: Origins, cut: Cut) -> tuple[int, Value | None]:
    """(2, x as it is rounded) where a product is of pairs, else (1, x)."""
    x, held = node.inputs[0], _peeled(node.inputs[1], origins).held
    maker = origins.made_by.get(x) if x is not None else None
    k = x.type.shape[-1] if x is not None else 0
    if maker is None or maker.op.name != "cast" or held.name not in cut.pairs or not isinstance(k, int) or k % 2:
        return 1, x
    inner = maker.inputs[0]
    return (2, inner) if inner is not None and inner.type.dtype == held and node.output.type.dtype == f32 else (1, x)


class Origins(NamedTuple):
    """What values of a graph come from. narrow: what its parameters are in every call, before they are widened."""

    made_by: dict[Value, Node]
    narrow: dict[Value, DType]


class Peeled(NamedTuple):
    """A matrix without its casts and transposes: what is left, its name where it is a weight, whether it is turned, and
    the narrowest type that it passes through."""

    base: Value
    name: str
    turned: bool
    held: DType


def _peeled(value: Value | None, origins: Origins) -> Peeled:
    assert value is not None
    turned, held, made_by = False, value.type.dtype, origins.made_by
    node = made_by.get(value)
    while node is not None and _is_peel(node):
        turned ^= node.op.name == "transpose" and node.attrs["perm"] == (1, 0)
        assert node.inputs[0] is not None
        value = node.inputs[0]
        held = min(held, value.type.dtype, key=lambda d: d.bits)
        node = made_by.get(value)
    held = min(held, origins.narrow.get(value, held), key=lambda d: d.bits)
    name = node.attrs["name"] if node is not None and node.op.name == "weight" else ""
    return Peeled(value, name, turned, held)


def _is_peel(node: Node) -> bool:
    """A transpose, or a cast between types whose panels kernels read."""
    if node.op.name == "cast":
        return {v.type.dtype for v in (*node.inputs, node.output) if v is not None} <= {f32, bf16}
    return node.op.name == "transpose" and node.output.type.rank == 2


def _panels(b: RuleBuilder, peeled: Peeled, width: int, turned: bool, depth: int) -> Value:
    """The panels of a matrix, turned or not; the same for equal matrices, however they were written."""
    value = as_type(b, b.present(peeled.base), peeled.held)
    value = b.emit("transpose", value, perm=(1, 0)) if turned else value
    return b.emit("to_panels", value, width=width, depth=depth)


def _packed(
    graph: Graph, static: set[Value], tied: dict[str, int], cut: Cut, origins: Origins
) -> tuple[Graph, list[Event]]:
    events, width = list[Event](), cut.width
    b = RuleBuilder(graph)
    for node in graph.nodes:
        if _packs(node, static):
            peeled, (depth, x) = _peeled(node.inputs[1], origins), _depth(node, origins, cut)
            with b.at(node.where):
                panels = _panels(b, peeled, width, peeled.turned, depth)
                new = b.emit("panel_linear", x, panels, *node.inputs[2:], columns=node.output.type.shape[-1])
        elif _looks_up(node, origins, tied):
            table, ids = node.inputs
            peeled = _peeled(table, origins)
            with b.at(node.where):
                panels = _panels(b, peeled, width, True, tied[peeled.name])
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


def _looks_up(node: Node, origins: Origins, tied: dict[str, int]) -> bool:
    if node.op.name != "gather" or node.attrs["axis"] != 0:
        return False
    peeled = _peeled(node.inputs[0], origins)
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
    """Numbers in quads, and what stands beside them in panels of f32, which is what kernels read."""
    turned = [None if v is None else b.emit("transpose", as_type(b, v, f32), perm=(1, 0)) for v in beside]
    panels = [None if v is None else b.emit("to_panels", v, width=width) for v in turned]
    return [b.emit("to_quads", q, width=width, bits=bits), *panels]


_QUADS = {"quantized_matmul": _quad_linear, "quantized_gather": _quad_gather}
