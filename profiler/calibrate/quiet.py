"""Timing on a machine that others use too: what ran while it was busy elsewhere is known, and measured again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from ..quiet import between, others_share, read

_PROGRESS, _PATIENCE_S, _RUN_MOST_S = 0.01, 0.15, 0.12
BUSY_SHARE = 0.1  # of the cores that we use, taken by others: above it a sample is disturbed
_LEAST_WINDOW_S = 0.08  # /proc/stat counts in hundredths of a second
_ENOUGH = 3  # clean samples for a decile


@dataclass
class Watch:
    """Counts the samples of one calibration, and those that were disturbed."""

    cores: int
    samples: int = 0
    disturbed: int = 0
    cpus: frozenset[int] = field(default_factory=lambda: frozenset(os.sched_getaffinity(0)))

    @contextmanager
    def sample(self) -> Iterator[list[bool]]:
        """A window of timing; afterwards the list holds whether it was clean.

        Short windows are taken as clean, and all where the kernel tells nothing.
        """
        verdict: list[bool] = []
        before = read(self.cpus)
        yield verdict
        load = between(before, read(self.cpus))
        clean = load.wall_s < _LEAST_WINDOW_S or others_share(load, self.cores) <= BUSY_SHARE
        self.samples += 1
        self.disturbed += not clean
        verdict.append(clean)

    @property
    def disturbed_share(self) -> float:
        return self.disturbed / self.samples if self.samples else 0.0


@dataclass(frozen=True, slots=True)
class Timing:
    """seconds: the lower decile of the clean samples, or the least of all. spread: between the quartiles, relative."""

    seconds: float
    spread: float


def timing(samples: Sequence[tuple[float, bool]]) -> Timing:
    """Of (seconds, clean). A disturbance only adds time, so the low end is nearest to a quiet machine's median.

    >>> timing([(1.0, True), (1.0, True), (1.0, True), (9.0, False)]).seconds, timing([(2.0, False)]).seconds
    (1.0, 2.0)
    """
    clean = [s for s, fine in samples if fine]
    seconds = float(np.percentile(clean, 10)) if len(clean) >= _ENOUGH else min(s for s, _ in samples)
    low, high = np.percentile(clean or [s for s, _ in samples], [25, 75])
    return Timing(seconds, float((high - low) / seconds) if seconds > 0 else 0.0)


def best_of(run: Callable[[], float], least_runs: int, watch: Watch) -> tuple[float, float]:
    """The least of at least so many samples of `run`, and (median - least) / least.

    A short sample runs between two turns of the machine's other users, so that on a busy machine the best of many is a
    quiet machine's: it goes on until nothing has improved it for _PATIENCE_S, and for _RUN_MOST_S a run at most.
    """
    found: list[float] = []
    start = better = time.perf_counter()
    with watch.sample():
        while len(found) < least_runs or time.perf_counter() - better < _PATIENCE_S:
            found.append(run())
            now = time.perf_counter()
            if len(found) == 1 or found[-1] < (1 - _PROGRESS) * min(found[:-1]):
                better = now
            if now - start > _RUN_MOST_S * least_runs and len(found) >= least_runs:
                break
    least = min(found)
    return least, float(np.median(found) / least - 1) if least > 0 else 0.0
