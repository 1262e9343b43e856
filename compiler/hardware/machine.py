"""The machine that something is compiled for or runs on."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ...ir.diagnostics import TundishError
from .baselines import bodies

_FEATURES = {  # cpuinfo's words -> ours
    "avx": "avx", "avx2": "avx2", "fma": "fma", "f16c": "f16c", "avx512f": "avx512f", "avx512bw": "avx512bw",
    "avx512vl": "avx512vl", "avx512dq": "avx512dq", "avx512cd": "avx512cd", "bmi1": "bmi1", "bmi2": "bmi2",
    "movbe": "movbe", "abm": "lzcnt", "avx512_vnni": "avx512_vnni", "avx512_bf16": "avx512_bf16", "amx_tile": "amx",
    "asimd": "neon", "sve": "sve",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Machine:
    """target: `cpu`, `cuda`, a kind of GPU (see `gpus`), or a named CPU (see `baselines`), whose features these are.

    cores: physical ones this process may use. memory_bytes: what it may use in all.
    """

    target: str
    arch: str
    name: str
    cores: int
    features: frozenset[str]
    memory_bytes: int


@lru_cache(maxsize=16)
def this_machine(target: str = "cpu") -> Machine:
    """Reads /proc and the process's limits. For a named CPU, this machine with that CPU in it: the least of several."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    features = frozenset(ours for theirs, ours in _FEATURES.items() if theirs in flags)
    named = bodies(target)
    return Machine(
        target=target,
        arch=named[-1].arch if named else platform.machine(),
        name=info.get("model name", platform.processor() or platform.machine()),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        features=named[-1].features if named else features,
        memory_bytes=memory_limit_bytes(),
    )


def check_threads(threads: int | None) -> None:
    """Raises: TundishError where this process has not so many cores to measure on."""
    cores = this_machine().cores
    if threads is not None and not 1 <= threads <= cores:
        raise TundishError(f"this machine has {cores} cores for this process", found=f"--threads {threads}")


def memory_limit_bytes() -> int:
    """Physical memory, or the cgroup's limit where that is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        return min(total, int(limit)) if limit.isdigit() else total
    except OSError:
        return total


def available_memory_bytes() -> int:
    """What could be allocated now without swapping, by the kernel's own estimate."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return min(int(line.split()[1]) * 1024, memory_limit_bytes())
    except OSError:
        pass
    return memory_limit_bytes()


def _cpuinfo() -> dict[str, str]:
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {k.strip(): v.strip() for k, v in pairs}
