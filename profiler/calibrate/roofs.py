"""The machine's ceilings: peak FLOP/s from registers alone, and bandwidth by level, by number of threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from ...compiler.hardware.caches import Cache
from ...compiler.hardware.calibration import Bandwidth, Peak
from ...compiler.hardware.machine import available_memory_bytes
from .quiet import Watch, best_of
from .vectors import ACCUMULATORS, loop, reader, units, vector_bytes

_RUN_S = 0.004  # one sample: long against starting threads, short against the turns of the machine's other users
_TRIES = 7  # of which one at least is not disturbed
_BEYOND = 4  # a buffer this many times the last cache is in memory
_LEAST_MEMORY = 256 << 20


def thread_times(work: Sequence[Callable[[], object]], *, apart: bool = False) -> float:
    """Seconds from the moment that all threads stand ready until the last has done its part.

    apart: their parts share nothing, so what each spends on a processor counts, and not what others spend there.
    """
    gate = threading.Barrier(len(work) + 1)

    def run(part: Callable[[], object]) -> tuple[float, float]:
        gate.wait()
        began = time.thread_time()
        part()
        return time.perf_counter(), time.thread_time() - began

    with ThreadPoolExecutor(len(work)) as pool:
        parts = [pool.submit(run, part) for part in work]
        gate.wait()
        start = time.perf_counter()
        ended, spent = zip(*(part.result() for part in parts), strict=True)
        return max(spent) if apart else max(ended) - start


def peaks(
    features: frozenset[str], threads: Sequence[int], watch: Watch, runs: int, say: Callable[[str], None]
) -> tuple[list[Peak], dict[str, str]]:
    """The best of `runs` for each type and number of threads; and the types that were not measured, with the reason.

    More threads never reach less than fewer: the others could have stood idle.
    """
    found: list[Peak] = []
    missing = {**dict.fromkeys(("bf16", "i8"), "this CPU has no vector instruction for it"),
               "f16": "no kernel of ours or of a backend computes in it on a CPU"}  # fmt: skip
    for dtype, unit in units(features).items():
        say(f"peak FLOP/s in {dtype}")
        try:
            compiled = loop(unit)
        except Exception as error:  # LLVM's errors have no common base
            missing[dtype] = f"LLVM does not take {unit.intrinsic}: {str(error).splitlines()[0][:120]}"
            continue
        missing.pop(dtype, None)
        count = _passes(compiled)
        for n in threads:
            part = partial(compiled, count)
            least, spread = best_of(partial(thread_times, [part] * n, apart=True), runs, watch)
            fewer = [p.flops_per_s for p in found if p.dtype == dtype]
            rate = max([n * count * ACCUMULATORS * unit.flops / least, *fewer])
            found.append(Peak(dtype=dtype, threads=n, flops_per_s=rate, spread=spread))
    return found, missing


def bandwidths(
    features: frozenset[str], caches: Sequence[Cache], threads: Sequence[int], watch: Watch, runs: int,
    say: Callable[[str], None], *, least_memory: int = _LEAST_MEMORY,
) -> list[Bandwidth]:  # fmt: skip
    """Reading and copying, each thread on its own part of the buffer."""
    read, copy = reader(vector_bytes(features)), _copier()
    found: list[Bandwidth] = []
    for level, size in _buffers(caches, max(threads), least_memory):
        say(f"bandwidth of {level}")
        for n in threads:
            made = _bandwidth(level, _buffer_of(level, size, n, caches), n, read, copy, watch, runs)
            found.append(_at_least([b for b in found if b.level == level], made))
    return found


def _at_least(fewer: Sequence[Bandwidth], made: Bandwidth) -> Bandwidth:
    """No less than fewer threads reach: the others could have stood idle."""
    import msgspec

    rates = {
        f: max(getattr(b, f) for b in (*fewer, made)) for f in ("read_bytes_per_s", "copy_bytes_per_s")
    }  # fmt: skip
    return msgspec.structs.replace(made, **rates)


def _buffers(caches: Sequence[Cache], most: int, least_memory: int) -> list[tuple[str, int]]:
    """(level, bytes of one thread's buffer where the level is its own, of all where it is shared)."""
    last = max(c.size_bytes for c in caches) * max(1, -(-most // caches[-1].cores))
    beyond = min(max(_BEYOND * last, least_memory), available_memory_bytes() // 4)
    return [*((c.level, c.size_bytes // 2) for c in caches), ("memory", beyond)]


def _buffer_of(level: str, size: int, threads: int, caches: Sequence[Cache]) -> int:
    """Bytes of each thread's buffer: a cache that several share is shared out."""
    sharing = next((c.cores for c in caches if c.level == level), threads)
    return max(1 << 12, size // min(threads, sharing) // 4096 * 4096)


def _copier() -> Any:
    from numba import float32, int64, njit, void

    @njit(void(float32[::1], float32[::1], int64), nogil=True)
    def copy(a, b, times):  # type: ignore[no-untyped-def]
        for k in range(times):
            for i in range(a.size):
                b[i] = a[i]
            a[k % a.size] += float32(1)  # so that the passes cannot be one

    return copy


def _bandwidth(level: str, size: int, threads: int, read: Any, copy: Any, watch: Watch, runs: int) -> Bandwidth:
    parts = [_aligned(size // 4) for _ in range(threads)]
    halves = [(p[: p.size // 2], p[p.size // 2 :]) for p in parts]
    reading = _rate([partial(read, p) for p in parts], size * threads, watch, runs)
    copying = _rate([partial(copy, *h) for h in halves], size * threads, watch, runs)
    return Bandwidth(
        level=level, threads=threads, read_bytes_per_s=reading[0], copy_bytes_per_s=copying[0],
        buffer_bytes=size * threads, spread=max(reading[1], copying[1]),
    )  # fmt: skip


def _aligned(count: int) -> np.ndarray:
    """float32 ones that begin at a page, whole blocks of the reading loop in each half."""
    raw = np.ones(count + 1024, np.float32)
    start = -raw.ctypes.data % 4096 // 4
    return raw[start : start + count]


def _rate(
    works: Sequence[Callable[[int], object]], pass_bytes: int, watch: Watch, runs: int
) -> tuple[float, float]:
    """Bytes per second of all threads at work, and the spread."""
    times = _passes(lambda k: thread_times([partial(w, k) for w in works]))
    parts = [partial(w, times) for w in works]
    least, spread = best_of(partial(thread_times, parts, apart=len(works) == 1), runs, watch)
    return times * pass_bytes / least, spread


def _passes(run: Callable[[int], object]) -> int:
    """How many repetitions fill a sample."""
    count = 1
    while True:
        took = []
        for _ in range(_TRIES):
            start = time.perf_counter()
            run(count)
            took.append(time.perf_counter() - start)
        if min(took) > _RUN_S / 4:
            return max(1, int(count * _RUN_S / min(took)))
        count *= 4
