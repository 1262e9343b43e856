"""How an entry is called: names, types, sizes, and the one check of inputs that all backends share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..compiler.plan import Guard, Plan, Variant
from ..ir import dims
from ..ir.aliases import overwritten
from ..ir.diagnostics import RunError
from ..ir.dims import Range
from ..ir.dtypes import DTYPES
from ..ir.evaluate import bind, bind_sizes
from ..ir.graph import Graph, Value
from ..ir.tensor import TensorType


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output as a user sees it; `shape` holds ints and dims in text form (`batch`)."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"

    @property
    def type(self) -> TensorType:
        shape = tuple(dims.parse(d) if isinstance(d, str) else d for d in self.shape)
        return TensorType(DTYPES[self.dtype], shape)


@dataclass(frozen=True)
class Signature:
    """Inputs, outputs, and the (lowest, highest or None) size of every symbol in them.

    aliases: output -> the input whose buffer it is, written over in place.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    symbols: Mapping[str, tuple[int, int | None]]
    aliases: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def _graph(self) -> Graph:
        return Graph(tuple(Value(s.name, s.type) for s in self.inputs), (), ())

    @cached_property
    def ranges(self) -> dict[str, Range]:
        """The same sizes; as text an open one is `1..`."""
        return {name: Range(low, high) for name, (low, high) in self.symbols.items()}

    def bind(self, inputs: Mapping[str, np.ndarray]) -> dict[str, int]:
        """The size of every symbol. Raises: RunError on inputs that do not fit."""
        return bind(self._graph, inputs, self.ranges)

    def sizes_of(self, arrays: Mapping[str, np.ndarray], known: Mapping[str, int] | None = None) -> dict[str, int]:
        """The sizes that some of the inputs have, beside those `known` already.

        Raises: RunError on what does not fit.
        """
        sizes = dict(known or {})
        for value in self._graph.inputs:
            if value.name in arrays:
                bind_sizes(value, arrays[value.name], sizes, self.ranges)
        return sizes

    def select(self, outputs: Sequence[str] | None) -> list[str]:
        """The wanted outputs' names, all by default. Raises: RunError on one that there is not."""
        names = [s.name for s in self.outputs]
        unknown = [n for n in outputs or () if n not in names]
        if unknown:
            raise RunError(f"there is no output {', '.join(unknown)}", hint=f"the outputs are {', '.join(names)}")
        return names if outputs is None else list(outputs)


def spec(name: str, type: TensorType) -> TensorSpec:
    return TensorSpec(name, type.dtype.name, tuple(d if isinstance(d, int) else str(d) for d in type.shape))


def signatures(plan: Plan) -> dict[str, Signature]:
    """The signature of every entry; all variants of an entry have one."""
    program = plan.program
    symbols = {name: (r.low, r.high) for name, r in program.symbols.items()}
    found: dict[str, Signature] = {}
    for entry, variants in plan.entries.items():
        graph = program.functions[variants[0].function]
        inputs = tuple(spec(v.name, v.type) for v in graph.inputs)
        pairs = zip(graph.output_names, graph.outputs, strict=True)
        outputs = tuple(spec(name, v.type) for name, v in pairs)
        aliases = plan.aliases.get(entry) or overwritten(program, variants[0].function)
        found[entry] = Signature(inputs, outputs, _named(symbols, inputs), dict(aliases))
    return found


def _named(symbols: Mapping[str, tuple[int, int | None]], inputs: tuple[TensorSpec, ...]) -> dict[str, Any]:
    """The symbols that an entry's inputs have."""
    used = {name for s in inputs for d in s.type.shape for name in dims.symbols(d)}
    return {name: span for name, span in symbols.items() if name in used}


COMPARE = {
    "==": lambda a, b: a == b,
    "<=": lambda a, b: a <= b,
    "<": lambda a, b: a < b,
    ">=": lambda a, b: a >= b,
    ">": lambda a, b: a > b,
}


def holds(guard: Guard, sizes: Mapping[str, int]) -> bool:
    """Whether a guard holds at these sizes."""
    return not guard.symbol or COMPARE[guard.op](sizes[guard.symbol], guard.value)


def choose(variants: Sequence[Variant], sizes: Mapping[str, int]) -> int:
    """The place of the first variant whose guard holds. Raises: RunError if none does."""
    for i, variant in enumerate(variants):
        if holds(variant.guard, sizes):
            return i
    raise RunError("no variant was compiled for these sizes", found=", ".join(f"{k}={v}" for k, v in sizes.items()))


def known_entry(entry: str, entries: Mapping[str, Signature]) -> Signature:
    """The signature of an entry. Raises: RunError on an unknown name."""
    if entry not in entries:
        raise RunError(f"there is no entry {entry!r}", hint=f"the entries are {', '.join(entries)}")
    return entries[entry]
