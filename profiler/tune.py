"""Measures what the compiler may choose, one choice at a time, and writes the table that it reads.

Coordinate descent by the time of the whole model: each option is built, and run in turn with the best so far, in
processes of their own. It takes the place of the best only where it is faster with 99% confidence, twice, in fresh
processes, and by more than two processes of one and the same bundle differ. Every result is in the table's file
before the next is begun, so a run that is stopped goes on where it was.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ..backends.manifest import read_manifest
from ..compiler.tuning import WHOLE, Answer, Choice, Pick, Site, Table
from ..compiler.tuning_file import Chip, Entry, Trial, add, read_table
from ..ir.diagnostics import BuildError
from .candidates import Builders, Job, Outcome
from .duel import Duel, Ring, Side, duel
from .host_lock import measuring_alone
from .paired import Paired
from .report.progress import Progress

FASTER, NOT_FASTER, SAME, WRONG, CANNOT = "faster", "not faster", "same files", "wrong numbers", "cannot"
ALONE, MOST_PROMISING = "alone", 2  # the `base` of kernels timed by themselves; so many of a place go into a model
FLOOR, ALL = Choice("floor", ("same",), at_run=True), Choice("all", ("together",), at_run=True)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is tuned, at one size.

    picks: what the compiler chooses, given a table. inputs: of each run that is timed.
    prepare: saves the program under a folder, builds the default at the second path and records its answers; gives a
    job that lacks options and place. bundle: in its place, a bundle whose files stay as they are.
    alone: times options of a place by themselves, the first against the others, until a moment; see `alone.alone`.
    """

    name: str
    model: str
    sizes: Mapping[str, int]
    dtype: str
    threads: int | None
    engine: str
    chip: Chip
    inputs: Mapping[str, np.ndarray]
    picks: Callable[[Table], tuple[Pick, ...]]
    prepare: Callable[[Path, Path, Builders], Job] | None = None
    bundle: Path | None = None
    alone: Callable[[Site, Sequence[str], float], Mapping[str, Paired]] | None = None

    def pick(self, choice: Choice) -> Pick:
        """A row of the whole model that is no choice of the compiler's."""
        return Pick(choice, Site(choice.name, WHOLE, self.model, self.dtype), choice.options[0])


Options = dict[Site, str]


