"""How long ops take on a machine, with an interval; from nominal figures where it is not calibrated, and it says so."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ...ir.dims import Bindings
from ...ir.graph import Node, Program
from ...ir.walk import Step, steps
from ..hardware import nominal
from ..hardware.caches import Cache, caches
from ..hardware.calibration import BackendCalibration, Calibration, Family, Launch
from ..hardware.machine import Machine
from .kernels import NOTHING, Kernel, kernels, parts_of
from .kin import KIN
from .roofline import Roofline, compute_s, correction, holding_level, kernel_s, memory_s

_BUSY = 0.3  # the share of disturbed samples from which a calibration is told to be doubtful
_KIN_UNCERTAINTY = 1.6  # of a kernel that is predicted by another that is like it
_UNSEEN = Family(
    name="", dtype="", threads=1, overhead_s=nominal.NODE_S, compute_share=nominal.COMPUTE_SHARE,
    memory_share=nominal.MEMORY_SHARE, points=(), median_error=1.0, p90_error=nominal.UNCERTAINTY - 1,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Estimate:
    """A predicted time with its interval.

    roof:   what binds: `compute`, `memory` (with its level: `L2`, `L3`, `memory`) or `launch`.
    roof_s: the time at that roof, which no kernel can beat: measured / roof_s is the share of the roofline reached.
      Where the launch binds it is the time of the work alone.
    """

    seconds: float
    low_s: float
    high_s: float
    roof: str
    roof_s: float


NO_TIME = Estimate(0.0, 0.0, 0.0, "launch", 0.0)


class Costs:
    """Predicted seconds of kernels on one machine, backend, number of threads and element type.

    weights_bytes: of the whole program; all of them in the last cache are read from there, else from memory.
    notes: what a reader of the predictions must know, in sentences.
    """

    def __init__(
        self, calibration: Calibration | None, machine: Machine, backend: str, threads: int | None = None,
        dtype: str = "f32", *, weights_bytes: int | None = None, reason: str = "",
    ) -> None:  # fmt: skip
        self.calibration, self.machine, self.backend = calibration, machine, backend
        own = threads or machine.cores
        self.threads, self.dtype, self.weights_bytes = own if machine.target == "cpu" else 1, dtype, weights_bytes
        self._reason = reason or "this machine was never calibrated (tundish calibrate)"
        self.caches: tuple[Cache, ...] = caches() if calibration is None else calibration.cache_sizes()
        self._engine: BackendCalibration | None = None if calibration is None else calibration.backends.get(backend)
        self._families = self._chosen_families()

    # -- the machine -------------------------------------------------------------------------------

    @property
    def calibrated(self) -> bool:
        """Whether this backend was measured on this machine."""
        return self._engine is not None

    @cached_property
    def notes(self) -> tuple[str, ...]:
        c = self.calibration
        if c is None:
            return (f"not calibrated: {self._reason}; nominal figures, within a factor of {nominal.UNCERTAINTY:g}",)
        found = [f"calibration of {c.title}" + (", quick: few samples" if c.quick else "")]
        if c.disturbed > _BUSY:
            found.append(f"{c.disturbed:.0%} of its samples were disturbed by others: calibrate on a quiet machine")
        if self._engine is None:
            found.append(f"{self.backend} was not measured: nominal shares, within a factor of {nominal.UNCERTAINTY:g}")
        elif odd := {f.threads for f in self._families.values()} - {self.threads}:
            others = len([f for f in self._families.values() if f.threads != self.threads])
            found.append(f"{others} kernels were measured at {min(odd)} threads, not {self.threads}: intervals wider")
        if not any(p.dtype == self.dtype for p in c.peaks):
            found.append(f"the peak in {self.dtype} was not measured ({c.not_measured.get(self.dtype, 'no figure')})")
        return tuple(found)

    def roofs(self) -> Roofline:
        """Peak FLOP/s and bandwidth by level at these threads and this type."""
        return self._roofline

    @cached_property
    def _roofline(self) -> Roofline:
        c = self.calibration
        if c is None:
            return Roofline(
                nominal.peak_flops_per_s(self.machine, self.threads, self.dtype), nominal.bandwidths(self.threads)
            )
        peaks = {p.threads: p.flops_per_s for p in c.peaks if p.dtype == self.dtype}
        if not peaks:  # computed in f32 between casts
            peaks = {p.threads: p.flops_per_s for p in c.peaks if p.dtype == "f32"} or {
                p.threads: p.flops_per_s for p in c.peaks
            }
        levels: dict[str, dict[int, float]] = {}
        for b in c.bandwidths:
            # Bytes read and bytes written count alike, and a cache may take both at once: the faster of the two binds.
            levels.setdefault(b.level, {})[b.threads] = max(b.read_bytes_per_s, b.copy_bytes_per_s)
        widths = {level: _at_threads(found, self.threads) for level, found in levels.items()}
        widths.setdefault("memory", min(widths.values()))
        return Roofline(_at_threads(peaks, self.threads), widths)

    @property
    def _launch(self) -> Launch:
        launches = self._engine.launches if self._engine is not None else ()
        found = {launch.threads: launch for launch in launches}
        if not found:
            return Launch(threads=self.threads, run_s=nominal.RUN_S, node_s=nominal.NODE_S)
        return found[_nearest(found, self.threads)]

    @property
    def run_overhead_s(self) -> float:
        """What a run costs beside its kernels."""
        return self._launch.run_s

    @property
    def node_overhead_s(self) -> float:
        """What a kernel costs that does nothing."""
        return self._launch.node_s

    @property
    def runtime_bytes(self) -> int | None:
        """Resident memory of a process that has the backend open, before any model; None where it was not measured."""
        return (self._engine.runtime_bytes or None) if self._engine is not None else None

    # -- kernels -----------------------------------------------------------------------------------

    def steps(self, program: Program, sizes: Bindings, entry: str | None = None) -> dict[str, Estimate]:
        """The time of every step, under its key; a fused group's stands under its first node's, the others cost 0.

        Nodes that no kernel runs for (weights, constants) have no entry.
        """
        groups: dict[str, list[Step]] = {}
        for step in steps(program, entry):
            fused = [c for c in step.calls if c.op.name == "fused"]
            key = step.key.rpartition("/")[0] if fused else step.key
            if step.node.op.name not in NOTHING:
                groups.setdefault(key, []).append(step)
        found: dict[str, Estimate] = {}
        for group in groups.values():
            found |= dict.fromkeys((s.key for s in group[1:]), NO_TIME)
            found[group[0].key] = self.nodes([s.node for s in group], sizes)
        return found

    def nodes(self, nodes: Sequence[Node], sizes: Bindings) -> Estimate:
        """The time of one node, or of a group that the backend runs as one: the anchor first, then its epilogue.

        Raises: GraphError on an op without a formula for its work.
        """
        whole = kernels(nodes, sizes)
        if any(self._family(k) is None for k in whole[1:]):  # an epilogue that was never measured as one
            whole = (*whole[:1], *parts_of([n for n in nodes if n.op.name not in NOTHING][1:], sizes))
        return self._sum([self.kernel(k) for k in whole])

    def _sum(self, found: Sequence[Estimate]) -> Estimate:
        if not found:
            return NO_TIME
        binding = max(found, key=lambda e: e.seconds)
        return Estimate(
            sum(e.seconds for e in found), sum(e.low_s for e in found), sum(e.high_s for e in found),
            binding.roof, sum(e.roof_s for e in found),
        )  # fmt: skip

    def kernel(self, kernel: Kernel) -> Estimate:
        """The time of one kernel."""
        compute, memory = self.floors(kernel)
        roof_s = max(compute, memory)
        family, widened = self._speaking(kernel)
        seconds = kernel_s(compute, memory, family.overhead_s, family.compute_share, family.memory_share)
        if family.name == kernel.family:
            seconds *= math.exp(correction(kernel.at, self._points[family.name]))
        factor = (1 + family.p90_error) * widened
        return Estimate(seconds, seconds / factor, seconds * factor, self._roof(compute, kernel, roof_s), roof_s)

    def floors(self, kernel: Kernel) -> tuple[float, float]:
        """Seconds of its arithmetic at the peak, and of its bytes at their levels' bandwidths."""
        return compute_s(kernel.flops, self._roofline), memory_s(self._level_bytes(kernel), self._roofline)

    def _level_bytes(self, kernel: Kernel) -> dict[str, float]:
        """Where the bytes lie: what was just made in the nearest cache that holds it all, weights in memory."""
        found: dict[str, float] = {}
        for level, count in (
            (self._level(kernel.activation_bytes), kernel.activation_bytes),
            (self._weights_level, kernel.weight_bytes),
        ):
            if count:
                found[level] = found.get(level, 0.0) + count
        return found

    @cached_property
    def _weights_level(self) -> str:
        if self.weights_bytes is None:
            return "memory"
        return self._level(self.weights_bytes)

    def _level(self, size_bytes: int) -> str:
        level = holding_level(size_bytes, [c for c in self.caches if c.level != "L1"], self.threads)
        return level if level in self._roofline.bandwidths else "memory"

    def _roof(self, compute: float, kernel: Kernel, roof_s: float) -> str:
        if self.node_overhead_s > roof_s:
            return "launch"
        if compute >= roof_s:
            return "compute"
        by_level = self._level_bytes(kernel)
        return max(by_level, key=lambda level: by_level[level] / self._roofline.bandwidths[level])

    # -- families ----------------------------------------------------------------------------------

    def _chosen_families(self) -> dict[str, Family]:
        """By name: in this type, each at the measured number of threads that is nearest."""
        by_name: dict[str, dict[int, Family]] = {}
        for family in self._engine.families if self._engine else ():
            if family.dtype == self.dtype:
                by_name.setdefault(family.name, {})[family.threads] = family
        chosen = {name: found[_nearest(found, self.threads)] for name, found in by_name.items()}
        self._points = {name: [(p.at, p.residual) for p in f.points] for name, f in chosen.items()}
        return chosen

    def _family(self, kernel: Kernel) -> Family | None:
        return self._families.get(kernel.family)

    def _speaking(self, kernel: Kernel) -> tuple[Family, float]:
        """The family that a kernel is predicted by, and by what factor that widens its interval."""
        own = self._family(kernel)
        if own is not None:
            return own, self._apart(own)
        for name in KIN.get(kernel.family.split("_")[0], ("mul", "add")):
            if name in self._families:
                return self._families[name], self._apart(self._families[name]) * _KIN_UNCERTAINTY
        return _UNSEEN, 1.0

    def _apart(self, family: Family) -> float:
        """How far its number of threads is from ours, as a factor."""
        return max(self.threads, family.threads) / min(self.threads, family.threads)


def _nearest(found: Mapping[int, object], threads: int) -> int:
    return min(found, key=lambda n: (abs(math.log(n / threads)), n))


def _at_threads(found: Mapping[int, float], threads: int) -> float:
    """A rate at a number of threads: measured, or the nearest measured one; a peak never scales by hope."""
    return found[_nearest(found, threads)]
