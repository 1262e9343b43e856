"""One way to name and order what the names of values and the places of weight nodes leave open."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .graph import Graph, Node, Program, Value


def canonical(program: Program) -> Program:
    """The same program with weight nodes first and values named by where they stand.

    In every function: weight nodes stand at the head in order of first use (unused ones last) and bear their weight's
    name; inputs keep their names; all other values are numbered in order. A program that is canonical is left as it is.
    """
    functions = {name: canonical_graph(graph) for name, graph in program.functions.items()}
    if all(functions[name] is graph for name, graph in program.functions.items()):
        return program
    return program.replace(functions=functions)


def canonical_graph(graph: Graph) -> Graph:
    """`canonical` of one graph."""
    nodes = weights_first(graph)
    names = _names(graph.inputs, nodes)
    if nodes == graph.nodes and all(v.name == n for v, n in names.items()):
        return graph
    new = {v: v if v.name == name else Value(name, v.type) for v, name in names.items()}
    renamed = tuple(rename(node, new) for node in nodes)
    return Graph(graph.inputs, renamed, tuple(new.get(v, v) for v in graph.outputs), graph.output_names)


def weights_first(graph: Graph) -> tuple[Node, ...]:
    """The nodes with weight nodes at the head, in order of first use; the others keep their order."""
    weights = {n.outputs[0]: n for n in graph.nodes if n.op.name == "weight"}
    rest = tuple(n for n in graph.nodes if n.op.name != "weight")
    used = (v for v in (*(v for n in rest for v in n.inputs), *graph.outputs) if v in weights)
    order = dict.fromkeys([*(v for v in used if v is not None), *weights])
    return (*(weights[v] for v in order), *rest)


def rename(node: Node, new: dict[Value, Value]) -> Node:
    """The node on other values; itself where none of its values changes."""
    inputs = tuple(None if v is None else new.get(v, v) for v in node.inputs)
    outputs = tuple(new.get(v, v) for v in node.outputs)
    if inputs == node.inputs and outputs == node.outputs:
        return node
    return Node(node.op, inputs, node.attrs, outputs, node.where)


def _names(inputs: Iterable[Value], nodes: Iterable[Node]) -> dict[Value, str]:
    """The name of every value, inputs' own among them."""
    names = {v: v.name for v in inputs}
    taken = set(names.values())
    plain: list[Value] = []
    for node in nodes:
        if node.op.name != "weight":
            plain += node.outputs
            continue
        name = _fresh(node.attrs["name"], taken)
        names[node.outputs[0]] = name
    count = 0
    for value in plain:
        while str(count) in taken:
            count += 1
        names[value] = str(count)
        count += 1
    return names


def _fresh(name: str, taken: set[str]) -> str:
    found, count = name, 0
    while found in taken:
        count += 1
        found = f"{name}.{count}"
    taken.add(found)
    return found


def with_names(program: Program, name: Callable[[str], str]) -> Program:
    """The program with the inputs and outputs of its entries called by other names. Raises: ValueError on a clash."""
    functions = dict(program.functions)
    for entry in program.entries:
        graph = functions[entry]
        new = {v: Value(name(v.name), v.type) for v in graph.inputs if name(v.name) != v.name}
        outputs = tuple(map(name, graph.output_names))
        if len({new.get(v, v).name for v in graph.inputs}) < len(graph.inputs) or len({*outputs}) < len(outputs):
            raise ValueError("two inputs or outputs would bear one name")
        functions[entry] = Graph(
            tuple(new.get(v, v) for v in graph.inputs), tuple(rename(node, new) for node in graph.nodes),
            tuple(new.get(v, v) for v in graph.outputs), outputs,
        )  # fmt: skip
    return canonical(program.replace(functions=functions))
