"""Values with identity, nodes in order, functions called per layer, one weight table: the program."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from .diagnostics import Where
from .dims import Range
from .op import Attrs, Op
from .tensor import TensorType

if TYPE_CHECKING:
    from .weights import Weight


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """One result, made once. Two values are equal only if they are the same object."""

    name: str
    type: TensorType

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """One application of an op. An absent optional input is None."""

    op: Op
    inputs: tuple[Value | None, ...]
    attrs: Attrs
    outputs: tuple[Value, ...]
    where: Where

    @property
    def output(self) -> Value:
        """The single output."""
        (value,) = self.outputs
        return value

    @property
    def input_types(self) -> tuple[TensorType | None, ...]:
        return tuple(None if v is None else v.type for v in self.inputs)

    @property
    def output_types(self) -> tuple[TensorType, ...]:
        return tuple(v.type for v in self.outputs)

    def __repr__(self) -> str:
        outs = ", ".join(map(repr, self.outputs))
        args = ", ".join("_" if v is None else f"%{v.name}" for v in self.inputs)
        return f"{outs} = {self.op.name}({args})"


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Nodes in an order in which they can run. `output_names` label the outputs of an entry."""

    inputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    output_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.output_names:
            names = tuple(f"output_{i}" for i in range(len(self.outputs)))
            object.__setattr__(self, "output_names", names)

    def values(self) -> Iterator[Value]:
        yield from self.inputs
        for node in self.nodes:
            yield from node.outputs


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """Named graphs over one weight table.

    functions: callees before callers. A `call` or `fused` node names one.
    entries:   the functions that a user runs; their inputs are the user's.
    weights:   what `weight` nodes refer to; references or recipes, never bytes in a graph.
    symbols:   the range of each symbolic size.
    """

    functions: Mapping[str, Graph]
    entries: tuple[str, ...]
    weights: Mapping[str, Weight] = field(default_factory=dict)
    symbols: Mapping[str, Range] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("functions", "weights", "symbols"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def replace(self, **changes: object) -> Program:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    @property
    def entry(self) -> Graph:
        """The single entry's graph."""
        (name,) = self.entries
        return self.functions[name]

    def __reduce__(self) -> tuple[object, ...]:
        return Program, (
            dict(self.functions),
            self.entries,
            dict(self.weights),
            dict(self.symbols),
        )


CALLS = ("call", "fused")


def callee(node: Node) -> str | None:
    """The function that a node runs, or None for an ordinary op."""
    return node.attrs["function"] if node.op.name in CALLS else None


def users(graph: Graph) -> dict[Value, list[Node]]:
    """Who uses each value, in order; a node that uses it twice stands twice. Outputs are not users."""
    found: dict[Value, list[Node]] = {v: [] for v in graph.values()}
    for node in graph.nodes:
        for value in node.inputs:
            if value is not None:
                found[value].append(node)
    return found


def producers(graph: Graph) -> dict[Value, Node]:
    """The node that makes each value; graph inputs have none."""
    return {value: node for node in graph.nodes for value in node.outputs}
