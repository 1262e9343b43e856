"""Calls replaced by the bodies they run: the flat program again."""

from __future__ import annotations

from .canonical import canonical
from .graph import Graph, Node, Program, Value, callee
from .walk import resolve


def unfold(program: Program, *, fused: bool = True) -> Program:
    """The program with all `call` and `fused` nodes inlined: only entries are left, in canonical form.

    Every node has the user's own place, with `{i}` resolved. `unfold(fold(p))` is `canonical(p)` for a flat p.
    fused: False keeps `fused` nodes and their functions, so that a backend still sees its kernels.
    """
    flat: dict[str, Graph] = {}
    kernels: set[str] = set()
    for name, graph in program.functions.items():  # callees come before callers
        if not fused:
            kernels |= {n.attrs["function"] for n in graph.nodes if n.op.name == "fused"}
        flat[name] = _inlined(graph, flat, kernels)
    kept = {n: g for n, g in flat.items() if n in program.entries or n in kernels}
    return canonical(program.replace(functions=kept))


def _inlined(graph: Graph, flat: dict[str, Graph], kernels: set[str]) -> Graph:
    if all(callee(n) is None for n in graph.nodes):
        return graph
    now: dict[Value, Value | None] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        inputs = tuple(_now(v, now) for v in node.inputs)
        name = callee(node)
        if name is not None and name not in kernels:
            _inline(node, flat[name], inputs, now, nodes)
        else:
            nodes.append(node if inputs == node.inputs else Node(node.op, inputs, node.attrs, node.outputs, node.where))
    outputs = tuple(v for v in (_now(v, now) for v in graph.outputs) if v is not None)
    return Graph(graph.inputs, tuple(nodes), outputs, graph.output_names)


def _now(value: Value | None, now: dict[Value, Value | None]) -> Value | None:
    return value if value is None else now.get(value, value)


def _inline(
    call: Node, body: Graph, inputs: tuple[Value | None, ...], now: dict[Value, Value | None], nodes: list[Node]
) -> None:
    """Appends a fresh copy of the body, and maps the call's outputs to its results."""
    env: dict[Value, Value | None] = dict(zip(body.inputs, inputs, strict=True))
    for node in body.nodes:
        outputs = tuple(Value(v.name, v.type) for v in node.outputs)
        env.update(zip(node.outputs, outputs, strict=True))
        args = tuple(None if v is None else env[v] for v in node.inputs)
        nodes.append(Node(node.op, args, node.attrs, outputs, resolve(node.where, call)))
    now.update((out, env[v]) for out, v in zip(call.outputs, body.outputs, strict=True))
