"""Whether a machine was busy elsewhere while something was timed, judged by the kernel's own counters."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
# What others may take of a round before it is dropped: a share of its CPU time, and what the counters' ticks can be
# wrong by (one on each side). Below it sit the kernel's own threads and the timer.
MOST_SHARE, _MOST_TICKS = 0.05, 2
# Involuntary switches a second and thread. A machine of its own shows a few, one that shares its cores hundreds.
MOST_SWITCHES_PER_S = 100.0
_AT_LEAST_SEEN = 0.5  # of the process's own CPU time; counters that miss more say nothing about others


@dataclass(frozen=True, slots=True)
class Reading:
    """Counters at one moment.

    busy_s, stolen_s: CPU time that the CPUs worked for anyone here, and for other guests of the host.
    own_s, switches: CPU time and involuntary context switches of this process, all its threads together.
    """

    wall_s: float
    busy_s: float
    stolen_s: float
    own_s: float
    switches: int


@dataclass(frozen=True, slots=True)
class Load:
    """What happened between two readings, in seconds of CPU time; others_s is None where it cannot be known."""

    wall_s: float
    others_s: float | None
    stolen_s: float
    switches: int


def cpu_times(text: str, cpus: Collection[int]) -> tuple[float, float]:
    """(busy, stolen) seconds since boot of these CPUs, from the text of /proc/stat.

    Columns after the name: user nice system idle iowait irq softirq steal; guests' time is part of user.
    Source: proc_stat(5).
    """
    busy = stolen = 0
    names = {f"cpu{i}" for i in cpus}
    for line in text.splitlines():
        name, *columns = line.split()
        if name in names:
            ticks = [int(c) for c in columns[:8]] + [0] * (8 - len(columns[:8]))
            busy += sum(ticks[:3]) + ticks[5] + ticks[6]
            stolen += ticks[7]
    return busy * _TICK_S, stolen * _TICK_S


def read(cpus: Collection[int]) -> Reading:
    """This process's counters and those of the CPUs; zeros for the latter where there is no /proc/stat."""
    try:
        busy, stolen = cpu_times(Path("/proc/stat").read_text(), cpus)
    except (OSError, ValueError):
        busy = stolen = 0.0
    used = resource.getrusage(resource.RUSAGE_SELF)
    return Reading(time.perf_counter(), busy, stolen, used.ru_utime + used.ru_stime, used.ru_nivcsw)


def between(before: Reading, after: Reading) -> Load:
    """What others took between two readings."""
    busy, own = after.busy_s - before.busy_s, after.own_s - before.own_s
    unknown = busy < _AT_LEAST_SEEN * own - 2 * _TICK_S
    return Load(
        after.wall_s - before.wall_s, None if unknown else max(0.0, busy - own), after.stolen_s - before.stolen_s,
        after.switches - before.switches,
    )  # fmt: skip


def disturbance(load: Load, threads: int) -> float:
    """How far others' part went toward what is allowed: a round above 1 is dropped; infinite where it is unknown."""
    if load.others_s is None or load.wall_s <= 0:
        return float("inf")
    allowed_s = MOST_SHARE * load.wall_s * threads + _MOST_TICKS * _TICK_S
    switches = load.switches / (MOST_SWITCHES_PER_S * load.wall_s * threads + 1)
    return max((load.others_s + load.stolen_s) / allowed_s, switches)


def others_share(load: Load, cpus: int) -> float:
    """The share of the CPUs' time that others took, or that was stolen; 0 where it is unknown."""
    others_s = (load.others_s or 0.0) + load.stolen_s
    return others_s / (load.wall_s * cpus) if load.wall_s > 0 else 0.0


def is_clean(load: Load, threads: int) -> bool:
    """Whether the machine worked for this process alone."""
    return disturbance(load, threads) <= 1.0


def wait_for_quiet(cpus: Collection[int], limit_s: float, step_s: float = 0.1) -> bool:
    """Sleeps until the CPUs idle for one step, `limit_s` at most; whether they did."""
    deadline = time.monotonic() + limit_s
    while True:
        before = read(cpus)
        time.sleep(step_s)
        if is_clean(between(before, read(cpus)), len(cpus)):
            return True
        if time.monotonic() >= deadline:
            return False
