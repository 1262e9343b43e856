"""One calibration from beginning to end: ceilings, launches, kernels through the backend, fits, memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from ...backends import registry
from ...backends.base import Backend
from ...backends.version import version
from ...compiler.cost.estimate import Costs
from ...compiler.hardware.caches import Cache, caches
from ...compiler.hardware.calibration import (
    SCHEMA,
    BackendCalibration,
    CacheLevel,
    Calibration,
    Family,
    Launch,
    MachineId,
)
from ...compiler.hardware.machine import Machine, available_memory_bytes, check_threads, this_machine
from ..report.progress import Progress, silent
from .cases import POOL_ELEMENTS, Case, Grid, cases
from .energy import measure_energy
from .engine import Bench, Effort, Measured, chain_of_trivial_nodes
from .fit import fit
from .quiet import Watch
from .resident import runtime_bytes
from .roofs import bandwidths, peaks

BUDGET_S = 105.0
_DTYPE = "f32"  # what the backends' own kernels compute in on a CPU
_OPENING_S = 0.3  # of each program, until some have been opened
_LEAST_S = 0.03
_FEWEST = 2  # sizes for a fit


@dataclass(frozen=True, slots=True)
class Amount:
    """How much is measured. budget_s: for all. runs: of each ceiling. full, other: at all cores, at other counts.

    only: the names of cases; all where there is none.
    """

    budget_s: float
    runs: int
    full: Grid
    other: Grid | None
    least_memory: int = 256 << 20
    only: frozenset[str] = frozenset()

    @staticmethod
    def usual(levels: Sequence[Cache]) -> Amount:
        cold = min(2 * levels[-1].size_bytes, 512 << 20, available_memory_bytes() // 16)
        return Amount(BUDGET_S, 10, Grid(cold), Grid(cold, stride=2, heads=1, shapes=4))

    @staticmethod
    def of_device(quick: bool) -> Amount:
        """A GPU's last cache is small beside what lies in its memory, so rotated weights are cold soon."""
        grid = Grid(8 << 20, stride=4, heads=1, shapes=1) if quick else Grid(256 << 20)
        return Amount(8.0 if quick else BUDGET_S, 3 if quick else 10, grid, None)

    @staticmethod
    def quick() -> Amount:
        return Amount(8.0, 3, Grid(8 << 20, stride=4, heads=1, shapes=1), None, 16 << 20)


def calibrate(
    backend: str = "onnxruntime", threads: Sequence[int] = (), *, quick: bool = False, amount: Amount | None = None,
    progress: Progress = silent,
) -> Calibration:  # fmt: skip
    """Measures this machine's processor and a backend on it. threads: 1 and all cores by default.

    Raises: TundishError on numbers of threads that the machine does not have; LoadError on a backend that is not there;
    RunError on one that runs nothing.
    """
    engine, machine, started = registry.get(backend), this_machine(), time.perf_counter()
    counts = _counts(threads, machine)
    levels = caches()
    amount = amount or (Amount.quick() if quick else Amount.usual(levels))
    watch = Watch(machine.cores)
    Bench(engine, machine, watch, Effort(1, 0.0)).time(chain_of_trivial_nodes(1), [{"rows": 1}], 1)  # before all else
    say = Saying(progress, amount.budget_s, started)
    found, missing = peaks(machine.features, counts, watch, amount.runs, say)
    widths = bandwidths(
        machine.features, levels, counts, watch, amount.runs, say, least_memory=amount.least_memory
    )
    energy, reason = measure_energy(machine.features, machine.cores)
    without = Calibration(
        schema=SCHEMA, created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), seconds=0.0, quick=quick,
        machine=MachineId.of(machine), versions=versions(), peaks=tuple(found), bandwidths=tuple(widths), backends={},
        caches=tuple(CacheLevel(level=c.level, size_bytes=c.size_bytes, cores=c.cores) for c in levels),
        energy=energy, not_measured={**missing, **({"energy": reason} if reason else {})},
    )  # fmt: skip
    measured = measure_backend(engine, machine, without, counts, amount, watch, say)
    return with_backends(without, {backend: measured}, time.perf_counter() - started, watch.disturbed_share)


