"""What a program's values depend on, through its calls."""

from __future__ import annotations

from ..ir.graph import Graph, Node, Program, Value, callee, producers

Sets = dict[str, set[Value]]


def static_values(program: Program) -> Sets:
    """By function, the values that depend on weights and constants only, whatever the user gives.

    A parameter is static when every call passes something static.
    """
    params = {name: [True] * len(g.inputs) for name, g in program.functions.items()}
    for name in program.entries:
        params[name] = [False] * len(params[name])
    found: Sets = {}
    for name in reversed(list(program.functions)):
        graph = program.functions[name]
        static = {v for v, known in zip(graph.inputs, params[name], strict=True) if known}
        for node in graph.nodes:
            if _is_pure(node) and all(v is None or v in static for v in node.inputs):
                static.update(node.outputs)
            _narrow(params, node, static)
        found[name] = static
    return found


def _is_pure(node: Node) -> bool:
    return not node.op.aliases  # what it writes over, it reads after others


def _narrow(params: dict[str, list[bool]], node: Node, static: set[Value]) -> None:
    inner = callee(node)
    if inner is not None:
        known = [v is None or v in static for v in node.inputs]
        params[inner] = [a and b for a, b in zip(params[inner], known, strict=True)]


def call_sites(program: Program) -> dict[str, list[tuple[str, Node]]]:
    """By function, who calls it: (caller, node)."""
    sites: dict[str, list[tuple[str, Node]]] = {name: [] for name in program.functions}
    for name, graph in program.functions.items():
        for node in graph.nodes:
            inner = callee(node)
            if inner is not None:
                sites[inner].append((name, node))
    return sites


def scale_values(graph: Graph) -> set[Value]:
    """The scales and zeros of quantised weights, and what they are moved out of: they keep the type that they have."""
    made_by, found = producers(graph), set[Value]()
    for node in graph.nodes:
        for value in (node.inputs[i] for i in SCALES.get(node.op.name, ()) if i < len(node.inputs)):
            while value is not None and value not in found:
                found.add(value)
                maker = made_by.get(value)
                value = maker.inputs[0] if maker is not None and maker.op.pure_move and maker.inputs else None
    return found


# op -> where its scales and zeros stand.
SCALES: dict[str, tuple[int, ...]] = {"dequantize": (1, 2), "quantized_matmul": (2, 3), "quantized_moe": (4, 6)}
