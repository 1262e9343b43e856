"""Which of an entry's outputs are its inputs, written over in place."""

from __future__ import annotations

from .graph import Graph, Program, Value, callee, producers


def overwritten(program: Program, entry: str) -> dict[str, str]:
    """Output -> the input whose buffer it is."""
    graph = program.functions[entry]
    found = {}
    for name, value in zip(graph.output_names, graph.outputs, strict=True):
        place = _origin(program, graph, value)
        if place is not None:
            found[name] = graph.inputs[place].name
    return found


def _origin(program: Program, graph: Graph, value: Value) -> int | None:
    """The place among a graph's inputs of the buffer that a value was written into; None for one of its own."""
    made_by, written = producers(graph), False
    while value in made_by:
        node = made_by[value]
        at, inner = node.outputs.index(value), callee(node)
        if inner is None:
            source = node.op.aliases.get(at)
        else:
            body = program.functions[inner]
            source = _origin(program, body, body.outputs[at])
        if source is None:
            return None
        before = node.inputs[source]
        assert before is not None
        value, written = before, True
    return graph.inputs.index(value) if written else None
