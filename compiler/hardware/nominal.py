"""What a machine that was never measured can be taken for, from its features alone.

These are orders of magnitude, and whoever uses them widens the interval and says so.
"""

from __future__ import annotations

from .machine import Machine

_HZ = 3.0e9  # a server's cores run all at once at 2.2 to 3.8 GHz
_F32_PER_CYCLE = (  # two multiply-adds of a full vector in each cycle: Fog, "Instruction tables" (agner.org), by family
    ("avx512f", 64), ("fma", 32), ("avx", 16), ("neon", 16),
)  # fmt: skip
_F32_PLAIN = 8
_SCALE = {"f64": 0.5, "f32": 1.0, "f16": 1.0, "bf16": 1.0}  # a type without vectors of its own passes through f32
_BYTES_PER_CYCLE = {"L1": 64.0, "L2": 32.0, "L3": 12.0}  # per core: Fog, "The microarchitecture of ... CPUs"
_MEMORY_PER_CORE, _MEMORY_MOST = 12e9, 200e9  # a core's outstanding misses; a socket of 8 channels of DDR4-3200


def peak_flops_per_s(machine: Machine, threads: int, dtype: str) -> float:
    """Nominal multiply-adds of the vector units, twice.

    >>> peak_flops_per_s(Machine("cpu", "x86_64", "a name", 2, frozenset({"fma"}), 1), 2, "f32") / 1e9
    192.0
    """
    width = next((n for feature, n in _F32_PER_CYCLE if feature in machine.features), _F32_PLAIN)
    return _HZ * width * threads * _SCALE.get(dtype, 1.0)


def bandwidths(threads: int) -> dict[str, float]:
    """Nominal bytes per second by level, the nearest first."""
    found = {level: _HZ * count * threads for level, count in _BYTES_PER_CYCLE.items()}
    return {**found, "memory": min(_MEMORY_PER_CORE * threads, _MEMORY_MOST)}


# Shares of the ceilings, and seconds of a node and of a run that do nothing, that a good library's kernels reach.
COMPUTE_SHARE, MEMORY_SHARE, NODE_S, RUN_S = 0.6, 0.6, 2e-6, 3e-5
UNCERTAINTY = 3.0  # the interval of such a prediction: from a third of it to three times it
