"""What was measured of a machine: a dated file that predictions read.

Measuring is the profiler's; this is the file, its place, and how it is checked when it is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from ...ir.diagnostics import LoadError
from ...ir.weight_file import read_at_most, write_whole, writing
from .caches import Cache
from .machine import Machine

SCHEMA = 1
PLACE = "TUNDISH_CALIBRATION"
_LIMIT_BYTES = 64 << 20
_MAKE = "make one: tundish calibrate"

Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]


class MachineId(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine is known by; see `compiler.hardware.machine.Machine`."""

    target: str
    arch: str
    name: str
    cores: Count
    features: tuple[str, ...]

    @staticmethod
    def of(machine: Machine, name: str | None = None) -> MachineId:
        """name: of the device, where it is not the CPU."""
        return MachineId(
            target=machine.target, arch=machine.arch, name=name or machine.name, cores=machine.cores,
            features=tuple(sorted(machine.features)),
        )  # fmt: skip


class CacheLevel(msgspec.Struct, frozen=True, kw_only=True):
    level: str
    size_bytes: Count
    cores: Count


class Peak(msgspec.Struct, frozen=True, kw_only=True):
    """The best of several runs on registers alone. spread: (median - best) / best of the runs' times."""

    dtype: str
    threads: Count
    flops_per_s: Positive
    spread: NotNegative


