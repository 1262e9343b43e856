"""Watts of the processor, idle and at its peak, where the kernel lets us read its counters."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from ...compiler.hardware.calibration import Energy
from .roofs import thread_times
from .vectors import loop, units

RAPL = Path("/sys/class/powercap")
_WINDOW_S = 0.5
_ITERATIONS = 2_000_000


def measure_energy(features: frozenset[str], cores: int, folder: Path = RAPL) -> tuple[Energy | None, str]:
    """RAPL's packages, added up: idle for half a second, then all cores at multiply-adds; or None and the reason."""
    zones = [z for z in sorted(folder.glob("intel-rapl:*")) if z.name.count(":") == 1]
    if not zones:
        return None, "the kernel shows no RAPL counters (virtual machines rarely do)"
    try:
        idle = _watts(zones, lambda: time.sleep(_WINDOW_S))
        work = loop(units(features)["f32"])

        def busy() -> None:
            end = time.perf_counter() + _WINDOW_S
            while time.perf_counter() < end:
                thread_times([partial(work, _ITERATIONS)] * cores)

        return Energy(source="RAPL", idle_w=idle, busy_w=_watts(zones, busy)), ""
    except OSError as error:
        return None, f"RAPL's counters cannot be read: {error.strerror}"


def _watts(zones: list[Path], run: object) -> float:
    """Joules over seconds; a counter that begins again is completed by its range."""
    before, start = [_joules(z) for z in zones], time.perf_counter()
    run()  # type: ignore[operator]
    took = time.perf_counter() - start
    used = 0.0
    for zone, first in zip(zones, before, strict=True):
        now = _joules(zone)
        used += now - first if now >= first else now - first + _joules(zone, "max_energy_range_uj")
    return used / took


def _joules(zone: Path, name: str = "energy_uj") -> float:
    return int((zone / name).read_text()) / 1e6
