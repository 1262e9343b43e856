"""A program as text that reads back as the same program."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .graph import Graph, Node, Program, Value
from .op import Attrs, Op
from .text_words import attr_text, name_text, quote, where_text
from .weights import Held, Read, Recipe, Stored, Weight


def to_text(program: Program) -> str:
    """The text form: symbols, weights, functions with callees first; an entry is marked `entry`.

    Every node stands on one line, `%name: type = op(%inputs, attr=value)   # file:line module`. An absent input is
    `_`, attributes at their default are left out. Arrays in memory are not part of the text: they are `held`.
    """
    return "\n".join(_lines(program)) + "\n"


def _lines(program: Program) -> Iterator[str]:
    for name, span in program.symbols.items():
        yield f"symbol {name_text(name)}: {span}"
    if program.symbols:
        yield ""
    for name, weight in program.weights.items():
        yield f"weight {name_text(name)}: {weight.type} = {_source(weight)}"
    if program.weights:
        yield ""
    marked = tuple(name for name in program.functions if name in program.entries)
    if marked != program.entries:  # the marks alone would lose their order
        yield f"entries {', '.join(map(name_text, program.entries))}"
        yield ""
    for i, (name, graph) in enumerate(program.functions.items()):
        if i:
            yield ""
        yield from graph_lines(name, graph, "entry" if name in program.entries else "function")


def graph_lines(name: str, graph: Graph, keyword: str = "function") -> Iterator[str]:
    """The lines of one graph."""
    yield f"{keyword} {name_text(name)}({', '.join(map(_made, graph.inputs))}) {{"
    for node in graph.nodes:
        yield f"  {node_text(node)}   # {where_text(node.where)}"
    yield f"  return {', '.join(_returned(graph))}".rstrip()
    yield "}"


def node_text(node: Node) -> str:
    """One node, without its place."""
    outs = ", ".join(map(_made, node.outputs))
    return f"{outs} = {_applied(node.op, map(_used, node.inputs), node.attrs)}"


def _applied(op: Op, inputs: Any, attrs: Attrs) -> str:
    given = (attr_text(op, name, attrs[name]) for name in op.attrs if name in attrs)
    return f"{op.name}({', '.join([*inputs, *(a for a in given if a is not None)])})"


def _used(value: Value | None) -> str:
    return "_" if value is None else f"%{name_text(value.name)}"


def _made(value: Value) -> str:
    return f"%{name_text(value.name)}: {value.type}"


def _returned(graph: Graph) -> Iterator[str]:
    default = tuple(f"output_{i}" for i in range(len(graph.outputs)))
    for name, value in zip(graph.output_names, graph.outputs, strict=False):
        yield _used(value) if graph.output_names == default else f"{name_text(name)}={_used(value)}"


def _source(weight: Weight) -> str:
    source = weight.source
    if isinstance(source, (Held, Read)):
        return "held"
    if isinstance(source, Stored):
        return f"stored({quote(source.file)}, {quote(source.key)}, {quote(source.sha256)})"
    assert isinstance(source, Recipe)
    return _applied(source.op, (f"{_source(w)}: {w.type}" for w in source.inputs), source.attrs)
