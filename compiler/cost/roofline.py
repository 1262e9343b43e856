"""The roofline: from counts of work to seconds. Every formula of time for one kernel stands here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..hardware.caches import Cache

NEIGHBOURS = 4
_TOO_NEAR = 0.05  # in ln of a size: nearer points count as the same
_REACH = 1.5  # in ln of a size: a neighbour this far speaks as loudly as the fit itself


@dataclass(frozen=True, slots=True)
class Roofline:
    """A machine's ceilings at one number of threads and one element type.

    peak_flops_per_s: of register-only multiply-adds. bandwidths: level -> bytes per second, the nearest level first.
    """

    peak_flops_per_s: float
    bandwidths: Mapping[str, float]


def compute_s(flops: float, roofline: Roofline) -> float:
    """Seconds that the arithmetic takes at the peak.

    Source: Williams, Waterman and Patterson 2009, "Roofline: an insightful visual performance model".

    >>> compute_s(2e9, Roofline(1e11, {"memory": 1e10}))
    0.02
    """
    return flops / roofline.peak_flops_per_s


def memory_s(level_bytes: Mapping[str, float], roofline: Roofline) -> float:
    """Seconds that the bytes take, each at the bandwidth of the level where it lies; one level after the other.

    Source: Ilic, Pratas and Sousa 2014, "Cache-aware Roofline model", one ceiling for each level.

    >>> memory_s({"L2": 1e9, "memory": 1e9}, Roofline(1e11, {"L2": 1e11, "memory": 1e10}))
    0.11
    """
    return sum(count / roofline.bandwidths[level] for level, count in level_bytes.items())


def kernel_s(compute: float, memory: float, overhead_s: float, compute_share: float, memory_share: float) -> float:
    """Seconds of a kernel that reaches a share of each ceiling, its corner rounded.

    overhead + sqrt((compute / compute_share)² + (memory / memory_share)²): between their sum (nothing overlaps) and the
    larger of the two (everything does), which is the plain roofline.

    Source: ours; the Euclidean norm is a smooth maximum of the two ceilings.

    >>> kernel_s(3.0, 4.0, 0.5, 1.0, 1.0)
    5.5
    """
    worked = math.hypot(compute / compute_share, memory / memory_share)
    return overhead_s + worked


def correction(at: Sequence[float], points: Sequence[tuple[Sequence[float], float]]) -> float:
    """The ln of measured / fitted at a size, from the nearest measured sizes; 0 far away from all of them.

    points: (coordinates, ln(measured / fitted)). Distances are in ln of the coordinates. Each of the NEIGHBOURS nearest
    weighs 1 / (distance² + small²), and the fit itself as one at distance _REACH whose correction is 0.

    Source: Shepard 1968, "A two-dimensional interpolation function for irregularly-spaced data".

    >>> round(correction((8.0,), [((8.0,), 0.5)]), 2), round(correction((8e9,), [((8.0,), 0.5)]), 2)
    (0.5, 0.0)
    """
    here = [math.log(x) for x in at]
    near = sorted((_distance2(here, place), value) for place, value in points)[:NEIGHBOURS]
    weights = [1 / (d2 + _TOO_NEAR**2) for d2, _ in near]
    whole = sum(weights) + 1 / _REACH**2
    return sum(w * value for w, (_, value) in zip(weights, near, strict=True)) / whole


def _distance2(here: Sequence[float], place: Sequence[float]) -> float:
    return sum((a - math.log(b)) ** 2 for a, b in zip(here, place, strict=True))


def holding_level(size_bytes: float, caches: Sequence[Cache], threads: int) -> str:
    """The nearest level that holds so many bytes, shared evenly by the threads; `memory` where none does.

    >>> holding_level(600_000, [Cache("L2", 1 << 20), Cache("L3", 1 << 25, 8)], 1)
    'L2'
    """
    for cache in caches:
        together = cache.size_bytes * max(1, math.ceil(threads / cache.cores))
        if size_bytes <= together:
            return cache.level
    return "memory"
