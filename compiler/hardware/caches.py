"""The sizes of the data caches, as the kernel tells them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

SYSFS = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True, slots=True)
class Cache:
    """One level. size_bytes: of one cache; cores: how many cores share it."""

    level: str
    size_bytes: int
    cores: int = 1


# What is assumed where the kernel tells nothing: small sizes, so that a buffer "beyond the last cache" is beyond it.
ASSUMED = (Cache("L1", 32 << 10), Cache("L2", 512 << 10), Cache("L3", 8 << 20, os.cpu_count() or 1))


def caches(folder: Path = SYSFS) -> tuple[Cache, ...]:
    """L1 (data), L2 and L3, the nearest first; `ASSUMED` where the folder cannot be read.

    A level that a machine lacks is left out.
    """
    found = [c for c in (_cache(index) for index in sorted(folder.glob("index[0-9]*"))) if c is not None]
    return tuple(sorted(found, key=lambda c: c.level)) or ASSUMED


def _cache(index: Path) -> Cache | None:
    try:
        kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
        if kind == "Instruction":
            return None
        sharing = _count((index / "shared_cpu_list").read_text())
        unit = _UNITS.get(size[-1:], 1)
        return Cache(f"L{int(level)}", int(size.rstrip("KMG")) * unit, sharing)
    except (OSError, ValueError):
        return None


def _count(cpus: str) -> int:
    """How many CPUs a list such as `0-3,8` names.

    >>> _count("0-3,8")
    5
    """
    spans = [part.partition("-") for part in cpus.strip().split(",") if part]
    return sum(int(last or first) - int(first) + 1 for first, _, last in spans) or 1
