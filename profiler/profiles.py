"""A measured profile beside its prediction: what `tundish profile` gives, and all that reports are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

UNATTRIBUTED = "unattributed"  # the name of the row that is no node


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One node of the plan in one run: medians over the repeats.

    name:    its key in the plan (`ir.walk.Step.key`), or `unattributed`.
    source:  `file:line` of the user's model. kernel: what the backend ran for it.
    start_ms: since the run's start. iqr_ms: the distance between the quartiles of measured_ms.
    predicted_ms, predicted_low_ms, predicted_high_ms: None where there is no prediction.
    flops, hardware_flops: what the model asks for; what the kernel does.
    roof, percent_of_roof: what binds it, and the time at that roof as a share of the measured time, in percent.
    """

    name: str
    op: str
    module: str
    source: str
    kernel: str
    start_ms: float
    measured_ms: float
    iqr_ms: float
    predicted_ms: float | None = None
    predicted_low_ms: float | None = None
    predicted_high_ms: float | None = None
    flops: int = 0
    hardware_flops: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    roof: str | None = None
    percent_of_roof: float | None = None

    @property
    def flops_per_s(self) -> float | None:
        return self.hardware_flops / (self.measured_ms / 1e3) if self.measured_ms else None

    @property
    def bytes_per_s(self) -> float | None:
        return (self.read_bytes + self.written_bytes) / (self.measured_ms / 1e3) if self.measured_ms else None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "flops_per_s": self.flops_per_s, "bytes_per_s": self.bytes_per_s}


@dataclass(frozen=True, slots=True)
class MemoryPoint:
    """Bytes that the plan holds alive (weights, inputs and buffers) while a node runs."""

    name: str
    live_bytes: int


@dataclass(frozen=True, slots=True)
class RoutingRow:
    """What the router of a layer chose on a text.

    counts: tokens that chose each expert. max_over_mean: of them. kept: of a token's experts, the share that the token
    before it chose too; kept_by_chance: what that were if each token chose by the layer's frequencies alone.
    """

    module: str
    experts: int
    k: int
    counts: tuple[int, ...]
    max_over_mean: float
    kept: float
    kept_by_chance: float


@dataclass(frozen=True, slots=True)
class Roofs:
    """The machine's ceilings at the profile's number of threads and dtype, for the plot.

    bandwidths: level (`L1`, `L2`, `L3`, `memory`) -> bytes per second.
    other_peaks: further ceilings of compute by name (`bf16`, `fp32, 1 thread`) -> FLOP per second.
    """

    peak_flops_per_s: float
    bandwidths: Mapping[str, float]
    other_peaks: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Profile:
    """One profiled entry.

    sizes: the symbols' sizes. total_ms, iqr_ms: of whole runs without profiling; profiled_ms: with it.
    time_scale: what the nodes' times in profiled runs, less what profiling itself adds, were multiplied by to be those
    of a run without; far from 1, they are shares of a run more than times of their own.
    unattributed_ms: what the nodes' times miss of the whole, at that scale.
    peak_bytes: `measured` and `predicted`, of the process; None where it could not be measured.
    calibration: the calibration's date and machine, or why there is none. notes: what a reader must know, in sentences.
    """

    model: str
    backend: str
    target: str
    machine: str
    date: str
    phase: str
    precision: str
    threads: int
    sizes: Mapping[str, int]
    warmup: int
    repeats: int
    total_ms: float
    iqr_ms: float
    profiled_ms: float
    predicted_ms: float | None
    unattributed_ms: float
    nodes: tuple[NodeRow, ...]
    peak_bytes: Mapping[str, int | None]
    calibration: str
    memory: tuple[MemoryPoint, ...] = ()
    roofs: Roofs | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    time_scale: float = 1.0
    routing: tuple[RoutingRow, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain rows, the contract of `tundish profile --json`."""
        return {**asdict(self), "nodes": [n.to_json() for n in self.nodes]}