def with_backends(
    c: Calibration, backends: dict[str, BackendCalibration], seconds: float, disturbed: float
) -> Calibration:
    import msgspec

    return msgspec.structs.replace(c, backends=backends, seconds=seconds, disturbed=disturbed)


def versions() -> dict[str, str]:
    import numba

    return {"tundish": version(), "numpy": np.__version__, "numba": numba.__version__}


def _counts(threads: Sequence[int], machine: Machine) -> tuple[int, ...]:
    for count in threads:
        check_threads(count)
    return tuple(sorted(set(threads or (1, machine.cores))))


class Saying:
    """Turns stages into progress: the share is that of the time that is allowed."""

    def __init__(self, progress: Progress, budget_s: float, started: float) -> None:
        self.progress, self.budget_s, self.started = progress, budget_s, started

    @property
    def elapsed_s(self) -> float:
        return time.perf_counter() - self.started

    def __call__(self, stage: str) -> None:
        self.progress(stage, min(0.99, self.elapsed_s / self.budget_s))


def measure_backend(
    engine: Backend, machine: Machine, roofs: Calibration, counts: Sequence[int], amount: Amount, watch: Watch,
    say: Saying,
) -> BackendCalibration:  # fmt: skip
    say(f"memory of {engine.name}")
    resident = runtime_bytes(engine.name)
    bench = Bench(engine, machine, watch, Effort(3, 0.3, 0.8))
    say(f"launch overhead of {engine.name}")
    launches = {n: bench.launch(n) for n in counts}
    pool = np.random.default_rng(0).normal(0.0, 0.03, POOL_ELEMENTS).astype(np.float32)
    jobs: list[tuple[Case, int]] = []
    for n in reversed(counts):
        grid = amount.full if n == max(counts) else amount.other
        made = cases(grid, pool) if grid is not None else ()
        jobs += [(case, n) for case in made if not amount.only or case.name in amount.only]
    found, untimed = _run(bench, jobs, launches, amount, say)
    say("fitting")
    return BackendCalibration(
        untimed=untimed,
        versions=engine.versions(), launches=tuple(launches.values()), runtime_bytes=resident,
        families=tuple(_fitted(found, roofs, machine, engine.name)),
    )  # fmt: skip


def _run(
    bench: Bench, jobs: Sequence[tuple[Case, int]], launches: dict[int, Launch], amount: Amount, say: Saying
) -> tuple[dict[tuple[str, int], list[Measured]], tuple[str, ...]]:
    """Each job gets its part of the time that is left, by how much depends on it: matrix products the most.

    Gives the times, and the names of those for which no time was left, on a machine that is slow or busy elsewhere.
    """
    found: dict[tuple[str, int], list[Measured]] = {}
    untimed: list[str] = []
    weights = [_weight(case) for case, _ in jobs]
    opening = _OPENING_S
    for i, (case, threads) in enumerate(jobs):
        name = f"{case.name}, {threads} thread{'s' if threads > 1 else ''}"
        say(name)
        if say.elapsed_s > amount.budget_s and found and not amount.only:
            untimed.append(name)
            continue
        left = amount.budget_s - say.elapsed_s - opening * len(jobs[i:])
        part = max(_LEAST_S, left * weights[i] / sum(weights[i:]))
        bench.effort = Effort(3, part / (2 if case.base else 1), 1.5 * part)
        before = say.elapsed_s
        for m in bench.case(case, launches[threads]):
            found.setdefault((m.kernel.family, threads), []).append(m)
        opening += 0.2 * (max(0.0, say.elapsed_s - before - part) - opening)
    return found, tuple(untimed)


def _weight(case: Case) -> float:
    return 3.0 if case.name.startswith("linear") else 1.0


def _fitted(
    found: dict[tuple[str, int], list[Measured]], roofs: Calibration, machine: Machine, backend: str
) -> list[Family]:
    families = []
    for (name, threads), measured in sorted(found.items()):
        costs = Costs(roofs, machine, backend, threads, _DTYPE)
        if len(measured) >= _FEWEST:
            families.append(fit(name, measured, costs, _DTYPE, threads))
    return families


