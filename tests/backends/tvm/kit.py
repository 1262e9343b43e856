"""Small programs that the TVM backend compiles, many in one library, held against what their ops mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tundish.backends import registry
from tundish.backends.base import Backend, Runner
from tundish.backends.bundle_write import build_files
from tundish.compiler.driver import compile_program
from tundish.compiler.hardware.machine import this_machine
from tundish.compiler.plan import Guard, Plan, Variant
from tundish.compiler.task import Task
from tundish.ir.build import Builder
from tundish.ir.diagnostics import Where
from tundish.ir.dims import Dim, Range, symbol, symbols
from tundish.ir.dtypes import from_numpy
from tundish.ir.evaluate import evaluate
from tundish.ir.graph import Graph, Program, Value
from tundish.ir.tensor import TensorType

Shape = Sequence[int | str | None]
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """A graph and what it is given. others: more inputs to run it with, of other sizes."""

    graph: Graph
    inputs: Arrays
    others: tuple[Arrays, ...] = ()

    def also(self, *arrays: Arrays) -> Case:
        return replace(self, others=(*self.others, *arrays))


def case(write: Callable[..., Any], arrays: Arrays, shapes: Mapping[str, Shape] | None = None) -> Case:
    """`write(b, **values)` emits ops and gives the outputs; the inputs are as the arrays.

    shapes: of some inputs, a name for each size that is a symbol (None and numbers: as the array has it).
    """
    b = Builder(Where("case.py", 1))
    given: dict[str, Value] = {}
    for name, array in arrays.items():
        named = (shapes or {}).get(name) or [None] * array.ndim
        shape: list[Dim] = [symbol(d) if isinstance(d, str) else n for d, n in zip(named, array.shape, strict=True)]
        given[name] = b.input(name, TensorType(from_numpy(array.dtype), tuple(shape)))
    outputs = write(b, **given)
    return Case(b.finish(list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]), arrays)


def one(op: str, *arrays: np.ndarray | None, shapes: Sequence[Shape | None] = (), **attrs: Any) -> Case:
    """One op on its inputs, of which None is one that is left out. shapes: as of `case`, in the inputs' order."""
    names = [f"i{i}" if a is not None else None for i, a in enumerate(arrays)]
    named = {n: s for n, s in zip(names, shapes, strict=False) if n is not None and s is not None}

    def write(b: Builder, **given: Value) -> Any:
        return b.emit(op, *(None if n is None else given[n] for n in names), **attrs)

    return case(write, {n: a for n, a in zip(names, arrays, strict=True) if n is not None and a is not None}, named)


def program_of(cases: Mapping[str, Case]) -> Program:
    """One entry a case. Symbols of the same name are the same in all."""
    names = {n for c in cases.values() for v in c.graph.inputs for d in v.type.shape for n in symbols(d)}
    return Program({n: c.graph for n, c in cases.items()}, tuple(cases), {}, {n: Range(0, 1 << 20) for n in names})


def opened(
    cases: Mapping[str, Case], folder: Path, *, threads: int | None = None, passes: bool = False,
    backend: Backend | None = None, target: str = "cpu",
) -> Runner:  # fmt: skip
    """The cases as entries of one library. passes: through the compiler's passes, else as they are written."""
    program, backend, machine = program_of(cases), backend or registry.get("tvm"), this_machine(target)
    plan = Plan(program, {n: (Variant(Guard(), n),) for n in cases}, "tvm", machine.target)
    if passes:
        plan = compile_program(program, Task(machine, backend.capabilities(machine), ranges=program.symbols))
    return backend.open(build_files(plan, backend, folder), threads=threads)


def check(
    cases: Mapping[str, Case], folder: Path, *, atol: float = 2e-6, rtol: float = 2e-6, threads: int | None = None,
    passes: bool = False, backend: Backend | None = None, target: str = "cpu",
) -> None:  # fmt: skip
    """Compiles the cases, and holds every answer against the evaluator's. Raises: AssertionError that names a case."""
    program = program_of(cases)
    runner = opened(cases, folder, threads=threads, passes=passes, backend=backend, target=target)
    for name, one_case in cases.items():
        for inputs in (one_case.inputs, *one_case.others):
            wanted, got = evaluate(program, inputs, name), runner.run(name, inputs)
            sizes = ", ".join(f"{n} {a.dtype}{list(a.shape)}" for n, a in inputs.items())
            for output, array in wanted.items():
                assert got[output].dtype == array.dtype, f"{name}: {output} is {got[output].dtype}, not {array.dtype}"
                np.testing.assert_allclose(
                    got[output], array, atol=atol, rtol=rtol, err_msg=f"{name}, {output}, of {sizes}"
                )