class Bandwidth(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes per second of one level with all its threads at work, the best of several runs.

    read: each byte read once. copy: bytes read and bytes written, both counted. buffer_bytes: of all threads.
    """

    level: str
    threads: Count
    read_bytes_per_s: Positive
    copy_bytes_per_s: Positive
    buffer_bytes: Count
    spread: NotNegative


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """What a run and a node cost that do nothing. run_s: a run without nodes. node_s: each node more."""

    threads: Count
    run_s: NotNegative
    node_s: NotNegative


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One measured size. at: the family's coordinates. residual: ln(measured / fitted). bytes: read and written."""

    at: tuple[Positive, ...]
    seconds: Positive
    residual: float
    spread: NotNegative = 0.0
    flops: Annotated[int, msgspec.Meta(ge=0)] = 0
    bytes: Annotated[int, msgspec.Meta(ge=0)] = 0


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """The fitted roofline of one kernel: see `compiler.cost.roofline.kernel_s`.

    overhead_s: at size nought. compute_share, memory_share: of the machine's peak and bandwidth that it reaches.
    median_error, p90_error: relative, of each point as predicted from the others.
    """

    name: str
    dtype: str
    threads: Count
    overhead_s: NotNegative
    compute_share: Positive
    memory_share: Positive
    points: tuple[Point, ...]
    median_error: NotNegative
    p90_error: NotNegative


class BackendCalibration(msgspec.Struct, frozen=True, kw_only=True):
    """runtime_bytes: resident memory of a fresh process that has the backend open on a program of one node.

    untimed: the programs for which the time allowed was not enough.
    """

    versions: dict[str, str]
    launches: tuple[Launch, ...]
    families: tuple[Family, ...]
    runtime_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    untimed: tuple[str, ...] = ()


class Energy(msgspec.Struct, frozen=True, kw_only=True):
    """Watts of the device, idle and while its peak is measured. source: `RAPL` or `NVML`."""

    source: str
    idle_w: NotNegative
    busy_w: NotNegative


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """created: UTC, ISO 8601. seconds: how long it took. quick: made with few samples.

    disturbed: the share of samples during which the machine was busy elsewhere. not_measured: what, and why not.
    """

    schema: int
    created: str
    seconds: NotNegative
    quick: bool
    machine: MachineId
    versions: dict[str, str]
    caches: tuple[CacheLevel, ...]
    peaks: tuple[Peak, ...]
    bandwidths: tuple[Bandwidth, ...]
    backends: dict[str, BackendCalibration]
    disturbed: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    energy: Energy | None = None
    not_measured: dict[str, str] = {}

    @property
    def title(self) -> str:
        """As reports name it."""
        return f"{self.machine.name}, {self.machine.cores} cores, measured {self.created[:10]}"

    def cache_sizes(self) -> tuple[Cache, ...]:
        return tuple(Cache(c.level, c.size_bytes, c.cores) for c in self.caches)


def default_path(target: str = "cpu", environ: Mapping[str, str] | None = None) -> Path:
    """Where the calibration of a target lies: $TUNDISH_CALIBRATION, or the user's cache folder."""
    environ = os.environ if environ is None else environ
    if environ.get(PLACE):
        return Path(environ[PLACE])
    cache = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME", "~")).expanduser() / ".cache")
    return Path(cache) / "tundish" / "calibration" / f"{target}.json"


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Writes the file whole or not at all. Raises: BuildError."""
    text = msgspec.json.format(msgspec.json.encode(calibration), indent=1) + b"\n"
    with writing(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)


def read_calibration(path: Path) -> Calibration:
    """Raises: LoadError, naming the file and the field, where it is missing, broken, or made by a newer version."""
    try:
        raw = read_at_most(path, _LIMIT_BYTES)
    except OSError as error:
        raise LoadError(f"cannot read the calibration {path}: {error.strerror}", hint=_MAKE) from error
    if len(raw) > _LIMIT_BYTES:
        raise LoadError(f"{path.name} is too large to be a calibration")
    try:
        schema = msgspec.json.decode(raw, type=_Schema).schema
        if schema > SCHEMA:
            raise LoadError(
                f"the calibration {path} was made by a newer tundish",
                found=f"schema {schema}, this one reads up to {SCHEMA}", hint="update tundish",
            )  # fmt: skip
        found = msgspec.json.decode(raw, type=Calibration)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LoadError(f"the calibration {path} is broken", found=str(error), hint=_MAKE) from error
    problem = next(iter(_problems(found)), None)
    if problem:
        raise LoadError(f"the calibration {path} is broken", found=problem, hint=_MAKE)
    return found


class _Schema(msgspec.Struct):
    schema: Annotated[int, msgspec.Meta(ge=1)]


def _problems(c: Calibration) -> Iterable[str]:
    """What is wrong beyond the types; JSON knows neither NaN nor infinity, but 1e999 is one."""
    if c.schema != SCHEMA:
        yield f"schema: there is no schema {c.schema}"
    if not c.peaks:
        yield "peaks: none"
    if not c.bandwidths:
        yield "bandwidths: none"
    yield from _infinite(msgspec.to_builtins(c), "$")
    for name, backend in c.backends.items():
        for i, family in enumerate(backend.families):
            if len({len(p.at) for p in family.points}) > 1:
                yield f"$.backends[{name!r}].families[{i}].points: of different numbers of coordinates"


def _infinite(value: object, path: str) -> Iterable[str]:
    if isinstance(value, float) and not abs(value) < float("inf"):
        yield f"{path}: {value} is no number"
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _infinite(inner, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            yield from _infinite(inner, f"{path}[{i}]")


def mismatch(calibration: Calibration, machine: Machine, device: str | None = None) -> str | None:
    """Why a calibration does not speak for a machine; None where it does. device: the accelerator's name."""
    here = MachineId.of(machine, device)
    for field in ("target", "name", "arch", "cores"):
        theirs, ours = getattr(calibration.machine, field), getattr(here, field)
        if theirs != ours:
            return f"it was made on another machine: its {field} is {theirs!r}, here it is {ours!r}"
    differ = sorted(set(calibration.machine.features) ^ set(here.features))
    return f"it was made on another machine: the features differ in {', '.join(differ)}" if differ else None


def find_calibration(
    machine: Machine, path: Path | None = None, device: str | None = None
) -> tuple[Calibration | None, str]:
    """The machine's calibration, or None, and one sentence about it or the reason.

    path: a file that must be there; the default place may be empty. device: the accelerator's name.
    Raises: LoadError on a broken file.
    """
    place = path or default_path(machine.target)
    if path is None and not place.is_file() and not os.environ.get(PLACE):
        return None, "this machine was never calibrated (tundish calibrate)"
    found = read_calibration(place)
    reason = mismatch(found, machine, device)
    if reason:
        return None, f"the calibration {place.name} is not used: {reason}"
    return found, f"calibration of {found.title}"
