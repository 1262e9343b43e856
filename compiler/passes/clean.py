"""Dead code, common subexpressions, constants, and moves and arithmetic that change nothing."""

from __future__ import annotations

import numpy as np

from ...ir.graph import Graph, Node, Program, Value, callee, producers
from ...ir.weights import Held, Stored, Weight
from ..rewriting import Event, Rewritten, RuleBuilder, apply_rules, drop_dead, rewrite_graphs
from ..task import Task
from .clean_algebra import ALGEBRA
from .clean_moves import MOVES
from .registry import rewrite

RULES = (*MOVES, *ALGEBRA)


@rewrite("clean")
def clean(program: Program, task: Task) -> Rewritten:
    """Runs to rest in each function, then drops functions, parameters, results and weights that nobody uses."""
    done = rewrite_graphs(share_weights(program), "clean", clean_graph)
    return Rewritten(trim(done.program), done.notes)


def clean_graph(graph: Graph) -> tuple[Graph, list[Event]]:
    """One graph, to rest. What declines here is no news, so only what was done is told."""
    events: list[Event] = []
    while True:
        graph, shared = share(graph)
        graph, ruled = apply_rules(graph, RULES)
        done = [e for e in ruled if " declined: " not in e.text]
        events += shared + done
        if not done and not shared:
            return graph, events


def share(graph: Graph) -> tuple[Graph, list[Event]]:
    """Equal nodes are one node, and scalars of scalars are computed now."""
    b = RuleBuilder(graph)
    made_by = producers(graph)
    seen: dict[tuple[object, ...], Node] = {}
    events: list[Event] = []
    for node in graph.nodes:
        folded = _folded(node, made_by)
        if folded is not None:
            b.replace(node, (b.emit("constant", where=node.where, value=folded, dtype=node.output.type.dtype),))
            events.append(Event("a scalar computed from constants is a constant", node.where))
            continue
        key = _key(node, b)
        first = seen.get(key)
        if first is None or node.op.aliases:
            seen[key] = b.copy(node)
            continue
        b.replace(node, first.outputs)
        if node.inputs:
            events.append(Event("computed once for all who need it", node.where))
    return drop_dead(b.done()), events


def _key(node: Node, b: RuleBuilder) -> tuple[object, ...]:
    inputs = [b.now(v) for v in node.inputs]
    if node.op.commutes:
        inputs.sort(key=id)
    return (node.op.name, node.attrs, tuple(inputs), node.output_types)


def _folded(node: Node, made_by: dict[Value, Node]) -> float | None:
    """The number that a scalar node always gives, where a float holds it exactly."""
    if len(node.outputs) != 1 or node.output.type.rank != 0 or callee(node) is not None:
        return None
    if node.op.name == "dim_value":
        return float(node.attrs["dim"]) if isinstance(node.attrs["dim"], int) else None
    sources = [made_by.get(v) for v in node.inputs if v is not None]
    if not sources or any(s is None or s.op.name != "constant" for s in sources):
        return None
    arrays = [None if v is None else made_by[v].op.reference(**made_by[v].attrs) for v in node.inputs]
    with np.errstate(all="ignore"):
        result = np.asarray(node.op.reference(*arrays, **node.attrs)).astype(node.output.type.dtype.numpy)
    if result.shape != ():
        return None
    number = float(result)
    return number if np.array_equal(np.asarray(number).astype(result.dtype), result, equal_nan=True) else None


def share_weights(program: Program) -> Program:
    """Weights that are the same bytes are one weight: a tensor tied under two names."""
    first: dict[object, str] = {}
    renamed = {}
    for name, weight in program.weights.items():
        key = _identity(weight)
        renamed[name] = first.setdefault(key, name) if key is not None else name
    if all(a == b for a, b in renamed.items()):
        return program
    functions = {}
    for name, graph in program.functions.items():
        b = RuleBuilder(graph)
        for node in graph.nodes:
            target = renamed.get(node.attrs["name"], "") if node.op.name == "weight" else ""
            if target and target != node.attrs["name"]:
                new = b.emit_node("weight", (), {"name": target}, types=node.output_types, where=node.where)
                b.replace(node, new.outputs)
            else:
                b.copy(node)
        functions[name] = b.done()
    return program.replace(functions=functions)


