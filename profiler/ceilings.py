"""What a chip gives at most, measured in the same run as what is held against it."""

from __future__ import annotations

from dataclasses import dataclass

from ..compiler.hardware.caches import caches
from ..compiler.hardware.machine import this_machine
from ..ir.diagnostics import RunError

_RUNS = 10  # of which the best counts


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Multiply-adds of one type, and reading memory, on so many threads."""

    flops_per_s: float
    bytes_per_s: float

    def least_s(self, flops: float, read_bytes: float) -> float:
        """Seconds in which work cannot be done faster, where those bytes come from memory."""
        return max(flops / self.flops_per_s, read_bytes / self.bytes_per_s)

    @property
    def spoken(self) -> str:
        return (f"Limits in the same run: {self.flops_per_s / 1e9:.0f} GFLOP/s (registers alone), "
                f"{self.bytes_per_s / 1e9:.1f} GB/s (reading memory).")  # fmt: skip


def ceiling(threads: int, dtype: str = "f32") -> Ceiling:
    """The best of 10 runs of multiply-adds in registers alone, and of reading memory.

    Raises: RunError where this CPU has no multiply-add of that type.
    """
    from .calibrate.quiet import Watch
    from .calibrate.roofs import bandwidths, peaks

    wanted = {"avx", "avx2", "fma", "avx512f", "neon"} | ({"avx512_bf16"} if dtype == "bf16" else set())
    features, watch = this_machine().features & wanted, Watch(threads)
    found, _ = peaks(features, (threads,), watch, _RUNS, _silent)
    read = bandwidths(features, caches(), (threads,), watch, _RUNS, _silent)
    most = {p.dtype: p.flops_per_s for p in found}
    if dtype not in most:
        raise RunError(f"this CPU multiplies in no {dtype}")
    return Ceiling(most[dtype], next(b.read_bytes_per_s for b in read if b.level == "memory"))


def _silent(text: str) -> None:
    return None
