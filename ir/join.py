"""Programs of one model as one: their entries side by side over one weight table."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .diagnostics import GraphError
from .dims import Range
from .graph import Graph, Program
from .weights import Held, Weight


def join(programs: Mapping[str, Program]) -> Program:
    """A program with each one's single entry under its new name; weights and sizes of one name are one.

    The programs are flat: they have no functions but their entries.
    Raises: GraphError where a name stands for two weights, or for two ranges of sizes.
    """
    functions: dict[str, Graph] = {}
    weights: dict[str, Weight] = {}
    symbols: dict[str, Range] = {}
    for name, program in programs.items():
        (entry,) = program.functions
        functions[name] = program.functions[entry]
        for key, weight in program.weights.items():
            if key in weights and not _same(weights[key], weight):
                raise GraphError(f"{key!r} stands for two weights")
            weights.setdefault(key, weight)
        for key, span in program.symbols.items():
            if symbols.setdefault(key, span) != span:
                raise GraphError(f"{key} is {symbols[key]} in one entry and {span} in {name!r}")
    return Program(functions, tuple(programs), weights, symbols)


def _same(one: Weight, two: Weight) -> bool:
    """Whether two weights are one: references to the same bytes."""
    if one.type != two.type:
        return False
    a, b = one.source, two.source
    if isinstance(a, Held) and isinstance(b, Held):
        if a.array is None or b.array is None:
            return a.array is b.array
        return _lies_at(a.array) == _lies_at(b.array) or bool(np.array_equal(_bytes(a.array), _bytes(b.array)))
    return a == b


def _lies_at(array: np.ndarray) -> tuple[object, tuple[int, ...]]:
    return array.__array_interface__["data"], array.strides


def _bytes(array: np.ndarray) -> np.ndarray:
    """So that NaN is itself."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
