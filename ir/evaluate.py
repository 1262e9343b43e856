"""Running a program in numpy: the meaning that every backend is held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import dims
from .diagnostics import RunError
from .dims import Expr
from .dtypes import f64
from .graph import Graph, Node, Program, Value, callee
from .walk import key_of
from .weights import materialize

Arrays = Mapping[str, np.ndarray]
OnNode = Callable[[str, Node, tuple[np.ndarray, ...]], None]


def bind(graph: Graph, inputs: Arrays, symbols: Mapping[str, dims.Range]) -> dict[str, int]:
    """The size of every symbol, read from the inputs' shapes.

    Raises: RunError on a missing or unknown input, a wrong dtype or rank, a size out of range, or two inputs
    that disagree.
    """
    names = {v.name for v in graph.inputs}
    missing, unknown = names - set(inputs), set(inputs) - names
    if missing or unknown:
        raise RunError(
            ", ".join(f"{problem} input {', '.join(sorted(odd))}"
                      for problem, odd in (("missing", missing), ("unknown", unknown)) if odd),
            hint=f"the inputs are {', '.join(f'{v.name}: {v.type}' for v in graph.inputs)}",
        )  # fmt: skip
    sizes: dict[str, int] = {}
    for value in graph.inputs:
        bind_sizes(value, inputs[value.name], sizes, symbols)
    for value in graph.inputs:
        shape = inputs[value.name].shape
        try:
            wanted = tuple(dims.evaluate(d, sizes) for d in value.type.shape)
        except (ValueError, ZeroDivisionError) as error:
            raise RunError(f"input {value.name!r} is {value.type}, which has no size here", found=str(error)) from error
        if wanted != shape:
            raise RunError(f"input {value.name!r} is {value.type}", found=f"{list(shape)}")
    return sizes


def bind_sizes(value: Value, array: np.ndarray, sizes: dict[str, int], symbols: Mapping[str, dims.Range]) -> None:
    """Reads the sizes that stand alone in a shape. Raises: RunError."""
    if not isinstance(array, (np.ndarray, np.generic)):
        raise RunError(f"input {value.name!r} is no numpy array", found=type(array).__name__,
                       hint="pass numpy.asarray of it")  # fmt: skip
    if array.dtype != value.type.dtype.numpy or array.ndim != value.type.rank:
        raise RunError(f"input {value.name!r} is {value.type}", found=f"{array.dtype}{list(array.shape)}")
    for dim, size in zip(value.type.shape, array.shape, strict=True):
        name = str(dim)
        if not isinstance(dim, Expr) or not name.isidentifier():
            continue
        if sizes.setdefault(name, size) != size:
            raise RunError(f"{name} is {sizes[name]} in one input and {size} in {value.name!r}")
        if name in symbols and size not in symbols[name]:
            raise RunError(f"{name} is {size}, outside {symbols[name]}", found=f"input {value.name!r}")


def resolve(attr: Any, sizes: dims.Bindings) -> Any:
    """An attribute with its symbols replaced by sizes."""
    if isinstance(attr, Expr):
        return dims.evaluate(attr, sizes)
    if isinstance(attr, tuple):
        return tuple(resolve(a, sizes) for a in attr)
    return attr


class Evaluator:
    """Runs one program. Weights are read once.

    float64: every floating type is computed in f64, for judging others' rounding.
    folder:  what relative weight files are relative to.
    """

    def __init__(
        self, program: Program, *, folder: Path | None = None, float64: bool = False,
        on_node: OnNode | None = None,
    ) -> None:  # fmt: skip
        self.program, self.folder, self.float64, self.on_node = program, folder, float64, on_node
        self._weights: dict[str, np.ndarray] = {}

    def run(self, inputs: Arrays, entry: str | None = None) -> dict[str, np.ndarray]:
        """Outputs by name. Raises: RunError on inputs that do not fit."""
        name = entry or self.program.entries[0]
        graph = self.program.functions[name]
        sizes = bind(graph, inputs, self.program.symbols)
        given = [self._cast(inputs[v.name], v) for v in graph.inputs]
        outs = self.graph(graph, given, sizes, "")
        return dict(zip(graph.output_names, outs, strict=True))

    def graph(
        self, graph: Graph, inputs: Sequence[np.ndarray | None], sizes: Mapping[str, int], path: str
    ) -> list[np.ndarray]:
        """Runs one graph; a value is dropped after its last use."""
        env: dict[Value, np.ndarray | None] = dict(zip(graph.inputs, inputs, strict=True))
        last = {v: i for i, node in enumerate(graph.nodes) for v in node.inputs if v is not None}
        keep = set(graph.outputs)
        for i, node in enumerate(graph.nodes):
            arrays = [None if v is None else env[v] for v in node.inputs]
            results = self.node(node, arrays, sizes, path)
            env.update(zip(node.outputs, results, strict=True))
            for v in node.inputs:
                if v is not None and last[v] == i and v not in keep:
                    env.pop(v, None)
        return [self._present(env[v]) for v in graph.outputs]

    def node(
        self, node: Node, arrays: list[np.ndarray | None], sizes: Mapping[str, int], path: str
    ) -> tuple[np.ndarray, ...]:
        name = callee(node)
        if name is not None:
            inner = key_of(path, node)
            results = tuple(self.graph(self.program.functions[name], arrays, sizes, inner))
        elif node.op.name == "weight":
            results = (self._weight(node.attrs["name"]),)
        else:
            results = self._computed(node, arrays, sizes)
        if self.on_node is not None:
            self.on_node(path, node, results)
        return results

    def _computed(
        self, node: Node, arrays: list[np.ndarray | None], sizes: Mapping[str, int]
    ) -> tuple[np.ndarray, ...]:
        """Raises: RunError where the inputs' values or sizes are none that the op takes."""
        try:
            attrs = {k: resolve(v, sizes) for k, v in node.attrs.items()}
            if self.float64 and "dtype" in attrs and attrs["dtype"].computes:
                attrs["dtype"] = f64
            with np.errstate(all="ignore"):
                raw = node.op.reference(*arrays, **attrs)
        except (ValueError, IndexError, ArithmeticError) as error:
            shapes = ", ".join("_" if a is None else f"{a.dtype}{list(a.shape)}" for a in arrays)
            raise RunError(f"{node.op.name} cannot be computed: {error}", where=node.where, found=shapes) from error
        outs = raw if isinstance(raw, tuple) else (raw,)
        return tuple(self._cast(np.asarray(a), v) for a, v in zip(outs, node.outputs, strict=True))

    def _weight(self, name: str) -> np.ndarray:
        if name not in self._weights:
            array = materialize(self.program.weights[name], self.folder)
            if self.float64 and self.program.weights[name].type.dtype.computes:
                array = array.astype(np.float64)
            self._weights[name] = array
        return self._weights[name]

    def _cast(self, array: np.ndarray, value: Value) -> np.ndarray:
        dtype = value.type.dtype
        target = np.dtype(np.float64) if self.float64 and dtype.computes else dtype.numpy
        return array if array.dtype == target else array.astype(target)

    @staticmethod
    def _present(array: np.ndarray | None) -> np.ndarray:
        assert array is not None
        return array


def evaluate(program: Program, inputs: Arrays, entry: str | None = None, **options: Any) -> dict[str, np.ndarray]:
    """Runs a program once in numpy; see `Evaluator` for the options."""
    return Evaluator(program, **options).run(inputs, entry)
