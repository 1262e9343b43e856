"""Interleaved rounds: every competitor once a round, in alternating order, until enough rounds were clean."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .quiet import Load, disturbance, wait_for_quiet

MOST = 3  # times the clean rounds that are wanted: the rounds after which it ends all the same
_PATIENCE_S = 1.0  # for a machine to come to rest before a round
_SLOWER = 50.0  # a slot may take so many times what it took while nobody else ran, and a minute


@dataclass(frozen=True, slots=True)
class Slot:
    """One competitor's part of a round. disturbance: `quiet.disturbance`; above 1, others had a part in its time."""

    ms: float
    disturbance: float

    @property
    def clean(self) -> bool:
        return self.disturbance <= 1.0


Round = Mapping[str, Slot]
Pair = tuple[Slot, Slot]  # of one round


class Runs(Protocol):
    """What a round asks of a competitor."""

    def run(self, limit_s: float) -> dict[str, Any]: ...


def race(
    workers: Mapping[str, tuple[Runs, float]], ours: str, wanted: int, threads: int, cpus: list[int],
    say: Callable[[str], None] = lambda text: None, *, most: int = MOST, patience_s: float = _PATIENCE_S,
    until: float = float("inf"), enough: Callable[[Sequence[Round]], bool] = lambda rounds: False,
) -> tuple[list[Round], dict[str, str]]:  # fmt: skip
    """(rounds, why those that ended did): until each competitor has `wanted` clean rounds, or `most` times as many ran.

    workers: each with the seconds that one run of it takes. until: by the monotonic clock, when to end all the same.
    enough: whether these rounds settle it.
    Raises: nothing for a competitor that ends.
    """
    rounds: list[Round] = []
    failed: dict[str, str] = {}
    names = list(workers)
    for i in range(most * wanted):
        clean = {n: _count_clean(rounds, n, ours) for n in names}
        over = ours in failed or time.monotonic() > until or enough(rounds)
        if over or min(clean.values(), default=wanted) >= wanted:
            break
        say(f"round {i + 1}, {min(clean.values())} of {wanted} clean")
        if patience_s:
            wait_for_quiet(cpus, patience_s)
        slots: dict[str, Slot] = {}
        for name in list(names) if i % 2 == 0 else list(reversed(names)):
            worker, run_s = workers[name]
            answer = worker.run(60.0 + _SLOWER * run_s)
            if "error" in answer:
                failed[name] = answer["error"]
                names.remove(name)
            else:
                slots[name] = Slot(answer["ms"], disturbance(Load(**answer["load"]), threads))
        rounds.append(slots)
    return rounds, failed


def _pairs(rounds: Sequence[Round], name: str, ours: str) -> list[Pair]:
    return [(r[name], r[ours]) for r in rounds if name in r and ours in r]


def _count_clean(rounds: Sequence[Round], name: str, ours: str) -> int:
    return sum(a.clean and b.clean for a, b in _pairs(rounds, name, ours))


def figures(rounds: Sequence[Round], name: str, ours: str, wanted: int) -> dict[str, Any]:
    """Medians, spreads and ratio of one competitor over the rounds that were clean for it and for ours.

    ratio: the median of the rounds' own ratios, theirs over ours; ratio_iqr: the distance between their quartiles.
    Where fewer than `wanted` were clean, over as many that were disturbed least, and `note` says so.
    """
    kept = chosen(_pairs(rounds, name, ours), wanted)
    own = np.percentile([a.ms for a, _ in kept.pairs], [25, 50, 75])
    ratio = np.percentile([a.ms / b.ms for a, b in kept.pairs], [25, 50, 75])
    return {
        "median_ms": float(own[1]), "iqr_ms": float(own[2] - own[0]), "ratio": float(ratio[1]),
        "ratio_iqr": float(ratio[2] - ratio[0]), "clean_rounds": kept.clean, "dropped_rounds": kept.dropped,
        "note": kept.note,
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Chosen:
    """The rounds that count, of two competitors: those that were clean for both, or the least disturbed. note: why."""

    pairs: Sequence[Pair]
    clean: int
    dropped: int
    note: str = ""


def chosen(pairs: Sequence[Pair], wanted: int) -> Chosen:
    """The clean ones; where fewer than `wanted` are, as many that were disturbed least."""
    clean = [p for p in pairs if p[0].clean and p[1].clean]
    dropped = len(pairs) - len(clean)
    if len(clean) >= min(wanted, len(pairs)):
        return Chosen(clean, len(clean), dropped)
    least = sorted(pairs, key=lambda p: max(p[0].disturbance, p[1].disturbance))[:wanted]
    note = (f"the machine was busy elsewhere: {len(clean)} of {len(pairs)} rounds were clean; "
            f"the figures are of the {len(least)} that were disturbed least")  # fmt: skip
    return Chosen(least, len(clean), dropped, note)