@dataclass
class Tuner:
    """One search. place: the table's file. folder: for candidates, removed by the caller. compare: holds a duel."""

    subject: Subject
    place: Path
    folder: Path
    builders: Builders
    ring: Ring
    deadline: float
    progress: Progress
    compare: Callable[[Side, Side, Mapping[str, np.ndarray], str, Ring, float], Duel] = duel
    best: Options = field(default_factory=dict)  # what differs from the defaults
    gains: dict[Site, float] = field(default_factory=dict)  # time with it over time with the default, the whole model
    measured: dict[Site, dict[str, float]] = field(default_factory=dict)
    done: dict[tuple[Site, str], Trial] = field(default_factory=dict)
    beaten: set[tuple[Site, str]] = field(default_factory=set)  # options that another was faster than
    choices: dict[Site, Choice] = field(default_factory=dict)  # all that were offered so far
    known: dict[tuple[object, ...], Trial] = field(default_factory=dict)  # those of earlier runs too
    spent_s: list[float] = field(default_factory=list)
    stopped: bool = False
    job: Job | None = None
    promising: dict[Site, tuple[str, ...]] = field(default_factory=dict)  # of choices whose options are timed alone

    def run(self) -> dict[str, Any]:
        """Searches until all is measured or the time is up. Rows of what was measured, and the gain of all together."""
        self.known = {_key(t): t for t in self._trials()}
        self._look()
        self._alone()
        while pending := self._pending():
            logged = self.known.get(self._key(*pending[0]))
            if logged is not None:
                self._take(pending[0][0], logged)
                continue
            if self._late():
                break
            self._measure_some(pending)
            if self.stopped:
                break
        total = self._confirm()
        self._write_entries()
        return self._result(total)

    def _look(self) -> None:
        """What the compiler chooses with the best so far, and what else it could."""
        self.picks = self.subject.picks(Table({site: Answer(option) for site, option in self.best.items()}))
        self.choices |= {p.site: p.choice for p in self.picks}

    # -- what is left --------------------------------------------------------------------------------

    def _pending(self) -> list[tuple[Pick, str]]:
        """Options that were not measured, in order: what needs no build first."""
        picks = sorted(dict.fromkeys(self.picks), key=lambda p: not p.choice.at_run)
        picks = [p for p in picks if not (p.choice.name == "threads" and self.subject.threads)]
        over = {*self.done, *self.beaten}
        return [(p, o) for p in picks for o in self._options(p) if o != p.option and (p.site, o) not in over]

    def _options(self, pick: Pick) -> tuple[str, ...]:
        return self.promising.get(pick.site, ()) if pick.choice.alone else pick.choice.options

    def _late(self) -> bool:
        """Whether the next candidate would end after the time is up."""
        usual = sum(self.spent_s) / len(self.spent_s) if self.spent_s else 0.0
        self.stopped = time.monotonic() + usual > self.deadline
        return self.stopped

    def _say(self, text: str) -> None:
        left, past = len(self._pending()), len(self.done)
        seconds = f", about {left * sum(self.spent_s) / len(self.spent_s):.0f} s left" if self.spent_s and left else ""
        self.progress(f"{past} of {past + left} measured{seconds}: {text}", past / max(1, past + left))

    # -- kernels by themselves -----------------------------------------------------------------------

    def _alone(self) -> None:
        """Of choices that have many options, those that are faster by themselves than the first one."""
        picks = [p for p in dict.fromkeys(self.picks) if p.choice.alone] if self.subject.alone else []
        for i, pick in enumerate(picks):
            what = f"kernel {i + 1} of {len(picks)} alone: {pick.site}"
            found = self._timed_alone(pick, [o for o in pick.choice.options[1:] if ", " not in o], what)
            found |= self._timed_alone(pick, _joined(found, pick.choice.options), f"{what}, changes together")
            won = sorted((o for o, t in found.items() if t.verdict == FASTER), key=lambda o: found[o].ratio or 1.0)
            self.promising[pick.site] = tuple(won[:MOST_PROMISING])
            if self.stopped:
                return

    def _timed_alone(self, pick: Pick, options: Sequence[str], what: str) -> dict[str, Trial]:
        """Those measured before are taken from the table."""
        usual, found = replace(pick, option=pick.choice.options[0]), dict[str, Trial]()
        keys = {o: self._key(usual, o, base=ALONE) for o in options}
        found = {o: self.known[k] for o, k in keys.items() if k in self.known}
        left = [o for o in options if o not in found]
        if not left or self.stopped or self.subject.alone is None:
            return found
        with measuring_alone(self._say) as waited_s:
            self.deadline += waited_s
            self._say(what)
            times = self.subject.alone(pick.site, [usual.option, *left], self.deadline)
        self.stopped = not times
        made = {o: self._trial(usual, o, Duel(t), base=ALONE) for o, t in times.items()}
        self.known |= {_key(t): t for t in made.values()}
        add(self.place, self.subject.chip, list(made.values()))
        return found | made

    # -- building and measuring ----------------------------------------------------------------------

    def _measure_some(self, pending: list[tuple[Pick, str]]) -> None:
        """As many candidates as are built at a time: built together, then measured one after the other.

        Nothing is built while something is measured. After one that is taken, the others would lack it: they are left.
        """
        begun = time.monotonic()
        first = [(p, o) for p, o in pending if p.choice.at_run == pending[0][0].choice.at_run]
        some = [c for c in first[: self.builders.width] if self._key(*c) not in self.known]
        self._say(", ".join(f"{p.site}: {o}" for p, o in some))
        outcomes = self._built([self._with(p.site, o) for p, o in some])
        built_s = (time.monotonic() - begun) / len(some)
        for (pick, option), outcome in zip(some, outcomes, strict=True):
            if self.spent_s and self._late():
                return
            begun = time.monotonic()
            trial = self._tried(pick, option, outcome)
            if trial is None:
                self.stopped = True
                return
            self.known[_key(trial)] = trial
            add(self.place, self.subject.chip, [trial])
            self.spent_s.append(time.monotonic() - begun + built_s)
            if self._take(pick, trial):
                return

    def _tried(self, pick: Pick, option: str, outcome: Outcome) -> Trial | None:
        """A candidate against the best; None where the time was up before that was known."""
        if outcome.problem:
            return self._trial(pick, option, Duel(None, problem=outcome.problem, wrong=outcome.wrong))
        base, other = self._side(self.best), self._side(self._with(pick.site, option))
        if base == other or (base.run == other.run and _files(base.path) == _files(other.path)):
            return self._trial(pick, option, Duel(None), verdict=SAME)
        floor = self._floor()
        if floor is None:
            return None
        held: list[Duel] = []
        for what in ("", ", once more in fresh processes"):
            held.append(self._duel(base, other, f"{pick.site}: {option}{what}"))
            times = held[-1].times
            if times is None:
                return None if held[-1].cut else self._trial(pick, option, held[-1])
            if times.high >= 1 - floor:
                return self._trial(pick, option, held[-1], verdict=NOT_FASTER)
        return self._trial(pick, option, max(held, key=lambda d: d.times.ratio if d.times else 0.0))

    def _duel(self, base: Side, other: Side, what: str) -> Duel:
        with measuring_alone(self._say) as waited_s:
            self.deadline += waited_s
            self._say(what)
            return self.compare(base, other, self.subject.inputs, self.subject.dtype, self.ring, self.deadline)

    def _floor(self) -> float | None:
        """By how much two processes of one bundle differ, measured once: a gain must exceed it.

        None where the time was up before that was known.
        """
        pick = self.subject.pick(FLOOR)
        key = self._key(pick, "same", base="")
        if key not in self.known:
            side = self._side({})
            held = self._duel(side, side, "the default against itself")
            if held.cut:
                return None
            trial = self._trial(pick, "same", held, base="", verdict=SAME)
            self.known[key] = trial
            add(self.place, self.subject.chip, [trial])
        ratio = self.known[key].ratio
        return abs(1 - ratio) if ratio is not None else 0.0

    def _confirm(self) -> Trial | None:
        """All that was chosen against the defaults; where it is no faster together, nothing of it stays.

        None where nothing was chosen, or no time is left.
        """
        if not self.best or self.stopped:
            return None
        pick = self.subject.pick(ALL)
        trial = self.known.get(self._key(pick, "together"))
        if trial is None:
            self._built([self.best])
            held = self._duel(self._side({}), self._side(self.best), "all against the defaults")
            if held.cut:
                self.stopped = True
                return None
            trial = self._trial(pick, "together", held)
            add(self.place, self.subject.chip, [trial])
        if trial.verdict != FASTER:
            self.best.clear()
            self.gains.clear()
        return trial

    # -- candidates ----------------------------------------------------------------------------------

    def _with(self, site: Site, option: str) -> Options:
        changed = {**self.best, site: option}
        return {s: o for s, o in changed.items() if self.choices[s].options[0] != o}

    def _at_run(self) -> dict[Site, Choice]:
        return {site: choice for site, choice in self.choices.items() if choice.at_run}

    def _side(self, options: Options) -> Side:
        sites = self._at_run()
        run = {choice.name: options.get(site, choice.options[0]) for site, choice in sites.items()}
        return Side(self._path(options), run, self.subject.threads)

    def _in_files(self, options: Options) -> tuple[tuple[str, str, str, str, str], ...]:
        """The options that need a build, as a job has them."""
        sites = self._at_run()
        rows = ((s.choice, s.pattern, s.shape, s.dtype, o) for s, o in options.items() if s not in sites)
        return tuple(sorted(rows))

    def _path(self, options: Options) -> Path:
        if self.subject.bundle is not None:
            return self.subject.bundle
        return self.folder / f"{_digest(self._in_files(options))}.tundish"

    def _built(self, wanted: list[Options]) -> list[Outcome]:
        """Builds those that are not there; the folders of candidates that lost are removed first."""
        if self.subject.prepare is None:
            return [Outcome()] * len(wanted)
        if self.job is None:
            self.job = self.subject.prepare(self.folder, self._path({}), self.builders)
        job = self.job
        keep = {self._path(o) for o in ({}, self.best, *wanted)}
        for path in self.folder.glob("*.tundish"):
            if path not in keep:
                shutil.rmtree(path)
        missing = {self._path(o): o for o in wanted if not self._path(o).exists()}
        jobs = [replace(job, out=str(path), options=self._in_files(o)) for path, o in missing.items()]
        made = dict(zip(missing, self.builders.build_all(jobs), strict=True))
        base = self._path(self.best)
        if not base.exists():  # of a run that goes on
            (again,) = self.builders.build_all([replace(job, out=str(base), options=self._in_files(self.best))])
            if again.problem:
                raise BuildError(f"{self.subject.name} could be built before: {again.problem}")
        return [made.get(self._path(o), Outcome()) for o in wanted]

    # -- results -------------------------------------------------------------------------------------

    def _take(self, pick: Pick, trial: Trial) -> bool:
        """Notes a trial; where it was faster, it is the best from now on."""
        site, option = pick.site, trial.option
        self.done[site, option] = trial
        before = self.gains.get(site, 1.0)
        if trial.ratio is not None:
            self.measured.setdefault(site, {})[option] = before * trial.ratio
        taken = trial.verdict == FASTER
        if taken:
            assert trial.ratio is not None
            self.gains[site] = before * trial.ratio
            self.beaten.add((site, trial.against))
            self.best = self._with(site, option)
            self._look()
        if trial.verdict in (FASTER, NOT_FASTER):
            add(self.place, self.subject.chip, entries=[self._entry(site)])
        return taken

    def _write_entries(self) -> None:
        add(self.place, self.subject.chip, entries=[self._entry(site) for site in self.measured])

    def _entry(self, site: Site) -> Entry:
        s, option = self.subject, self.best.get(site) or self.choices[site].options[0]
        return Entry(
            s.engine, site.choice, site.pattern, site.shape, site.dtype, option, self.gains.get(site, 1.0),
            self.measured.get(site, {}), s.name, dict(s.sizes), datetime.date.today().isoformat(),
        )  # fmt: skip

    def _trial(
        self, pick: Pick, option: str, held: Duel, *, base: str | None = None, verdict: str | None = None
    ) -> Trial:
        s, t = self.subject, held.times
        if verdict is None:
            verdict = (WRONG if held.wrong else CANNOT) if t is None else FASTER if t.faster else NOT_FASTER
        row = Trial(
            s.engine, s.model, dict(s.sizes), s.threads, s.dtype, self._base() if base is None else base,
            pick.site.choice, pick.site.pattern, pick.site.shape, pick.site.dtype, option, pick.option, verdict,
            held.problem or held.note, dropped=held.dropped,
        )  # fmt: skip
        if t is None:
            return row
        return msgspec.structs.replace(
            row, ms=t.ms, base_ms=t.base_ms, ratio=t.ratio, low=t.low, high=t.high, rounds=t.rounds
        )

    def _base(self) -> str:
        return _digest(sorted((str(site), option) for site, option in self.best.items()))

    def _key(self, pick: Pick, option: str, base: str | None = None) -> tuple[object, ...]:
        return _key(self._trial(pick, option, Duel(None), base=base))

    def _trials(self) -> list[Trial]:
        return read_table(self.place).trials if self.place.exists() else []

    def _result(self, total: Trial | None) -> dict[str, Any]:
        s = self.subject
        rows = [
            {"choice": t.choice, "pattern": t.pattern, "shape": t.shape, "dtype": t.dtype, "option": t.option,
             "against": t.against, "verdict": t.verdict, "ms": t.ms, "against_ms": t.base_ms, "ratio": t.ratio,
             "low": t.low, "high": t.high, "rounds": t.rounds, "dropped_rounds": t.dropped, "reason": t.reason}
            for t in self.done.values()
        ]  # fmt: skip
        chosen = [{"site": str(site), "option": o, "ratio": self.gains.get(site, 1.0)} for site, o in self.best.items()]
        return {
            "model": s.name, "sizes": dict(s.sizes), "table": str(self.place), "engine": s.engine, "rows": rows,
            "chosen": chosen, "total": None if total is None else msgspec.to_builtins(total),
            "left": len(self._pending()), "complete": not self.stopped,
            "notes": _notes(self.place, chosen, total, self._pending() if self.stopped else [], s),
        }  # fmt: skip


