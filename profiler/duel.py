"""A candidate against the best so far: two processes in turn, round by round, and whether their answers agree."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.diagnostics import RunError
from .answers import ANSWER, Reference, difference, read_answer
from .paired import Paired, paired
from .rounds import Round, chosen, race
from .workers import Worker

BASE, OTHER = "base", "other"
_LIMIT_S = 600.0  # for a session to open, with the first run of a large model
OPENER, STEP_OPENER = (f"{__package__}.candidates:{name}" for name in ("opened", "opened_step"))


@dataclass(frozen=True, slots=True)
class Side:
    """A bundle and what is set at run time; threads None: as its options say.

    opener: how it is run, in `candidates`.
    """

    path: Path
    run: Mapping[str, str]
    threads: int | None
    opener: str = OPENER

    @property
    def busy(self) -> int:
        """On how many CPUs it works."""
        cores = len(os.sched_getaffinity(0))
        return min(cores, self.threads or int(self.run.get("threads", cores)))


@dataclass(frozen=True, slots=True)
class Duel:
    """times: of the rounds that count. dropped: rounds in which the machine was busy elsewhere, and that were left out.

    problem: why the other may not be chosen, be it faster or not. note: what a reader must know of the times.
    cut: the time was up before there were enough rounds.
    """

    times: Paired | None
    dropped: int = 0
    problem: str = ""
    wrong: bool = False
    note: str = ""
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Ring:
    """How duels are held.

    rounds: that count. most: times as many at most, where the machine is busy. patience_s: to wait for a quiet machine
    before a round. slot_s: for which each side runs in a round.
    """

    rounds: int = 15
    most: int = 2
    patience_s: float = 1.0
    slot_s: float = 0.25


USUAL = Ring()


def duel(
    base: Side, other: Side, inputs: Mapping[str, np.ndarray], dtype: str, ring: Ring, until: float = math.inf,
    *, proven: bool = False,
) -> Duel:  # fmt: skip
    """Runs both, each in a process of its own, until that moment of the monotonic clock at most.

    proven: both were held against an original, so that they are not against each other: each may be off its own way.
    Raises: RunError where the base itself does not run.
    """
    with tempfile.TemporaryDirectory(prefix="tundish-duel-") as name, ExitStack() as stack:
        folder = Path(name)
        np.savez(folder / "inputs.npz", allow_pickle=False, **inputs)
        workers: dict[str, tuple[Worker, float]] = {}
        for who, side in ((BASE, base), (OTHER, other)):
            worker = Worker({**_job(folder, who, side), "slot_s": ring.slot_s}, _LIMIT_S)
            stack.callback(worker.close)
            if "error" in worker.ready:
                return _failed(who, worker.ready["error"])
            workers[who] = worker, worker.ready["run_s"]
        before = Reference("the best before it", dict(read_answer(folder / BASE / ANSWER)))
        apart = difference(read_answer(folder / OTHER / ANSWER), before, inputs, dtype)
        if apart.problem and not proven:
            return Duel(None, problem=apart.problem, wrong=True)
        cpus = sorted(os.sched_getaffinity(0))
        ran, failed = race(workers, BASE, ring.rounds, max(base.busy, other.busy), cpus,
                           most=ring.most, patience_s=ring.patience_s, until=until, enough=hopeless)  # fmt: skip
        if failed:
            return _failed(*next(iter(failed.items())))
        return judged(ran, ring.rounds) if len(ran) >= ring.rounds or hopeless(ran) else Duel(None, cut=True)


def hopeless(ran: Sequence[Round]) -> bool:
    """Whether the other is surely slower: more rounds could not make it the best.

    To stop early for that makes no option win by chance.
    """
    return len(ran) > 0 and paired([r[BASE].ms for r in ran], [r[OTHER].ms for r in ran]).low > 1.0


def judged(ran: Sequence[Round], wanted: int) -> Duel:
    """The rounds that were clean; where fewer than wanted were, those that were disturbed least."""
    kept = chosen([(r[BASE], r[OTHER]) for r in ran], wanted)
    times = paired([base.ms for base, _ in kept.pairs], [other.ms for _, other in kept.pairs])
    return Duel(times, kept.dropped, note=kept.note)


def _failed(who: str, error: str) -> Duel:
    if who == BASE:
        raise RunError(f"the model cannot be timed: {error}")
    return Duel(None, problem=error)


def _job(folder: Path, who: str, side: Side) -> dict[str, Any]:
    own = folder / who
    own.mkdir()
    return {
        "kind": side.opener, "peer": who, "path": str(side.path), "threads": side.threads, "run": dict(side.run),
        "folder": str(own), "inputs": str(folder / "inputs.npz"), "answer": str(own / ANSWER),
    }  # fmt: skip
