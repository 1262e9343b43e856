"""Two things timed in turn, round by round: how their times compare, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

COVERAGE = 0.99


@dataclass(frozen=True, slots=True)
class Paired:
    """Medians in ms; ratio: the median over rounds of other / base; low, high: its interval, which covers 99%.

    With fewer than 8 rounds nothing is sure, and the interval is (0, inf).
    """

    base_ms: float
    ms: float
    ratio: float
    low: float
    high: float
    rounds: int

    @property
    def faster(self) -> bool:
        """Whether the whole interval lies below 1: the gain exceeds its spread."""
        return self.high < 1.0


def paired(base: Sequence[float], other: Sequence[float]) -> Paired:
    """Compares times of the same rounds, in ms.

    The interval of the median needs no shape of the distribution: it goes from the k-th smallest ratio to the k-th
    largest. Source: David and Nagaraja 2003, "Order Statistics", section 7.1.

    >>> p = paired([10.0] * 8, [5.0] * 8)
    >>> p.ratio, p.faster
    (0.5, True)
    """
    ratios = np.sort(np.asarray(other, float) / np.asarray(base, float))
    k = rank(len(ratios))
    low, high = (float(ratios[k - 1]), float(ratios[-k])) if k else (0.0, math.inf)
    return Paired(
        float(np.median(base)), float(np.median(other)), float(np.median(ratios)), low, high, len(ratios)
    )


def rank(n: int, coverage: float = COVERAGE) -> int:
    """The largest k for which the k-th smallest and k-th largest of n numbers hold their median so often; 0 is none.

    They miss it with probability 2 · P(Binomial(n, 1/2) < k).

    >>> [rank(n) for n in (7, 8, 15, 30)]
    [0, 1, 3, 8]
    """
    missed, k = 0.0, 0
    while k <= n:
        missed += 2 * math.comb(n, k) / 2**n
        if missed > 1 - coverage:
            break
        k += 1
    return k