def _joined(found: Mapping[str, Trial], options: Sequence[str]) -> list[str]:
    """What is made of two or more of the changes that won, each the best of its kind."""
    best: dict[str, str] = {}
    for option in sorted((o for o, t in found.items() if t.verdict == FASTER), key=lambda o: found[o].ratio or 1.0):
        best.setdefault(option.partition(" ")[0], option)
    won = set(best.values())
    return [o for o in options if ", " in o and set(o.split(", ")) <= won]


def _notes(
    place: Path, chosen: list[dict[str, Any]], total: Trial | None, left: list[Any], subject: Subject
) -> list[str]:
    """What a reader must know, in sentences."""
    lines = []
    if total is not None and total.ratio is not None:
        span = f"{total.low:.3f} to {total.high:.3f}"
        text = f"all that was chosen takes {total.ratio:.3f} of the default's time ({span})"
        lines.append(text if chosen else f"together it was no faster, so the defaults stay: {text}")
    elif not chosen:
        lines.append("nothing was measured to be faster than the default")
    if left:
        lines.append(f"the time was up with {len(left)} options left: run it again to go on")
    if subject.bundle is not None:
        lines.append("of a bundle only how it is opened was measured, and it stays as it is: compile the model again "
                     "to have what was chosen in it; tune the model to measure kernels and fusions too")  # fmt: skip
    return [*lines, f"the table is {place}"]


def _key(t: Trial) -> tuple[object, ...]:
    """What a trial must share with another to stand for it."""
    sizes = tuple(sorted(t.sizes.items()))
    return t.engine, t.model, sizes, t.threads, t.precision, t.base, t.site, t.option, t.against


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]


def _files(bundle: Path) -> dict[str, str]:
    """What runs in a bundle: the hash of each file but the plan's text, which tells of choices too."""
    return {name: entry.sha256 for name, entry in read_manifest(bundle).files.items() if not name.endswith(".txt")}
