"""Which parameters an entry reads, each storage once, and how much of each one token uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from ..compiler.analysis import SCALES
from ..ir import dims
from ..ir.graph import Node, Program, Value, producers
from ..ir.unfold import unfold
from ..ir.walk import walk
from ..ir.weights import Held, Recipe, Stored, Weight, leaves

# op -> the inputs of which each token uses k of e
_EXPERTS = dict.fromkeys(("moe", "panel_moe"), slice(3, 7)) | dict.fromkeys(("quantized_moe", "quad_moe"), slice(3, 9))
_UNCOUNTED = ("i64", "i32", "bool")  # index tables and masks


@dataclass(frozen=True, slots=True)
class Parameter:
    """One storage: its name in the user's model, its elements, and how many of them one token uses.

    active: all of them; of experts, k of e. An embedding counts in full, as in published counts of active parameters.
    """

    name: str
    elements: int
    active: Fraction

    @property
    def module(self) -> str:
        return self.name.rpartition(".")[0]


def parameters(
    program: Program, entry: str | None, buffers: frozenset[str], captured: Program | None
) -> Iterator[Parameter]:
    """Those of every weight that the entry reads, in the order of their first use.

    Index tables and masks (wide integers, bools) are no parameters, nor are the scales beside quantised ones, nor the
    model's own `buffers`. captured: the program before any pass, whose names the parameters bear.
    """
    names = {} if captured is None else _names(captured)
    scales, shares = _roles(program)
    seen = set(scales)
    for table_name in dict.fromkeys(n.attrs["name"] for _, n in walk(program, entry) if n.op.name == "weight"):
        for leaf in leaves(program.weights[table_name]):
            key = _identity(leaf)
            name = names.get(key, table_name)
            if key in seen or name in buffers or leaf.type.dtype.name in _UNCOUNTED:
                continue
            seen.add(key)
            elements = dims.evaluate(leaf.type.elements, {})
            yield Parameter(name, elements, elements * shares.get(key, Fraction(1)))


def _names(captured: Program) -> dict[object, str]:
    """The name of each storage, the first of a tied one."""
    found: dict[object, str] = {}
    for name, weight in captured.weights.items():
        if not isinstance(weight.source, Recipe):
            found.setdefault(_identity(weight), name)
    return found


def _roles(program: Program) -> tuple[set[object], dict[object, Fraction]]:
    """The storages of what quantised weights are scaled and moved by; the share of experts that one token uses."""
    scales: set[object] = set()
    shares: dict[object, Fraction] = {}
    for graph in unfold(program).functions.values():
        made_by = producers(graph)
        for node in graph.nodes:
            for value in (node.inputs[i] for i in SCALES.get(node.op.name, ()) if i < len(node.inputs)):
                scales.update(_stored(value, made_by, program))
            experts = _EXPERTS.get(node.op.name)
            for value in () if experts is None else node.inputs[experts]:
                for key in _stored(value, made_by, program):
                    shares[key] = max(_share(node), shares.get(key, Fraction(0)))
    return scales, shares


def _share(node: Node) -> Fraction:
    """k / e of a layer of experts."""
    indices, gate_up = node.inputs[1], node.inputs[3]
    assert indices is not None and gate_up is not None
    k, e = (dims.evaluate(d, {}) for d in (indices.type.shape[-1], gate_up.type.shape[0]))
    return Fraction(min(k, e), e)


def _stored(value: Value | None, made_by: Mapping[Value, Node], program: Program) -> Iterator[object]:
    """The storages that a value is moved out of, or dequantised from."""
    node = None if value is None else made_by.get(value)
    if node is None:
        return
    if node.op.name == "weight":
        if _worked_out(program.weights[node.attrs["name"]]):
            return  # a scale made of the very numbers beside which it stands
        yield from (_identity(leaf) for leaf in leaves(program.weights[node.attrs["name"]]))
    elif node.op.pure_move:
        for part in node.inputs if node.op.variadic else node.inputs[:1]:
            yield from _stored(part, made_by, program)
    elif node.op.name == "dequantize":
        yield from _stored(node.inputs[0], made_by, program)


def _worked_out(weight: Weight) -> bool:
    """Whether a weight is the scale of what was quantised here, or is made of such."""
    source = weight.source
    return isinstance(source, Recipe) and (source.op.name == "quantize_scale" or any(map(_worked_out, source.inputs)))


def _identity(leaf: Weight) -> object:
    """Equal for two references to the same bytes."""
    source = leaf.source
    if isinstance(source, Stored):
        return source.file, source.key
    if isinstance(source, Held) and isinstance(source.array, np.ndarray):
        layout = source.array.__array_interface__
        return layout["data"][0], layout["shape"], layout["strides"], str(source.array.dtype)
    return id(leaf)
