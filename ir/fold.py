"""Repeated layers become one function, called once for each."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .build import Builder
from .canonical import canonical, canonical_graph
from .fold_places import Instances, Places, templates
from .fold_search import Repeat, repeats
from .graph import Graph, Node, Program, Value
from .op import Attrs, get
from .text_print import graph_lines
from .unfold import unfold

__all__ = ["fold", "unfold"]


def fold(program: Program) -> Program:
    """The program with the repeated layers of its entries folded into functions.

    What repeats is found by structure: the same ops with the same attributes and types, using each other in the same
    way; what comes from outside an instance (weights, what the last instance made, a mask) becomes an input. Bodies
    are cut so that a residual addition and the norm after it lie in one body. Weight nodes stay with the caller.
    `unfold(fold(p))` is `canonical(p)` to the last name and place.
    """
    program = canonical(program)
    functions: dict[str, Graph] = {}
    for name, graph in program.functions.items():
        taken = {*program.functions, *functions}
        functions.update(_fold_graph(name, graph, taken) if name in program.entries else {name: graph})
    return program.replace(functions=functions)


@dataclass(frozen=True, slots=True)
class _Slots:
    """The values of a body that come from outside, and those that are used outside.

    inputs:  for each input, what it is in every instance; weights stand last.
    number:  (node, operand) of the body -> input.
    outputs: (node, output) of the body.
    """

    inputs: tuple[tuple[Value, ...], ...]
    number: dict[tuple[int, int], int]
    outputs: tuple[tuple[int, int], ...]


def _fold_graph(name: str, graph: Graph, taken: set[str]) -> dict[str, Graph]:
    """The graph with calls, after the functions that it calls."""
    nodes = tuple(n for n in graph.nodes if n.op.name != "weight")
    users = _last_users(graph, nodes)
    weights = {n.outputs[0]: n.attrs["name"] for n in graph.nodes if n.op.name == "weight"}
    functions: dict[str, Graph] = {}
    known: dict[str, str] = {}  # a body's text -> its name: layers of one kind may stand apart
    done: list[Node] = []
    at = 0
    for repeat in repeats(graph, nodes):
        slots = _slots(nodes, repeat, users, weights)
        if not slots.outputs:
            continue  # nothing uses it; dead code is not ours to remove
        places = templates([_instances(nodes, repeat, i) for i in range(repeat.period)])
        body = _body(nodes, repeat, slots, places, weights)
        function = known.setdefault("\n".join(graph_lines("", body)), _function_name(places.name, taken))
        taken.add(function)
        functions[function] = functions.get(function, body)
        done += nodes[at : repeat.start]
        done += [_call(nodes, repeat, slots, places, function, j) for j in range(repeat.count)]
        at = repeat.stop
    if not functions:
        return {name: graph}
    head = [n for n in graph.nodes if n.op.name == "weight"]
    folded = Graph(graph.inputs, (*head, *done, *nodes[at:]), graph.outputs, graph.output_names)
    return {**functions, name: canonical_graph(folded)}


def _last_users(graph: Graph, nodes: tuple[Node, ...]) -> dict[Value, int]:
    """value -> the last node that uses it; past the end where the graph returns it."""
    users = {v: i for i, node in enumerate(nodes) for v in node.inputs if v is not None}
    return {**users, **{v: len(nodes) for v in graph.outputs}}


def _instances(nodes: tuple[Node, ...], repeat: Repeat, offset: int) -> Instances:
    return tuple(nodes[i].where for i in range(repeat.start + offset, repeat.stop, repeat.period))


def _slots(
    nodes: tuple[Node, ...], repeat: Repeat, users: dict[Value, int], weights: dict[Value, str]
) -> _Slots:
    bodies = [nodes[i : i + repeat.period] for i in range(repeat.start, repeat.stop, repeat.period)]
    own = {v for node in bodies[0] for v in node.outputs}
    given: dict[tuple[int, int], tuple[Value, ...]] = {}
    for i, node in enumerate(bodies[0]):
        for k, value in enumerate(node.inputs):
            if value is not None and value not in own:
                given[i, k] = tuple(v for body in bodies if (v := body[i].inputs[k]) is not None)
    inputs = sorted(dict.fromkeys(given.values()), key=lambda values: values[0] in weights)
    order = {values: n for n, values in enumerate(inputs)}
    number = {place: order[values] for place, values in given.items()}
    ends = [repeat.start + (j + 1) * repeat.period for j in range(repeat.count)]
    outputs = tuple(
        (i, k)
        for i, node in enumerate(bodies[0])
        for k in range(len(node.outputs))
        if any(users.get(b[i].outputs[k], -1) >= end for b, end in zip(bodies, ends, strict=True))
    )
    return _Slots(tuple(inputs), number, outputs)


def _body(
    nodes: tuple[Node, ...], repeat: Repeat, slots: _Slots, places: Places, weights: dict[Value, str]
) -> Graph:
    builder = Builder()
    first = nodes[repeat.start : repeat.start + repeat.period]
    inputs = [builder.input(_input_name(given, weights), given[0].type) for given in slots.inputs]
    env: dict[Value, Value] = {}
    count = 0
    for i, node in enumerate(first):
        given = tuple(
            None if v is None else inputs[slots.number[i, k]] if (i, k) in slots.number else env[v]
            for k, v in enumerate(node.inputs)
        )
        outputs = []
        for value in node.outputs:
            env[value] = Value(builder.fresh(str(count)), value.type)
            outputs.append(env[value])
            count += 1
        builder.nodes.append(Node(node.op, given, node.attrs, tuple(outputs), places.places[i]))
    return builder.finish([env[first[i].outputs[k]] for i, k in slots.outputs])


def _input_name(given: tuple[Value, ...], weights: dict[Value, str]) -> str:
    """A weight's name within its layer, the name of what all share, or `x` for what changes."""
    if all(v in weights for v in given):
        return re.split(r"\.\d+\.", weights[given[0]])[-1] or "weight"
    shared = all(v is given[0] for v in given) and not given[0].name.isdigit()
    return given[0].name if shared else "x"


def _call(
    nodes: tuple[Node, ...], repeat: Repeat, slots: _Slots, places: Places, function: str, j: int
) -> Node:
    at = repeat.start + j * repeat.period
    op = get("call")
    attrs = op.complete_attrs(
        {"function": function, "index": places.indices[j], "elsewhere": places.elsewhere[j]}
    )
    inputs = tuple(given[j] for given in slots.inputs)
    outputs = tuple(nodes[at + i].outputs[k] for i, k in slots.outputs)
    return Node(op, inputs, Attrs(attrs), outputs, places.calls[j])


def _function_name(path: str, taken: set[str]) -> str:
    """The last word of the module path, all of it where that is taken, or with a number."""
    last, whole = path.split(".")[-1] or "layer", path.replace(".", "_") or "layer"
    for name in (last, whole):
        if name not in taken:
            return name
    count = 1
    while f"{whole}_{count}" in taken:
        count += 1
    return f"{whole}_{count}"
