"""Weights that lie quantised in the user's file: held so in the program, where they are proved to be the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from ..build import Rebuilder
from ..canonical import canonical
from ..dtypes import DTYPES
from ..graph import Graph, Node, Program, Value
from ..op import Attrs, get
from ..tensor import TensorType
from ..weights import Held, Read, Recipe, Weight, materialize


class Part(Protocol):
    """One plain array, read when it is asked for."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def read(self) -> np.ndarray: ...


class Blocks(Protocol):
    """A quantised weight, as `dequantize` takes it."""

    @property
    def bits(self) -> int: ...
    @property
    def group(self) -> int: ...
    @property
    def axis(self) -> int: ...
    @property
    def scheme(self) -> str: ...
    @property
    def q(self) -> Part: ...
    @property
    def scale(self) -> Part: ...
    @property
    def zero(self) -> Part | None: ...


def hold_quantized(program: Program, blocks: Mapping[str, Blocks]) -> tuple[Program, tuple[str, ...]]:
    """The program with `dequantize(q, scale, zero)` in place of each weight in `blocks`, and notes on those left.

    A weight is replaced only where dequantising gives its very bits. q keeps the weight's name, beside it stand
    `..._scale` and `..._zero`. The dequantize node stands before the first use, so that layers stay alike.
    """
    notes: list[str] = []
    parts: dict[str, tuple[dict[str, Weight], Attrs]] = {}
    for name in (n for n in program.weights if n in blocks):
        weight, found = program.weights[name], _weights(name, blocks[name])
        attrs = _attrs(blocks[name], weight.type)
        if not found.keys().isdisjoint(program.weights.keys() - {name}):
            notes.append(f"{name} is held dequantised: another weight bears the name of its scale")
        elif not _same(weight, tuple(found.values()), attrs):
            notes.append(f"{name} is held dequantised: its blocks are not the numbers that the model computes with")
        else:
            parts[name] = found, attrs
    functions = {name: _replaced(graph, parts) for name, graph in program.functions.items()}
    weights: dict[str, Weight] = {}
    for name, weight in program.weights.items():
        weights.update(parts[name][0] if name in parts else {name: weight})
    return canonical(program.replace(functions=functions, weights=weights)), tuple(notes)


def _weights(name: str, blocks: Blocks) -> dict[str, Weight]:
    named: Sequence[tuple[str, Part | None]] = (
        (name, blocks.q), (f"{name}_scale", blocks.scale), (f"{name}_zero", blocks.zero),
    )  # fmt: skip
    return {n: Weight(TensorType(DTYPES[p.dtype], p.shape), Read(p.read)) for n, p in named if p is not None}


def _attrs(blocks: Blocks, type: TensorType) -> Attrs:
    given = {"bits": blocks.bits, "group": blocks.group, "axis": blocks.axis, "scheme": blocks.scheme}
    return get("dequantize").complete_attrs({**given, "dtype": type.dtype})


def _same(weight: Weight, parts: tuple[Weight, ...], attrs: Attrs) -> bool:
    """Whether dequantising gives the very bits that the model holds."""
    if parts[0].type.shape != weight.type.shape:
        return False
    if isinstance(weight.source, Held) and weight.source.array is None:
        return False
    wanted = materialize(weight)
    found = materialize(Weight(weight.type, Recipe(get("dequantize"), attrs, parts)))
    return np.array_equal(_bits(found), _bits(wanted))


def _bits(array: np.ndarray) -> Any:
    return np.ascontiguousarray(array).view(np.dtype(f"u{array.dtype.itemsize}"))


def _replaced(graph: Graph, parts: Mapping[str, tuple[dict[str, Weight], Attrs]]) -> Graph:
    waiting: dict[Value, Node] = {
        n.output: n for n in graph.nodes if n.op.name == "weight" and n.attrs["name"] in parts
    }
    if not waiting:
        return graph
    b = Rebuilder(graph)

    def dequantized(value: Value) -> None:
        node = waiting.pop(value)
        weights, attrs = parts[node.attrs["name"]]
        made = [b.emit_node("weight", (), {"name": n}, types=(w.type,), where=node.where) for n, w in weights.items()]
        b.map[value] = b.emit("dequantize", *(n.output for n in made), where=node.where, **attrs)

    for node in graph.nodes:
        if node.output_types and node.outputs[0] in waiting:
            continue
        for value in node.inputs:
            if value in waiting:
                dequantized(value)
        b.copy(node)
    for value in graph.outputs:
        if value in waiting:
            dequantized(value)
    return b.done()
