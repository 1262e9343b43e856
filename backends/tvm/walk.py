"""Walks a plan's entry and calls the lowering of each node; calls are inlined, their kernels are the same ones."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

from ...ir.build import Builder
from ...ir.diagnostics import BuildError
from ...ir.dtypes import bf16
from ...ir.graph import Graph, Node, Program, Value, callee, users
from ...ir.walk import key_of
from .emit import Emit, Root, Rounding, View, row_major
from .group import Group, groups
from .lower import DECLINED, PARTS
from .lower_group import lower_group
from .schedule import Schedule

T = TypeVar("T")


class Walk:
    """One emission of an entry's graph."""

    def __init__(self, program: Program, to: Emit) -> None:
        self.program, self.to, self._table = program, to, to.family.table
        self._path, self._within = "", False
        self._weights: dict[str, Root] = {}
        self._grouped: dict[Graph, Mapping[Node, Group | None]] = {}

    def entry(self, name: str) -> None:
        """Emits an entry, whose inputs are the user's."""
        graph = self.program.functions[name]
        for value in graph.inputs:
            self.to.views[value] = _dense(Root("input", value.name), value)
        self._nodes(graph)

    def _nodes(self, graph: Graph) -> None:
        if graph not in self._grouped:
            self._grouped[graph] = groups(graph, self.to.family)
            self.to.roundings |= roundings(graph, self._grouped[graph])
        grouped = self._grouped[graph]
        for node in graph.nodes:
            if node not in grouped:
                self._key(node)
                self._node(node)
            elif (group := grouped[node]) is not None:
                self._key(*group.all)
                lower_group(self.to, group)

    def _key(self, *nodes: Node) -> None:
        if not self._within:
            self.to.keys = tuple(key_of(self._path, n) for n in nodes)

    def _node(self, node: Node) -> None:
        to, name = self.to, node.op.name
        if node.outputs[0] in to.rounded:
            to.rounded.discard(node.outputs[0])
        elif name == "weight":
            to.views[node.output] = _dense(self._weight(node.attrs["name"]), node.output)
        elif name == "constant":
            dtype, value = node.attrs["dtype"], node.attrs["value"]
            to.scalars[node.output], to.views[node.output] = value, to.constant(value, dtype)
        elif name == "dim_value":
            to.views[node.output] = to.constant(node.attrs["dim"], node.output.type.dtype)
        elif name in ("call", "fused"):
            self._call(node)
        elif name not in self._table or self._table[name](to, node) is PARTS:
            self._decompose(node)

    def _weight(self, name: str) -> Root:
        return self._weights.setdefault(name, Root("weight", name))

    def _call(self, node: Node) -> None:
        outer, self._path = self._path, key_of(self._path, node)
        self._inline(self.program.functions[str(callee(node))], node)
        self._path = outer

    def _inline(self, body: Graph, node: Node) -> None:
        """A body on a node's inputs. Its values are forgotten, so that it can run again on others."""
        to = self.to
        given = [v for v in node.inputs if v is not None]
        for inner, outer in zip(body.inputs, given, strict=True):
            _same(to.views, inner, outer)
            _same(to.scalars, inner, outer)
        self._nodes(body)
        results = [(to.views[v], to.scalars.get(v)) for v in body.outputs]
        for value, (view, scalar) in zip(node.outputs, results, strict=True):
            to.views[value] = view
            if scalar is not None:
                to.scalars[value] = scalar

    def _decompose(self, node: Node) -> None:
        if node.op.decompose is None:
            reason = DECLINED.get(node.op.name, "no kernel is written for it yet")
            raise BuildError(f"{node.op.name}: TVM does not take it: {reason}", where=node.where)
        b = Builder(node.where)
        given = [None if v is None else b.input(v.name, v.type) for v in node.inputs]
        result = node.op.decompose(b, *given, **node.attrs)
        body = b.finish(result if isinstance(result, tuple) else (result,))
        outer, self._within = self._within, True
        self._inline(body, node)
        self._within = outer


def roundings(graph: Graph, grouped: Mapping[Node, Group | None]) -> dict[Value, Rounding]:
    """Casts to bf16 that no other kernel does, by what they round."""
    used, found = users(graph), dict[Value, Rounding]()
    for node in graph.nodes:
        if node.op.name == "cast" and node.attrs["dtype"] == bf16 and node not in grouped:
            value = node.inputs[0]
            assert value is not None
            found[value] = Rounding(node, len(used[value]) == 1 and value not in graph.outputs)
    return found


def _same(table: dict[Value, T], inner: Value, outer: Value) -> None:
    if outer in table:
        table[inner] = table[outer]
    else:
        table.pop(inner, None)


def _dense(root: Root, value: Value) -> View:
    return View(root, value.type.dtype, value.type.shape, row_major(value.type.shape))


def emit(
    program: Program, function: str, to: Emit, aliases: Mapping[str, str], kernels: Mapping[tuple[str, str], str],
    experts: Mapping[tuple[str, str], int] = MappingProxyType({}),
) -> Schedule:  # fmt: skip
    """The schedule of one function of a program. kernels: of (function, node), where it is not the usual one. experts:
    of those that are layers of experts, what the compiler decided."""
    named = [((f, n.outputs[0].name), n) for f, graph in program.functions.items() for n in graph.nodes if n.outputs]
    to.options = {node: kernels[at] for at, node in named if at in kernels}
    to.least_rows = {node: experts[at] for at, node in named if at in experts}
    to.held = frozenset(aliases.values())
    Walk(program, to).entry(function)
    graph = program.functions[function]
    return to.finish(list(zip(graph.output_names, graph.outputs, strict=True)), aliases)
