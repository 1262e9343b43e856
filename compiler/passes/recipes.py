"""Expressions of weights as entries of the weight table."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...ir.dims import Expr
from ...ir.dtypes import bf16, f16, f32
from ...ir.graph import Graph, Node, Value, callee, producers, users
from ...ir.op import Attrs, get
from ...ir.tensor import TensorType
from ...ir.weights import Held, Recipe, Weight
from ..rewriting import Event, RuleBuilder, drop_dead

SOURCES = ("constant", "dim_value", "weight")  # they cost nothing where they are
NEVER = ("call", "dequantize", "fused")  # a backend that keeps `dequantize` wants its few bits
PACKS = ("to_panels", "to_quads", "to_expert_panels", "to_expert_quads")  # they pad
SMALL_BYTES = 1 << 16  # what is smaller than this may grow


def is_recipe(node: Node, weight_bits: int) -> bool:
    """Whether a node on weights can be done once, when something is built: its sizes are fixed and it does not grow.

    weight_bits: how wide weights are held; a cast up to that is wanted, one beyond it is left for run time.
    """
    single = len(node.outputs) == 1 or node.op.name == "split"
    if not single or node.op.aliases or node.op.name in NEVER or callee(node) is not None or _has_symbols(node):
        return False
    narrow = node.op.name == "cast" and node.output.type.dtype.bits <= weight_bits
    if narrow or node.op.name in PACKS:
        return True
    read = sum(_bytes(v) for v in node.inputs if v is not None)
    return sum(map(_bytes, node.outputs)) <= max(read, SMALL_BYTES)


def _bytes(value: Value) -> int:
    size = value.type.bytes
    assert isinstance(size, int)
    return size


def _has_symbols(node: Node) -> bool:
    values = [v for v in (*node.inputs, *node.outputs) if v is not None]
    sizes: list[Any] = [d for v in values for d in v.type.shape]
    for attr in node.attrs.values():
        sizes += attr if isinstance(attr, tuple) else [attr]
    return any(isinstance(s, Expr) for s in sizes)


def _undone(node: Node, made_by: Mapping[Value, Node]) -> Value | None:
    """What a cast gives back, where the one before it widened that and lost nothing."""
    before = made_by.get(node.inputs[0]) if node.op.name == "cast" and node.inputs[0] is not None else None
    inner = before.inputs[0] if before is not None and before.op.name == "cast" else None
    if before is None or inner is None or inner.type.dtype != node.output.type.dtype:
        return None
    return inner if inner.type.dtype in (bf16, f16) and before.output.type.dtype == f32 else None


class Recipes:
    """A weight table that grows by expressions. Equal expressions are one entry."""

    def __init__(self, table: Mapping[str, Weight]) -> None:
        self.table = dict(table)
        self._names: dict[Weight, str] = {w: n for n, w in table.items()}
        self._made: dict[tuple[object, ...], Weight] = {}

    def apply(
        self, graph: Graph, static: set[Value], may: Callable[[Node], bool], quiet: set[str]
    ) -> tuple[Graph, list[Event]]:
        """A graph with the static expressions that `may` be entries replaced by them.

        quiet: places of which is told elsewhere.
        """
        weights = self._expressions(graph, static, may)
        used, outside = users(graph), set(graph.outputs)
        events: list[Event] = []
        b = RuleBuilder(graph)
        for node in graph.nodes:
            b.copy(node)
            if node.op.name in SOURCES:
                continue
            for value in node.outputs:
                needed = value in outside or not all(weights.keys() >= set(n.outputs) for n in used[value])
                if value in weights and needed:
                    b.map[value] = self._emit(b, weights[value], node, value)
                    if str(node.where) not in quiet:
                        events.append(Event(f"{node.op.name} of weights is done when the program is built", node.where))
        return drop_dead(b.done()), events

    def _emit(self, b: RuleBuilder, weight: Weight, node: Node, value: Value) -> Value:
        name = self._name(weight, node)
        return b.emit_node("weight", (), {"name": name}, types=(value.type,), where=node.where).output

    def _expressions(
        self, graph: Graph, static: set[Value], may: Callable[[Node], bool]
    ) -> dict[Value, Weight]:
        found: dict[Value, Weight] = {}
        made_by = producers(graph)
        for node in graph.nodes:
            undone = _undone(node, made_by)
            if undone in found:
                found[node.output] = found[undone]
            elif node.op.name == "weight":
                found[node.output] = self.table[node.attrs["name"]]
            elif node.op.name == "constant":
                found[node.output] = self._scalar(node)
            elif set(node.outputs) <= static and may(node):
                if all(v is None or v in found for v in node.inputs):
                    inputs = tuple(found[v] for v in node.inputs if v is not None)
                    found.update(zip(node.outputs, self._results(node, inputs), strict=True))
        return found

    def _results(self, node: Node, inputs: tuple[Weight, ...]) -> list[Weight]:
        if node.op.name != "split":
            return [self._recipe(node.op.name, node.attrs, inputs, node.output.type)]
        axis, start, pieces = node.attrs["axis"], 0, []
        for value in node.outputs:
            stop = start + int(value.type.shape[axis])
            attrs = Attrs({"axis": axis, "start": start, "stop": stop, "step": 1})
            pieces.append(self._recipe("slice", attrs, inputs, value.type))
            start = stop
        return pieces

    def _recipe(self, op: str, attrs: Attrs, inputs: Sequence[Weight], type: TensorType) -> Weight:
        key = (op, attrs, tuple(inputs), type)
        if key not in self._made:
            self._made[key] = Weight(type, Recipe(get(op), attrs, tuple(inputs)))
        return self._made[key]

    def _scalar(self, node: Node) -> Weight:
        key = ("constant", node.attrs)
        if key not in self._made:
            dtype = node.attrs["dtype"]
            array = np.asarray(node.attrs["value"]).astype(dtype.numpy)
            self._made[key] = Weight(TensorType(dtype), Held(array))
        return self._made[key]

    def _name(self, weight: Weight, node: Node) -> str:
        """A name in the table, readable: the first weight's, and what was done to it."""
        if weight not in self._names:
            base = name = _base(weight, self._names, node)
            count = 1
            while name in self.table:
                name, count = f"{base}.{count}", count + 1
            self._names[weight] = name
            self.table[name] = weight
        return self._names[weight]


def _base(weight: Weight, names: Mapping[Weight, str], node: Node) -> str:
    done = []
    while isinstance(weight.source, Recipe) and weight not in names:
        done.append(weight.source.op.name)
        if not weight.source.inputs:
            break
        weight = weight.source.inputs[0]
    root = names.get(weight) or re.sub(r"[^\w.]", "_", node.where.module) or "constant"
    return ".".join((root, *reversed(done)))
