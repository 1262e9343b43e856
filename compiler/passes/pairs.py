"""Whether the angles of a rotary embedding hold one number for both members of each pair, read through calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ...ir.graph import Node, Program, Value, producers
from ...ir.ops.elementwise import Binary, Unary
from ...ir.weights import Held, Weight, leaves, materialize
from ..analysis import call_sites
from ..pattern import Producers

HALVES, TWINS, ONE = "halves", "twins", "one"  # x[i] == x[i + r/2]; x[2i] == x[2i + 1]; all of the last axis is alike
LARGEST = 1 << 22  # elements of a table that is looked at
DEEPEST = 40
_SHORTER = ("slice", "split", "gather", "concat")  # keep the last axis where they work along another


class Pairs:
    """What is known of the last axis of a program's values."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._made = {name: producers(graph) for name, graph in program.functions.items()}
        self._given: dict[Value, list[tuple[Value | None, Producers]]] = {}
        sites = call_sites(program)
        for name, graph in program.functions.items():
            for i, parameter in enumerate(graph.inputs):
                asked = () if name in program.entries else sites[name]
                self._given[parameter] = [(node.inputs[i], self._made[caller]) for caller, node in asked]

    def are(self, way: str, value: Value, made_by: Producers) -> bool:
        """Whether the last axis of a value is known to be paired in that way."""
        return self._holds(way, value, made_by, 0)

    def _holds(self, way: str, value: Value | None, made_by: Producers, depth: int) -> bool:
        if value is None or depth > DEEPEST:
            return False
        if not value.type.shape or value.type.shape[-1] == 1:
            return True
        node = made_by.get(value)
        if node is None:
            given = self._given.get(value, [])
            return bool(given) and all(self._holds(way, v, inner, depth + 1) for v, inner in given)
        return _reader(node)(self, way, node, made_by, depth + 1)

    def _all(self, way: str, node: Node, made_by: Producers, depth: int) -> bool:
        """Where the op keeps the last axis of each input in its place."""
        return all(self._holds(way, v, made_by, depth) for v in node.inputs)

    def _first(self, way: str, node: Node, made_by: Producers, depth: int) -> bool:
        return self._holds(way, node.inputs[0], made_by, depth)

    def _reshape(self, way: str, node: Node, made_by: Producers, depth: int) -> bool:
        before, after = node.inputs[0].type.shape, node.output.type.shape  # type: ignore[union-attr]
        if before and before[-1] == after[-1]:
            return self._first(way, node, made_by, depth)
        twice = len(before) > 1 and before[-1] == 2 and after[-1] == before[-2] * 2
        return way == TWINS and twice and self._first(ONE, node, made_by, depth)

    def _expand(self, way: str, node: Node, made_by: Producers, depth: int) -> bool:
        return self._first(way, node, made_by, depth)  # of what had one element, that is always so

    def _transpose(self, way: str, node: Node, made_by: Producers, depth: int) -> bool:
        perm = node.attrs["perm"]
        return bool(perm[-1] == len(perm) - 1) and self._first(way, node, made_by, depth)

    def _along(self, way: str, node: Node, made_by: Producers, depth: int) -> bool:
        rank = node.inputs[0].type.rank  # type: ignore[union-attr]
        if node.attrs["axis"] % rank != rank - 1:
            return (self._all if node.op.name == "concat" else self._first)(way, node, made_by, depth)
        same = node.op.name == "concat" and len(node.inputs) == 2 and node.inputs[0] is node.inputs[1]
        return same and (way == HALVES or self._first(way, node, made_by, depth))

    def _weight(self, way: str, node: Node, made_by: Producers, depth: int) -> bool:
        return _says(way, self.program.weights[node.attrs["name"]])

    def _unknown(self, way: str, node: Node, made_by: Producers, depth: int) -> bool:
        return False


_Reader = Callable[[Pairs, str, Node, Producers, int], bool]
_READERS: Mapping[str, _Reader] = {
    "reshape": Pairs._reshape, "expand": Pairs._expand, "transpose": Pairs._transpose, "weight": Pairs._weight,
    "where": Pairs._all, **dict.fromkeys(_SHORTER, Pairs._along),
}  # fmt: skip


def _reader(node: Node) -> _Reader:
    if isinstance(node.op, (Unary, Binary)):
        return Pairs._all
    return _READERS.get(node.op.name, Pairs._unknown)


def _says(way: str, weight: Weight) -> bool:
    """Whether a table's numbers are paired; one without bytes is not known to be."""
    size, width = weight.type.elements, weight.type.shape[-1]
    if not isinstance(size, int) or not isinstance(width, int) or size > LARGEST or width % 2 and way != ONE:
        return False
    if any(isinstance(w.source, Held) and w.source.array is None for w in leaves(weight)):
        return False
    array = materialize(weight)
    if way == ONE:
        return bool((array == array[..., :1]).all())
    half = width // 2
    one, other = (slice(half), slice(half, None)) if way == HALVES else (slice(0, None, 2), slice(1, None, 2))
    return bool(np.array_equal(array[..., one], array[..., other]))
