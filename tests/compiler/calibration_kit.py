"""A calibration in numbers of our own, for tests of what is made of one."""

from __future__ import annotations

from typing import Any

from tundish.compiler.hardware.calibration import (
    SCHEMA,
    BackendCalibration,
    Bandwidth,
    CacheLevel,
    Calibration,
    Family,
    Launch,
    MachineId,
    Peak,
    Point,
)
from tundish.compiler.hardware.machine import Machine

MACHINE = Machine("cpu", "x86_64", "a machine", 2, frozenset({"fma", "avx2"}), 1 << 34)
LEVELS = {"L1": 400e9, "L2": 200e9, "L3": 100e9, "memory": 20e9}


def family(name: str, *points: Point, threads: int = 2, **changes: Any) -> Family:
    given = {
        "overhead_s": 1e-6, "compute_share": 0.8, "memory_share": 0.5, "median_error": 0.03, "p90_error": 0.1,
        **changes,
    }  # fmt: skip
    return Family(name=name, dtype="f32", threads=threads, points=points, **given)


def calibration(*families: Family, **changes: Any) -> Calibration:
    """Two threads, 100 GFLOP/s each, the bandwidths of LEVELS."""
    engine = BackendCalibration(
        versions={"onnxruntime": "1.32.0"}, families=families, runtime_bytes=60 << 20,
        launches=tuple(Launch(threads=n, run_s=2e-5, node_s=1e-6) for n in (1, 2)),
    )  # fmt: skip
    given: dict[str, Any] = {
        "schema": SCHEMA, "created": "2026-11-25T12:00:00Z", "seconds": 90.0, "quick": False,
        "machine": MachineId.of(MACHINE), "versions": {"tundish": "0.1.0"},
        "caches": tuple(
            CacheLevel(level=level, size_bytes=size, cores=cores)
            for level, size, cores in (("L1", 48 << 10, 1), ("L2", 1 << 20, 1), ("L3", 32 << 20, 2))
        ),
        "peaks": tuple(Peak(dtype="f32", threads=n, flops_per_s=100e9 * n, spread=0.01) for n in (1, 2)),
        "bandwidths": tuple(
            Bandwidth(level=level, threads=n, read_bytes_per_s=rate * n / 2, copy_bytes_per_s=rate * n / 3,
                      buffer_bytes=1 << 20, spread=0.02)
            for level, rate in LEVELS.items() for n in (1, 2)
        ),
        "backends": {"onnxruntime": engine}, **changes,
    }  # fmt: skip
    return Calibration(**given)
