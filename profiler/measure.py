"""A bundle's nodes timed, beside what they do and what was predicted for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ..backends.base import KernelTime, Profiled
from ..backends.bundle import Bundle
from ..compiler.cost.estimate import Costs, Estimate
from ..compiler.hardware.machine import this_machine
from ..compiler.passes.memory import weights_bytes
from ..ir import dims
from ..ir.diagnostics import RunError, TundishError, Where
from ..ir.graph import Program
from ..ir.tensor import Work
from ..ir.walk import Step, steps
from .measure_work import works
from .memory_model import predicted_peak, timeline
from .profiles import MemoryPoint, NodeRow, Profile, Roofs

Arrays = Mapping[str, np.ndarray]
_NEAR = 0.1  # a scale that is farther from 1 is told


def check_asked(warmup: int, repeats: int) -> None:
    """Raises: TundishError where nothing would be measured."""
    if repeats < 1:
        raise TundishError("a profile needs at least one run", found=f"--repeats {repeats}", hint="10 or more")
    if warmup < 0:
        raise TundishError("there cannot be fewer than no runs to warm up", found=f"--warmup {warmup}")


def measure(
    bundle: Bundle, inputs: Arrays, *, entry: str | None = None, warmup: int = 3, repeats: int = 15,
    threads: int | None = None, costs: Costs | None = None, phase: str = "prefill",
    peak_bytes: Mapping[str, int | None] | None = None, **about: Any,
) -> Profile:  # fmt: skip
    """Runs an entry in turns with and without profiling; a row for each node of the plan that a kernel ran for.

    costs: predicts; without it there is no prediction. about: further fields of the profile.
    Raises: TundishError, RunError.
    """
    check_asked(warmup, repeats)
    name = entry or next(iter(bundle.entries))
    runner = bundle.runner(threads)
    found = runner.profile(name, inputs, warmup=warmup, repeats=repeats)
    sizes = bundle.entries[name].bind(inputs)
    times = Times(found, bundle.program)
    rows = _rows(times, bundle.program, found.function, sizes, costs)
    total = _median_ms(found.totals_s)
    m = bundle.manifest
    return Profile(
        model=m.name, backend=m.backend, target=m.target, machine=this_machine().name,
        date=datetime.now(UTC).isoformat(timespec="seconds"), phase=phase,
        precision=str(m.info.get("precision", "fp32")), threads=bundle.threads(threads), sizes=sizes,
        warmup=warmup, repeats=repeats, total_ms=total, iqr_ms=iqr(np.asarray(found.totals_s)) * 1e3,
        profiled_ms=_median_ms(found.profiled_s), predicted_ms=_predicted_ms(rows, costs),
        unattributed_ms=total - sum(r.measured_ms for r in rows), nodes=tuple(rows),
        time_scale=times.scale,
        peak_bytes={"measured": None, **(peak_bytes or {}), **_predicted_peak(bundle, found.function, sizes, costs)},
        memory=_memory(bundle.program, found.function, sizes, rows),
        calibration=_calibration(costs), roofs=_roofs(costs), versions=dict(m.versions),
        notes=(*times.notes, *(costs.notes if costs is not None else ())), **about,
    )  # fmt: skip


class Times:
    """When each node ran and for how long, at the scale of a run without profiling.

    What profiling adds to each kernel, and after it, is known from a program of kernels that do nothing, and is taken
    off. What then still sets the profiled run apart from one without (caches, a disturbance) slows all of it alike, so
    a node's share of the profiled run is its share of the other. What no node has is unattributed: the session's own
    work, inputs and outputs passed, and gaps between kernels.
    """

    def __init__(self, found: Profiled, program: Program) -> None:
        self.steps = {s.key: s for s in steps(program, found.function)}
        self.owners = owners(found.runs[0])
        self._check(found.runs[0])
        self.seconds: dict[str, np.ndarray] = {}  # owner -> [repeats]
        self.starts: dict[str, float] = {}
        self.kernels: dict[str, list[str]] = {}
        for key in dict.fromkeys(self.owners[k.key] for k in found.runs[0] if k.key):
            self._node(key, found)
        self.full = 0  # runs in which the nodes leave nothing
        own, total = self._runs(found), float(np.median(found.totals_s))
        self.scale = total / float(np.median(own))
        self.seconds = shared(self.seconds, own, total)
        self.notes = self._notes(found, len(found.runs[0]))

    def _check(self, run: Sequence[KernelTime]) -> None:
        """Raises: RunError where a kernel names a node that the plan does not have."""
        odd = [k.kernel for k in run for key in (k.key, *k.keys) if key and key not in self.steps]
        if odd:
            raise RunError(f"the kernel {odd[0]} computes a node that the plan does not have", hint="compile it again")

    def _node(self, key: str, found: Profiled) -> None:
        own = [[k for k in run if k.key and self.owners[k.key] == key] for run in found.runs]
        raw = np.array([sum(k.seconds for k in run) for run in own])
        self.seconds[key] = np.maximum(raw - len(own[0]) * found.clock_s, 0.0)
        first = next(i for i, k in enumerate(found.runs[0]) if k is own[0][0])  # all runs have the same kernels
        started = float(np.median([run[0].start_s for run in own]))
        self.starts[key] = max(0.0, started - first * (found.clock_s + found.gap_s))
        self.kernels[key] = [k.kernel for k in own[0]]

    def _runs(self, found: Profiled) -> np.ndarray:
        """Seconds of each profiled run less what profiling adds to it: never less than its kernels. [repeats]"""
        added = len(found.runs[0]) * (found.clock_s + found.gap_s)
        kernels = np.sum(list(self.seconds.values()), axis=0)
        left = np.asarray(found.profiled_s) - added
        self.full = int(np.sum(left < kernels))
        return np.maximum(left, kernels)

    def keys_of(self, owner: str) -> list[str]:
        """All nodes that are timed under this one, itself first."""
        return [owner, *(k for k, o in self.owners.items() if o == owner and k != owner)]

    def _notes(self, found: Profiled, kernels: int) -> tuple[str, ...]:
        plain, profiled = np.median(found.totals_s), np.median(found.profiled_s)
        each = (found.clock_s + found.gap_s) * 1e6
        told = f"profiling lengthens a run by {profiled / plain - 1:.1%}"
        if each:
            told += f": {each:.1f} us for each of {kernels} kernels is taken off, and times scaled by {self.scale:.3f}"
        lost = [k.kernel for k in found.runs[0] if not k.key]
        more = [
            (lost, f"{len(lost)} kernels are of no node, {next(iter(lost), '')} the first: unattributed"),
            (abs(self.scale - 1) > _NEAR, "the two kinds of run differ beyond what profiling adds: nodes' times are "
                                          "their shares of the whole"),
            (self.full, f"in {self.full} of {len(found.runs)} runs the nodes leave nothing of the whole: more may be "
                        "unattributed than is told"),
        ]  # fmt: skip
        return (told, *(text for holds, text in more if holds))


def shared(seconds: Mapping[str, np.ndarray], runs: np.ndarray, total_s: float) -> dict[str, np.ndarray]:
    """Each node's seconds in each run, [repeats], as what they are of a run that takes `total_s`.

    Medians do not add up: what disturbs a run hits another node each time, and all medians leave it out. So they are
    scaled to add up to the median share that all nodes together have of a run; the rest is truly in no node.
    """
    shares = {key: s / runs for key, s in seconds.items()}
    together = float(np.median(np.sum(list(shares.values()), axis=0)))
    medians = sum(float(np.median(s)) for s in shares.values())
    factor = together / medians if medians else 0.0
    return {key: s * factor * total_s for key, s in shares.items()}


def owners(run: Iterable[KernelTime]) -> dict[str, str]:
    """Node -> the node whose row it is timed in: its own where it anchors a kernel, else the first that computes it."""
    run = list(run)
    found = {k.key: k.key for k in run if k.key}
    for k in run:
        for key in k.keys:
            found.setdefault(key, k.key)
    return found


@dataclass(slots=True)
class _Predictions:
    """By node; empty without a calibration to predict from."""

    by_key: Mapping[str, Estimate] = field(default_factory=dict)

    def of(self, keys: Iterable[str]) -> tuple[Estimate, ...]:
        return tuple(self.by_key[k] for k in keys if k in self.by_key)


def _rows(
    times: Times, program: Program, function: str, sizes: Mapping[str, int], costs: Costs | None
) -> list[NodeRow]:
    predictions = _Predictions(costs.steps(program, sizes, function) if costs is not None else {})
    work = works(program, function, sizes, [times.keys_of(key) for key in times.seconds])
    rows = [_row(times, key, work[key], predictions.of(times.keys_of(key))) for key in times.seconds]
    return sorted(rows, key=lambda r: r.start_ms)


def _row(times: Times, key: str, work: Work, predicted: tuple[Estimate, ...]) -> NodeRow:
    step, seconds = times.steps[key], times.seconds[key]
    ops = dict.fromkeys(times.steps[k].node.op.name for k in times.keys_of(key))
    measured = float(np.median(seconds)) * 1e3
    return NodeRow(
        name=key, op="+".join(ops), module=step.where.module, source=source_of(step.where),
        kernel="+".join(dict.fromkeys(times.kernels[key])), start_ms=times.starts[key] * times.scale * 1e3,
        measured_ms=measured, iqr_ms=iqr(seconds) * 1e3, flops=_int(work.flops),
        hardware_flops=_int(work.hardware_flops), read_bytes=_int(work.read_bytes),
        written_bytes=_int(work.written_bytes), **_told(predicted, measured),
    )  # fmt: skip


def _told(predicted: tuple[Estimate, ...], measured_ms: float) -> dict[str, Any]:
    """The fields of a row that a prediction gives."""
    if not predicted:
        return {}
    roof_ms = sum(e.roof_s for e in predicted) * 1e3
    return {
        "predicted_ms": sum(e.seconds for e in predicted) * 1e3,
        "predicted_low_ms": sum(e.low_s for e in predicted) * 1e3,
        "predicted_high_ms": sum(e.high_s for e in predicted) * 1e3,
        "roof": max(predicted, key=lambda e: e.seconds).roof,
        "percent_of_roof": 100 * roof_ms / measured_ms if measured_ms else None,
    }


def source_of(where: Where) -> str:
    """`file:line`, as a row shows it."""
    return f"{where.file}:{where.line}" if where.line else where.file


def _predicted_ms(rows: Sequence[NodeRow], costs: Costs | None) -> float | None:
    if costs is None:
        return None
    return sum(r.predicted_ms or 0.0 for r in rows) + costs.run_overhead_s * 1e3


def _predicted_peak(
    bundle: Bundle, function: str, sizes: Mapping[str, int], costs: Costs | None
) -> dict[str, int | None]:
    """None where it was not measured what the backend takes without a model."""
    base = costs.runtime_bytes if costs is not None else None
    if base is None:
        return {"predicted": None}
    peak = predicted_peak(bundle.program, function, sizes, bundle.plan_backend, base)
    return {
        "predicted": peak.total, "predicted_runtime": peak.runtime, "predicted_weights": peak.held.weights,
        "predicted_opening": peak.held.opening, "predicted_run": peak.inputs + peak.run,
    }  # fmt: skip


def _memory(
    program: Program, function: str, sizes: Mapping[str, int], rows: Sequence[NodeRow]
) -> tuple[MemoryPoint, ...]:
    """What the plan holds alive at each row: weights, inputs and values."""
    fixed = weights_bytes(program) + sum(
        dims.evaluate(v.type.bytes, sizes) for v in program.functions[function].inputs
    )  # fmt: skip
    names = {r.name: r.name for r in rows} | {r.name.rpartition("/")[0]: r.name for r in reversed(rows)}
    points = timeline(program, function, sizes)
    return tuple(MemoryPoint(names[p.name], fixed + p.live_bytes) for p in points if p.name in names)


def _calibration(costs: Costs | None) -> str:
    if costs is None:
        return "none"
    return costs.calibration.title if costs.calibration is not None else costs.notes[0]


def _roofs(costs: Costs | None) -> Roofs | None:
    if costs is None:
        return None
    line = costs.roofs()
    return Roofs(line.peak_flops_per_s, dict(line.bandwidths))


def _median_ms(seconds: Sequence[float]) -> float:
    return float(np.median(seconds)) * 1e3


def iqr(values: np.ndarray) -> float:
    """The distance between the quartiles."""
    low, high = np.percentile(values, [25, 75])
    return float(high - low)


def _int(value: object) -> int:
    assert isinstance(value, int)
    return value


__all__ = ["Step", "Times", "check_asked", "iqr", "measure", "owners", "shared", "source_of"]
