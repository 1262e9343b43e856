"""A folded program of few layers made one of many: what a body repeats is called more often.

A model of 126 equal layers is captured with four of them; the rest are more calls of the same function, each with the
weights, caches and places that its layer has in the full model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from .canonical import canonical_graph
from .diagnostics import GraphError, Where
from .graph import Graph, Node, Program, Value, callee, producers
from .op import Attrs
from .text_words import read_where, where_text
from .weights import Held, Weight

_NUMBER = re.compile(r"\d+")
_T = TypeVar("_T")


def stretch(program: Program, depths: Mapping[str, int]) -> Program:
    """The folded program with as many layers as `depths` says, of all entries.

    depths: module path of what holds the layers -> how many there are in the full model: {"model.layers": 126}.
    Where the layers are of several kinds, those of the longest run of calls become more.
    Equal to `fold` of the full capture, as long as both fold alike.

    Raises: GraphError where there are not three calls in a row to learn from, where a layer reads what does not follow
    from its number, where the count does not come out, or where weights hold numbers, which new layers would lack.
    """
    for holder, depth in depths.items():
        stretched = {n: _stretched(program, program.functions[n], holder, depth) for n in program.entries}
        weights = _weights(program, stretched.values())
        functions = {**program.functions, **{n: s.graph for n, s in stretched.items()}}
        program = program.replace(functions=functions, weights=weights)
    return program


@dataclass(slots=True)
class _Stretched:
    """A graph in the making. renamed: new weight -> the one whose type it has."""

    graph: Graph
    renamed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Run:
    """Calls in a row of one body under one holder.

    nodes: all of the graph but its weights. at: where the first of the calls stands. count: how many there are.
    step:  layers in one call. first: the layer of the call that is copied.
    """

    nodes: tuple[Node, ...]
    at: int
    count: int
    step: int
    first: int

    @property
    def model(self) -> Node:
        """The call that is copied: the second, which follows one of its kind and precedes one."""
        return self.nodes[self.at + 1]

    @property
    def before(self) -> Node:
        return self.nodes[self.at]


def _stretched(program: Program, graph: Graph, holder: str, depth: int) -> _Stretched:
    run = _find_run(graph, holder)
    present = 1 + max(_numbers(program.weights, holder), default=-1)
    copies, rest = divmod(depth - present, run.step)
    if rest or copies < 0:
        raise GraphError(f"{holder} cannot become {depth} layers", found=f"{present} layers, {run.step} in each call")
    return _Stretcher(graph, run, holder, copies).build()


def _find_run(graph: Graph, holder: str) -> _Run:
    """The longest row of calls of one function in that part of the model."""
    nodes = tuple(n for n in graph.nodes if n.op.name != "weight")
    best, at = (0, 0), 0
    while at < len(nodes):
        end = at + 1
        while end < len(nodes) and callee(nodes[at]) is not None and callee(nodes[end]) == callee(nodes[at]):
            end += 1
        if callee(nodes[at]) is not None and nodes[at].where.module.startswith(f"{holder}."):
            best = max(best, (end - at, -at))
        at = end
    count, start = best[0], -best[1]
    if count < 3:
        raise GraphError(f"{holder} cannot be stretched: no three calls of one layer stand in a row",
                         found=f"{count}", hint="capture it with more layers")  # fmt: skip
    indices = [nodes[start + i].attrs["index"] for i in range(2)]
    if indices[0] < 0 or indices[1] <= indices[0]:
        raise GraphError(f"{holder} cannot be stretched: its calls have no number", found=str(indices))
    return _Run(nodes, start, count, indices[1] - indices[0], indices[1])


def _numbers(names: Mapping[str, object], holder: str) -> Iterator[int]:
    for name in names:
        head = re.match(rf"{re.escape(holder)}\.(\d+)(\.|$)", name)
        if head:
            yield int(head[1])


class _Stretcher:
    """Copies one call, and moves what follows it to later layers."""

    def __init__(self, graph: Graph, run: _Run, holder: str, copies: int) -> None:
        self.graph, self.run, self.copies = graph, run, copies
        self.prefixes = {f"{holder}."}
        self.made = producers(graph)
        self.weights: dict[str, Value] = {}
        self.weight_nodes: dict[str, Node] = {}
        self.renamed: dict[str, str] = {}
        self.given: dict[str, Value] = {v.name: v for v in graph.inputs}
        self.now: dict[Value, Value] = {}  # old value -> what stands for it behind the copies
        pairs = zip(run.before.inputs, run.model.inputs, strict=True)
        self.shared = {a for a, b in pairs if a is b and a is not None}  # by all the calls, whatever number it bears
        self._learn()

    # -- names with a layer's number ------------------------------------------------------------------

    def _learn(self) -> None:
        """The words before the number in the names of inputs and outputs that belong to a layer each (caches)."""
        named = dict(zip(self.graph.outputs, self.graph.output_names, strict=True))
        pairs = [(a, b) for a, b in zip(self.run.before.inputs, self.run.model.inputs, strict=True) if a is not b]
        names = [(a.name, b.name) for a, b in pairs if a in self.graph.inputs and b in self.graph.inputs]
        names += [
            (named[a], named[b]) for a, b in zip(self.run.before.outputs, self.run.model.outputs, strict=True)
            if a in named and b in named
        ]  # fmt: skip
        self.prefixes |= {prefix for a, b in names if (prefix := _before_number(a, b, self.run.step)) is not None}

    def later(self, name: str, layers: int, least: int) -> str:
        """The name that many layers on, where it is numbered from `least` on; else as it is."""
        for prefix in self.prefixes:
            number = _NUMBER.match(name, len(prefix)) if name.startswith(prefix) else None
            if number is not None and int(number[0]) >= least and name[number.end() :][:1] in ("", "."):
                return f"{prefix}{int(number[0]) + layers}{name[number.end() :]}"
        return name

    def place(self, where: Where, layers: int, least: int) -> Where:
        return Where(where.file, where.line, self.later(where.module, layers, least))

    # -- values ---------------------------------------------------------------------------------------

    def weight(self, node: Node, layers: int, least: int) -> Value:
        """The value of a weight that many layers on."""
        old = node.attrs["name"]
        name = self.later(old, layers, least)
        if name not in self.weights:
            value = Value(name, node.output.type)
            where = self.place(node.where, layers, least)
            self.weights[name], self.renamed[name] = value, old
            self.weight_nodes[name] = Node(node.op, (), Attrs({"name": name}), (value,), where)
        return self.weights[name]

    def value(self, value: Value | None, layers: int, least: int) -> Value | None:
        """What stands for a value, read by a node that has moved by that many layers."""
        maker = None if value is None else self.made.get(value)
        if value is None or (maker is not None and maker.op.name != "weight"):
            return value if value is None else self.now.get(value, value)
        if maker is not None:
            return self.weight(maker, 0 if value in self.shared else layers, least)
        name = self.later(value.name, layers, least)
        return self.given.setdefault(name, Value(name, value.type))

    # -- nodes ----------------------------------------------------------------------------------------

    def moved(self, node: Node, layers: int, least: int) -> Node:
        """The node in a later layer, its outputs being new."""
        attrs = dict(node.attrs)
        if callee(node) is not None and "elsewhere" in attrs:
            words = [
                w if k % 2 == 0 else where_text(self.place(read_where(w), layers, least))
                for k, w in enumerate(attrs["elsewhere"])
            ]
            same = self.place(node.where, layers, least) == node.where
            attrs["elsewhere"] = tuple(words)
            attrs["index"] += 0 if same or attrs["index"] < 0 else layers
        inputs = tuple(self.value(v, layers, least) for v in node.inputs)
        outputs = tuple(Value(v.name, v.type) for v in node.outputs)
        return Node(node.op, inputs, Attrs(attrs), outputs, self.place(node.where, layers, least))

    def build(self) -> _Stretched:
        run, done = self.run, list[Node]()
        split = run.at + 2
        for node in run.nodes[:split]:
            done.append(self._kept(node))
        rows = list(self._copied(run, done))
        most = self.copies * run.step
        for node in run.nodes[split:]:
            done.append(self.moved(node, most, run.first + run.step))
            self.now.update(zip(node.outputs, done[-1].outputs, strict=True))
        outputs, names = self._outputs(rows, most)
        inputs = self._inputs(most)
        nodes = (*self.weight_nodes.values(), *done)
        return _Stretched(canonical_graph(Graph(inputs, nodes, outputs, names)), self.renamed)

    def _kept(self, node: Node) -> Node:
        """A node before the copies: the same on weights that are made anew."""
        inputs = tuple(self.value(v, 0, 0) for v in node.inputs)
        return Node(node.op, inputs, node.attrs, node.outputs, node.where)

    def _copied(self, run: _Run, done: list[Node]) -> Iterator[tuple[Value, ...]]:
        """Appends the copies; the outputs of each."""
        self._check()
        last = run.model.outputs
        for k in range(1, self.copies + 1):
            # What the model reads of the call before it, a copy reads of the copy before it.
            self.now = dict(zip(run.before.outputs, last, strict=True))
            done.append(self.moved(run.model, k * run.step, 0))
            last = done[-1].outputs
            yield last
        self.now = dict(zip(run.model.outputs, last, strict=True))

    def _check(self) -> None:
        """Raises: GraphError where an input of the copied call does not follow from the layer's number alone."""
        before, model, after = (self.run.nodes[self.run.at + i] for i in range(3))
        for one, two, three in zip(before.inputs, model.inputs, after.inputs, strict=True):
            carried = self._kind(two, before), self._kind(three, model)
            if one is two is three or (carried[0] == carried[1] and carried[0][0] == "carried"):
                continue
            if not self._counted(one, two, three):
                raise GraphError("a layer reads what does not follow from its number", where=model.where,
                                 found=f"{one!r}, then {two!r}, then {three!r}")  # fmt: skip

    def _counted(self, *values: Value | None) -> bool:
        """Whether they are weights, or inputs, whose names count the layers; the last may be one for all layers."""
        kinds = {self._kind(v, None)[0] for v in values}
        if len(kinds) != 1 or not kinds <= {"weight", "input"}:
            return False
        one, two, three = (self._name(v) for v in values if v is not None)
        step = self.run.step
        return self.later(one, step, 0) == two != one and three in (self.later(two, step, 0), self.later(three, 1, 0))

    def _name(self, value: Value) -> str:
        maker = self.made.get(value)
        return value.name if maker is None else str(maker.attrs["name"])

    def _kind(self, value: Value | None, before: Node | None) -> tuple[str, int]:
        if value is None:
            return "absent", -1
        if before is not None and value in before.outputs:
            return "carried", before.outputs.index(value)
        maker = self.made.get(value)
        return ("input" if maker is None else maker.op.name), -1

    # -- the graph's own inputs and outputs --------------------------------------------------------------

    def _inputs(self, most: int) -> tuple[Value, ...]:
        """Those of each new layer behind those of the layer that it is a copy of."""
        own = {v for v in self.run.model.inputs if v is not None and v not in self.run.before.inputs}
        groups = _grouped(self.graph.inputs, own)
        names: dict[str, None] = {}
        for group, copied in groups:
            if not copied:  # caches of later layers have moved on
                names |= dict.fromkeys(self._moved_name(v.name, most) for v in group)
                continue
            for k in range(self.copies + 1):
                names |= dict.fromkeys(self.later(v.name, k * self.run.step, 0) for v in group)
        return tuple(self.given.get(n) or self._unread(n, most) for n in names)

    def _moved_name(self, name: str, most: int) -> str:
        return self.later(name, most, self.run.first + self.run.step)

    def _unread(self, name: str, most: int) -> Value:
        """An input that nothing reads has moved all the same."""
        return next(Value(name, v.type) for v in self.graph.inputs if self._moved_name(v.name, most) == name)

    def _outputs(self, rows: list[tuple[Value, ...]], most: int) -> tuple[tuple[Value, ...], tuple[str, ...]]:
        found: list[tuple[Value, str]] = []
        named = dict(zip(self.graph.output_names, self.graph.outputs, strict=True))
        own = {n for n, v in named.items() if v in self.run.model.outputs}
        lost = [n for n in own if self.later(n, 1, 0) == n]
        if lost:
            raise GraphError("a layer's output has no number in its name", found=", ".join(lost),
                             where=self.run.model.where)  # fmt: skip
        for group, copied in _grouped(tuple(named), own):
            for name in group:
                value = named[name]
                found.append((value, name) if copied else (self.now.get(value, value), self._moved_name(name, most)))
            for k, row in enumerate(rows if copied else [], 1):
                for name in group:
                    at = self.run.model.outputs.index(named[name])
                    found.append((row[at], self.later(name, k * self.run.step, 0)))
        return tuple(v for v, _ in found), tuple(n for _, n in found)


