"""The kernels of one node by themselves, in turn in one process: which of many are worth to be tried in a model."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.base import Backend
from ..backends.bundle_write import build_files
from ..compiler.hardware.caches import caches
from ..compiler.passes.choose import KERNELS
from ..compiler.plan import Guard, Plan, Variant
from ..compiler.tuning import Site, node_dtype, shape_class
from ..ir import dims
from ..ir.build import Builder
from ..ir.dtypes import boolean
from ..ir.graph import Node, Program
from ..ir.tensor import TensorType
from . import quiet
from .paired import Paired, paired
from .rounds import chosen, race

SLOT_S = 0.02
ROUNDS = 15
_BEYOND = 2  # times the last cache: the weights of all runs in a row
_MOST_BYTES = 1 << 30  # of them
_ALIGN = 64


def timer(
    plan: Plan, ops: Collection[str], sizes: Mapping[str, int], backend: Backend, threads: int
) -> Callable[[Site, Sequence[str], float], Mapping[str, Paired]]:
    """`alone` for the places of a plan, by any node of each. ops: that have so many kernels."""
    nodes = {
        Site("kernel", n.op.name, shape_class(n), node_dtype(n)): n
        for graph in plan.program.functions.values() for n in graph.nodes if n.op.name in ops
    }  # fmt: skip

    def timed(site: Site, options: Sequence[str], until: float) -> Mapping[str, Paired]:
        return alone(nodes[site], options, sizes, backend, plan.target, threads=threads, until=until)

    return timed


def alone(
    node: Node, options: Sequence[str], sizes: Mapping[str, int], backend: Backend, target: str, *, threads: int,
    patience_s: float = 0.2, until: float = math.inf,
) -> dict[str, Paired]:  # fmt: skip
    """Each option's time beside that of the first, by the rounds in which nothing else ran; none where time was up.

    node: after all passes. Its weights come from memory, as in a model: each run takes the next of many copies.
    Raises: BuildError where a kernel cannot be built.
    """
    program = _program(node, sizes, len(options))
    names = dict(zip(program.functions, options, strict=True))
    made = {name: graph.outputs[0].name for name, graph in program.functions.items()}
    plan = Plan(
        program, {name: (Variant(Guard(), name),) for name in names}, backend.name, target,
        decisions={KERNELS: {(name, made[name]): option for name, option in names.items()}},
    )  # fmt: skip
    given = _given(program.functions[next(iter(names))].inputs, node)
    with tempfile.TemporaryDirectory(prefix="tundish-alone-") as folder:
        runner = backend.open(build_files(plan, backend, Path(folder)), threads=threads)
        runs = {name: _Run(partial(runner.run, name), given) for name in names}
        base = next(iter(names))
        cpus = sorted(os.sched_getaffinity(0))
        rounds, failed = race(
            {name: (run, 0.0) for name, run in runs.items()}, base, ROUNDS, threads, cpus, most=2,
            patience_s=patience_s, until=until,
        )  # fmt: skip
        runner.close()
    if len(rounds) < ROUNDS or failed:
        return {}
    kept = {n: chosen([(r[base], r[n]) for r in rounds], ROUNDS).pairs for n in names if n != base}
    return {names[n]: paired([a.ms for a, _ in pairs], [b.ms for _, b in pairs]) for n, pairs in kept.items()}


def _program(node: Node, sizes: Mapping[str, int], count: int) -> Program:
    """So many entries, each the node at these sizes, with all that it reads as inputs."""
    graphs = {}
    for i in range(count):
        b = Builder(node.where)
        values = [
            None if v is None else b.input(f"i{at}", TensorType(v.type.dtype, _shape(v.type, sizes)))
            for at, v in enumerate(node.inputs)
        ]
        made = b.emit(node.op.name, *values, **node.attrs)
        graphs[f"f{i}"] = b.finish(list(made) if isinstance(made, tuple) else [made])
    return Program(graphs, tuple(graphs), {}, {})


def _shape(type: TensorType, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(dims.evaluate(d, sizes) for d in type.shape)


def _given(inputs: Sequence[Any], node: Node) -> list[dict[str, np.ndarray]]:
    """What runs are given, one after the other: the largest input, which is a weight, is another each time."""
    rng = np.random.default_rng(0)
    first = {v.name: _drawn(v.type, rng) for v in inputs}
    largest = max(first, key=lambda n: first[n].nbytes)
    last = max(c.size_bytes for c in caches())
    copies = max(1, min(_MOST_BYTES, _BEYOND * last) // max(1, first[largest].nbytes))
    return [first, *({**first, largest: _copy(first[largest])} for _ in range(copies))]


def _drawn(type: TensorType, rng: np.random.Generator) -> np.ndarray:
    """Masks are open, positions zero."""
    shape = _shape(type, {})
    if type.dtype.is_float:
        return _copy(rng.standard_normal(shape, np.float32).astype(type.dtype.numpy))
    return np.ones(shape, bool) if type.dtype == boolean else np.zeros(shape, type.dtype.numpy)


def _copy(array: np.ndarray) -> np.ndarray:
    """Beginning at a cache line, as the weights of a bundle do."""
    raw = np.empty(array.nbytes + _ALIGN, np.uint8)
    start = -raw.ctypes.data % _ALIGN
    held = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    held[...] = array
    return held


class _Run:
    """As `rounds.race` wants it: so many runs as fill a slot."""

    def __init__(self, call: Callable[[Mapping[str, np.ndarray]], object], given: list[dict[str, np.ndarray]]) -> None:
        self._call, self._given, self._at = call, given, 0
        self._once()
        start = time.perf_counter()
        self._once()
        self._count = max(1, round(SLOT_S / (time.perf_counter() - start)))

    def _once(self) -> None:
        self._call(self._given[self._at])
        self._at = (self._at + 1) % len(self._given)

    def run(self, limit_s: float) -> dict[str, Any]:
        """One slot: ms of one run."""
        cpus = sorted(os.sched_getaffinity(0))
        before = quiet.read(cpus)
        start = time.perf_counter()
        for _ in range(self._count):
            self._once()
        seconds = time.perf_counter() - start
        return {"ms": seconds / self._count * 1e3, "load": asdict(quiet.between(before, quiet.read(cpus)))}