def _identity(weight: Weight) -> object | None:
    source = weight.source
    if isinstance(source, Stored):
        return (source.file, source.key, weight.type)
    if isinstance(source, Held) and source.array is not None:
        a = source.array
        return (a.__array_interface__["data"][0], a.strides, weight.type)
    return None


def trim(program: Program) -> Program:
    """Without functions, parameters, results and weights that nothing uses."""
    functions = _trim_inputs(_trim_outputs(program), program.entries)
    used = {n.attrs["name"] for g in functions.values() for n in g.nodes if n.op.name == "weight"}
    weights = {name: w for name, w in program.weights.items() if name in used}
    return program.replace(functions=functions, weights=weights)


def _trim_outputs(program: Program) -> dict[str, Graph]:
    """Callers first: a result is kept if some call of the function uses it."""
    wanted: dict[str, set[int]] = {name: set() for name in program.functions}
    kept: dict[str, list[int]] = {}
    functions: dict[str, Graph] = {}
    called = set(program.entries)
    for name in reversed(list(program.functions)):
        if name not in called:
            continue
        graph = program.functions[name]
        kept[name] = list(range(len(graph.outputs))) if name in program.entries else sorted(wanted[name])
        graph = drop_dead(
            Graph(
                graph.inputs, graph.nodes,
                tuple(graph.outputs[i] for i in kept[name]), tuple(graph.output_names[i] for i in kept[name]),
            )
        )  # fmt: skip
        functions[name] = graph
        _want(graph, wanted, called)
    rest = {name: _fewer_outputs(functions[name], kept) for name in program.functions if name in functions}
    return rest


def _want(graph: Graph, wanted: dict[str, set[int]], called: set[str]) -> None:
    used = {v for node in graph.nodes for v in node.inputs} | set(graph.outputs)
    for node in graph.nodes:
        inner = callee(node)
        if inner is not None:
            called.add(inner)
            wanted[inner].update(i for i, v in enumerate(node.outputs) if v in used)


def _fewer_outputs(graph: Graph, kept: dict[str, list[int]]) -> Graph:
    nodes = []
    for node in graph.nodes:
        inner = callee(node)
        if inner is not None and len(kept[inner]) < len(node.outputs):
            outputs = tuple(node.outputs[i] for i in kept[inner])
            node = Node(node.op, node.inputs, node.attrs, outputs, node.where)
        nodes.append(node)
    return Graph(graph.inputs, tuple(nodes), graph.outputs, graph.output_names)


def _trim_inputs(functions: dict[str, Graph], entries: tuple[str, ...]) -> dict[str, Graph]:
    """Callees first: a parameter that the body does not use is dropped, and its argument with it."""
    kept: dict[str, list[int]] = {}
    trimmed: dict[str, Graph] = {}
    for name, graph in functions.items():
        nodes = []
        for node in graph.nodes:
            inner = callee(node)
            if inner is not None and len(kept[inner]) < len(node.inputs):
                args = tuple(node.inputs[i] for i in kept[inner])
                node = Node(node.op, args, node.attrs, node.outputs, node.where)
            nodes.append(node)
        graph = drop_dead(Graph(graph.inputs, tuple(nodes), graph.outputs, graph.output_names))
        used = {v for node in graph.nodes for v in node.inputs} | set(graph.outputs)
        kept[name] = [i for i, v in enumerate(graph.inputs) if name in entries or v in used]
        inputs = tuple(graph.inputs[i] for i in kept[name])
        trimmed[name] = Graph(inputs, graph.nodes, graph.outputs, graph.output_names)
    return trimmed
