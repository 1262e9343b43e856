"""The same for an NVIDIA GPU: ceilings by device events around our own kernels, kernels through the CUDA provider."""

from __future__ import annotations

import ctypes.util
import threading
import time
from datetime import UTC, datetime
from typing import Any

from ...backends import registry
from ...backends.base import Backend
from ...compiler.hardware.calibration import SCHEMA, CacheLevel, Calibration, Energy, MachineId
from ...compiler.hardware.machine import this_machine
from ...ir.diagnostics import TundishError
from ..report.progress import Progress
from .measure import Amount, Saying, measure_backend, versions, with_backends
from .quiet import Watch
from .smi import query, watts

_HINT = "run it on the machine with the GPU, or calibrate --target cpu"
_BLOCKS_PER_UNIT = 8
_STEPS = 100_000
_LEAST_MEMORY = 1 << 30
_WINDOW_S = 0.5


def calibrate(backend: str, *, quick: bool, progress: Progress) -> Calibration:
    """Measures the first GPU. Raises: TundishError where there is none that can be used."""
    cuda = require()
    from .device import bandwidth, peak

    engine = registry.get(backend)
    _check_provider(engine)
    machine, started, amount = this_machine("cuda"), time.perf_counter(), Amount.of_device(quick)
    device, row = cuda.get_current_device(), query("name", "driver_version")
    units, l2 = int(device.MULTIPROCESSOR_COUNT), int(device.L2_CACHE_SIZE)
    blocks, watch, say = units * _BLOCKS_PER_UNIT, Watch(machine.cores), Saying(progress, amount.budget_s, started)
    say("peak FLOP/s")
    peaks = tuple(peak(dtype, blocks, _STEPS, amount.runs) for dtype in ("f32", "f64"))
    say("bandwidth")
    widths = (
        bandwidth("L2", l2 // 2, 64, blocks, amount.runs),
        bandwidth("memory", max(_LEAST_MEMORY, 8 * l2), 1, blocks, amount.runs),
    )
    energy = _energy(blocks)
    missing = dict.fromkeys(("bf16", "f16", "i8"), "tensor cores are reached by the backend's kernels alone")
    without = Calibration(
        schema=SCHEMA, created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), seconds=0.0, quick=quick,
        machine=MachineId.of(machine, row["name"]), versions={**versions(), "driver": row["driver_version"]},
        caches=(CacheLevel(level="L2", size_bytes=l2, cores=units),), peaks=peaks, bandwidths=widths, backends={},
        energy=energy, not_measured=missing if energy else {**missing, "energy": "the driver does not tell the power"},
    )  # fmt: skip
    made = measure_backend(engine, machine, without, (1,), amount, watch, say)
    return with_backends(without, {backend: made}, time.perf_counter() - started, watch.disturbed_share)


def require() -> Any:
    """numba's CUDA module. Raises: TundishError where no GPU can be used, with the reason."""
    if not ctypes.util.find_library("cuda"):
        raise TundishError("this machine has no NVIDIA driver", hint=_HINT)
    from numba import cuda

    if not cuda.is_available():
        raise TundishError("the NVIDIA driver is there, but numba finds no GPU that it can use", hint=_HINT)
    return cuda


def _check_provider(engine: Backend) -> None:
    """Raises: TundishError where the backend does not build for GPUs."""
    if "cuda" not in engine.capabilities(this_machine("cuda")).targets:
        raise TundishError(f"{engine.name} does not build for GPUs", hint="take --backend onnxruntime")


def _energy(blocks: int) -> Energy | None:
    """NVML's power, idle and while the plain cores work at their peak."""
    from .device import peak

    idle, found = watts(), []
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(_WINDOW_S / 5):
            found.append(watts())

    sampler = threading.Thread(target=sample)
    sampler.start()
    end = time.perf_counter() + 2 * _WINDOW_S
    while time.perf_counter() < end:
        peak("f32", blocks, _STEPS, 1)
    stop.set()
    sampler.join()
    busy = max((w for w in found if w is not None), default=None)
    return None if idle is None or busy is None else Energy(source="NVML", idle_w=idle, busy_w=busy)
