"""A GPU's ceilings: our own kernels between two device events. Also runs in numba's simulator, for tests.

numba's simulator looks for its module under a global name: this file opens it, and is itself opened where it is used.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import cuda as _cuda

from ...compiler.hardware.calibration import Bandwidth, Peak

cuda: Any = _cuda
ACCUMULATORS = 8
BLOCK = 256  # threads
_TYPES = {"f32": np.float32, "f64": np.float64}


@cache
def multiply_adds() -> Any:
    """The kernel (out, steps, factor): each thread keeps ACCUMULATORS sums in registers, acc <- acc · factor + factor.

    They begin with different numbers, so that no compiler can make one of them.
    """

    @cuda.jit
    def kernel(out, steps, factor):  # type: ignore[no-untyped-def]
        a = factor
        b = a + factor
        c = b + factor
        d = c + factor
        e = d + factor
        f = e + factor
        g = f + factor
        h = g + factor
        for _ in range(steps):
            a = a * factor + factor
            b = b * factor + factor
            c = c * factor + factor
            d = d * factor + factor
            e = e * factor + factor
            f = f * factor + factor
            g = g * factor + factor
            h = h * factor + factor
        out[cuda.grid(1)] = a + b + c + d + e + f + g + h

    return kernel


@cache
def reading() -> Any:
    """The kernel (data, out, passes): out[thread] = the sum of every element that the thread reads, so many times."""

    @cuda.jit
    def kernel(data, out, passes):  # type: ignore[no-untyped-def]
        first, step = cuda.grid(1), cuda.gridsize(1)
        total = out.dtype.type(0)
        for _ in range(passes):
            for i in range(first, data.size, step):
                total += data[i]
        out[first] = total

    return kernel


@cache
def copying() -> Any:
    """The kernel (source, target, passes)."""

    @cuda.jit
    def kernel(source, target, passes):  # type: ignore[no-untyped-def]
        first, step = cuda.grid(1), cuda.gridsize(1)
        for _ in range(passes):
            for i in range(first, source.size, step):
                target[i] = source[i]

    return kernel


def least_s(launch: Any, runs: int) -> tuple[float, float]:
    """The least time of a launch between two events, and (median - least) / least; one more before warms up."""
    launch()
    cuda.synchronize()
    found = []
    for _ in range(runs):
        start, end = cuda.event(), cuda.event()
        start.record()
        launch()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) / 1e3)
    least = min(found)
    return least, float(np.median(found) / least - 1) if least > 0 else 0.0


def peak(dtype: str, blocks: int, steps: int, runs: int) -> Peak:
    """FLOP/s of the plain cores."""
    kernel, factor = multiply_adds(), _TYPES[dtype](0.5)
    out = cuda.device_array(blocks * BLOCK, _TYPES[dtype])
    least, spread = least_s(lambda: kernel[blocks, BLOCK](out, steps, factor), runs)
    rate = 2 * ACCUMULATORS * steps * blocks * BLOCK / least
    return Peak(dtype=dtype, threads=1, flops_per_s=rate, spread=spread)


def bandwidth(level: str, size_bytes: int, passes: int, blocks: int, runs: int) -> Bandwidth:
    """Reading a buffer, and copying half of it to the other half."""
    read, copy = reading(), copying()
    data = cuda.to_device(np.ones(size_bytes // 4, np.float32))
    half = data.size // 2
    out = cuda.device_array(blocks * BLOCK, np.float32)
    reads, first = least_s(lambda: read[blocks, BLOCK](data, out, passes), runs)
    copies, second = least_s(lambda: copy[blocks, BLOCK](data[:half], data[half : 2 * half], passes), runs)
    return Bandwidth(
        level=level, threads=1, read_bytes_per_s=passes * 4 * data.size / reads,
        copy_bytes_per_s=passes * 8 * half / copies, buffer_bytes=size_bytes, spread=max(first, second),
    )  # fmt: skip