def _grouped(items: tuple[_T, ...], own: set[_T]) -> Iterator[tuple[list[_T], bool]]:
    """The items in their order, in groups that are all of `own` or none of it."""
    group: list[_T] = []
    for item in items:
        if group and (item in own) != (group[0] in own):
            yield group, group[0] in own
            group = []
        group.append(item)
    if group:
        yield group, group[0] in own


def _before_number(one: str, two: str, step: int) -> str | None:
    """What stands before the one number in which two names differ, by `step`; None where they differ otherwise."""
    a, b = list(_NUMBER.finditer(one)), list(_NUMBER.finditer(two))
    if _NUMBER.sub("#", one) != _NUMBER.sub("#", two):
        return None
    differ = [(x, y) for x, y in zip(a, b, strict=True) if x[0] != y[0]]
    if len(differ) != 1 or int(differ[0][1][0]) - int(differ[0][0][0]) != step:
        return None
    return one[: differ[0][0].start()]


def _weights(program: Program, stretched: Iterable[_Stretched]) -> dict[str, Weight]:
    """The table of weights: in the order of first use, new ones as those that they are like, without bytes."""
    found: dict[str, Weight] = {}
    for made in stretched:
        for node in made.graph.nodes:
            if node.op.name == "weight":
                name, old = node.attrs["name"], made.renamed[node.attrs["name"]]
                found[name] = program.weights[old] if name == old else _shape_of(old, program.weights[old])
    unread = {n: w for n, w in program.weights.items() if n not in found}
    return {**found, **unread}


def _shape_of(name: str, weight: Weight) -> Weight:
    if not (isinstance(weight.source, Held) and weight.source.array is None):
        raise GraphError(f"weight {name!r} holds numbers, which the layers that are made of it would lack",
                         hint="capture the model on the meta device")  # fmt: skip
    return Weight(weight.type)
