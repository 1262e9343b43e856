"""Times cases through a backend: built by the ordinary driver, opened by the backend, sizes interleaved."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ...backends.base import Arrays, Backend, Built, Runner
from ...backends.bundle_write import build_files
from ...compiler.cost.kernels import Kernel, kernels
from ...compiler.driver import compile_program
from ...compiler.hardware.calibration import Launch
from ...compiler.hardware.machine import Machine
from ...compiler.task import Task
from ...ir.dims import Range
from ...ir.dtypes import f32
from ...ir.graph import Program
from ...ir.tensor import TensorType
from .cases import ENTRY, Case, Draft, handing_over
from .quiet import Timing, Watch, timing

_TAPS = 64
_LEAST_S = 1e-8
_BURST = 3  # runs of one size after each other; the first of them finds the caches as another size left them
_WINDOW_S = 0.1  # rounds are judged together: the kernel counts processor time in hundredths of a second


@dataclass(frozen=True, slots=True)
class Effort:
    """least_rounds, seconds: of one program at one number of threads; whichever is reached last ends it."""

    least_rounds: int = 12
    seconds: float = 0.5
    longest_s: float = 3.0


@dataclass(frozen=True, slots=True)
class Measured:
    """One size of one family, in the clear: seconds of one kernel."""

    kernel: Kernel
    seconds: float
    spread: float


class Bench:
    """Builds and times programs on one backend and machine."""

    def __init__(self, backend: Backend, machine: Machine, watch: Watch, effort: Effort) -> None:
        self.backend, self.machine, self.watch, self.effort = backend, machine, watch, effort
        self._tap_s: dict[int, float] = {}

    def built(self, program: Program, folder: Path) -> Built:
        task = Task(self.machine, self.backend.capabilities(self.machine), ranges=program.symbols)
        return build_files(compile_program(program, task), self.backend, folder)

    def launch(self, threads: int) -> Launch:
        """From chains of trivial nodes of two lengths: the slope is a node's cost, the rest a run's."""
        lengths = (8, 136)
        found = [self.time(chain_of_trivial_nodes(n), [{"rows": 1}], threads)[0].seconds for n in lengths]
        node_s = max(0.0, (found[1] - found[0]) / (lengths[1] - lengths[0]))
        launch = Launch(threads=threads, run_s=max(0.0, found[0] - lengths[0] * node_s), node_s=node_s)
        taps = self.time(many_taps(_TAPS), [{"rows": 1}], threads)[0].seconds
        self._tap_s[threads] = max(0.0, (taps - launch.run_s) / _TAPS)
        return launch

    def case(self, case: Case, launch: Launch) -> list[Measured]:
        """The kernel's seconds at each size: of a run, less the run's own cost and the taps', shared by the copies.

        What is too small to be told from nothing counts as a node that does nothing. On a device, a program that only
        takes the inputs stands for the copies to it and back; a run ends when its one element is back.
        """
        found = self.time(case.program, case.sizes, launch.threads)
        base = [0.0] * len(found)
        beside = case.base or (handing_over(case) if self.machine.target != "cpu" else None)
        if beside is not None:
            other = self.time(beside.program, case.sizes, launch.threads)
            base = [self._share(beside, t, launch) for t in other]
        measured = []
        for at, took, less in zip(case.sizes, found, base, strict=True):
            parts = kernels(case.kernel, at)
            seconds = max(self._share(case, took, launch) - less, launch.node_s, _LEAST_S)
            measured.append(Measured(parts[-1], seconds, took.spread))
        return measured

    def _share(self, case: Case, took: Timing, launch: Launch) -> float:
        return (took.seconds - launch.run_s - case.taps * self._tap_s[launch.threads]) / case.copies

    def time(self, program: Program, sizes: Sequence[dict[str, int] | object], threads: int) -> list[Timing]:
        """A run's seconds at each size; the sizes take turns, so that a drift falls on all alike."""
        rng = np.random.default_rng(0)
        case = Case("", program, (), 1, 0, tuple(sizes))  # type: ignore[arg-type]
        with tempfile.TemporaryDirectory(prefix="tundish-calibrate-") as folder:
            runner = self.backend.open(self.built(program, Path(folder)), threads=threads)
            try:
                inputs = [case.inputs(at, rng) for at in case.sizes]
                alone = threads == 1 and self.machine.target == "cpu"
                return self._rounds(runner, inputs, program.entry.output_names[:1], alone)
            finally:
                runner.close()

    def _rounds(
        self, runner: Runner, inputs: Sequence[Arrays], outputs: Sequence[str], alone: bool
    ) -> list[Timing]:
        """alone: the calling thread does all the work, and its own clock leaves out what others take of its core."""
        clock = time.thread_time if alone else time.perf_counter
        samples: list[list[tuple[float, bool]]] = [[] for _ in inputs]
        for given in inputs:
            for _ in range(2):
                runner.run(ENTRY, given, outputs)
        began = time.perf_counter()
        while not self._enough(samples, time.perf_counter() - began):
            window: list[list[float]] = [[] for _ in inputs]
            start = time.perf_counter()
            with self.watch.sample() as clean:
                while not window[0] or time.perf_counter() - start < _WINDOW_S:
                    for given, taken in zip(inputs, window, strict=True):
                        taken += [_timed(partial(runner.run, ENTRY, given, outputs), clock) for _ in range(_BURST)][1:]
            for found, taken in zip(samples, window, strict=True):
                found += [(s, alone or clean[0]) for s in taken]
        return [timing(found) for found in samples]

    def _enough(self, samples: Sequence[Sequence[tuple[float, bool]]], took: float) -> bool:
        if took > self.effort.longest_s:
            return bool(samples[0])
        clean = sum(fine for _, fine in samples[0])
        return clean >= self.effort.least_rounds and took >= self.effort.seconds


def _timed(run: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    run()
    return clock() - start


def chain_of_trivial_nodes(count: int) -> Program:
    """Sums of one element each, every one on the sum before."""
    b = Draft()
    x = b.input("x", TensorType(f32, (1, 1)))
    y = b.input("y", TensorType(f32, (1, 1)))
    for _ in range(count):
        x = b.emit("add", x, y)
    return Program({ENTRY: b.finish([x])}, (ENTRY,), {}, {"rows": Range(1, 1)})


def many_taps(count: int) -> Program:
    """One element each of as many places of one input."""
    b = Draft()
    x = b.input("x", TensorType(f32, (1, count)))
    taps = [b.emit("slice", x, axis=1, start=i, stop=i + 1) for i in range(count)]
    return Program({ENTRY: b.finish(taps)}, (ENTRY,), {}, {"rows": Range(1, 1)})
