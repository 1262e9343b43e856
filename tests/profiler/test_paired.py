"""The interval of a median, and when a gain is one."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from tundish.profiler.paired import COVERAGE, paired, rank


@pytest.mark.parametrize("n", range(1, 13))
def test_the_ranks_cover_the_median_as_often_as_they_say(n):
    """Each of n numbers lies below the median or not, all 2^n ways alike; counted one by one."""
    k = rank(n)

    def missed(k: int) -> float:
        below = [sum(way) for way in product((0, 1), repeat=n)]
        return sum(b < k or n - b < k for b in below) / 2**n

    assert missed(k) <= 1 - COVERAGE < missed(k + 1)


def test_the_interval_holds_for_a_skewed_distribution():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        p = paired(np.ones(15), rng.exponential(1.0, 15))
        held += p.low <= math.log(2) <= p.high
    assert held / 2000 >= COVERAGE - 0.01


def test_ratios_are_of_the_same_round():
    drift = np.linspace(1, 10, 15)
    p = paired(10 * drift, 9 * drift)
    assert p.ratio == pytest.approx(0.9) and p.low == pytest.approx(p.high) and p.faster
    assert (p.base_ms, p.ms) == (pytest.approx(55), pytest.approx(49.5))


def test_no_gain_without_certainty():
    assert not paired([10.0] * 15, [10.0] * 15).faster
    assert not paired([10.0] * 7, [1.0] * 7).faster  # too few
    k = rank(15)
    assert paired([10.0] * 15, [9.0] * (16 - k) + [11.0] * (k - 1)).faster
    assert not paired([10.0] * 15, [9.0] * (15 - k) + [11.0] * k).faster
