"""The tuning table as a file: which one, read with every check, written whole."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ..ir.diagnostics import LoadError
from ..ir.weight_file import read_at_most, write_whole, writing
from .hardware.machine import Machine
from .tuning import Answer, Site, Table

SCHEMA = 1
PLACE = "TUNDISH_TUNING"
NONE = "none"
_LIMIT_BYTES = 64 << 20
_LONGEST = 300


class Chip(msgspec.Struct, frozen=True):
    """What a measurement holds for."""

    target: str
    arch: str
    name: str
    cores: int
    features: list[str]

    @staticmethod
    def of(machine: Machine) -> Chip:
        return Chip(machine.target, machine.arch, machine.name, machine.cores, sorted(machine.features))

    @property
    def file(self) -> str:
        """The name of its table in the cache."""
        digest = hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:8]
        words = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")[:40] or "chip"
        return f"{words}-{self.cores}-{digest}.json"

    def __str__(self) -> str:
        return f"{self.name}, {self.cores} cores, {self.target}"


class Trial(msgspec.Struct, frozen=True):
    """One option measured against the best before it, in one model.

    model, sizes, threads, precision: what was run; base: digest of the options that both runs had.
    verdict: `faster`, `not faster`, `same files`, `wrong numbers` or `cannot`; reason: in words.
    ms, base_ms: medians. ratio: ms over base_ms, the median over rounds; low, high: its 99% interval.
    """

    engine: str
    model: str
    sizes: dict[str, int]
    threads: int | None
    precision: str
    base: str
    choice: str
    pattern: str
    shape: str
    dtype: str
    option: str
    against: str
    verdict: str
    reason: str = ""
    ms: float | None = None
    base_ms: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int = 0
    dropped: int = 0

    @property
    def site(self) -> Site:
        return Site(self.choice, self.pattern, self.shape, self.dtype)


class Entry(msgspec.Struct, frozen=True):
    """What the compiler reads: the option for a place. The rest says where it comes from.

    engine: the backend with its version. ratio: of the whole model's time to that with the default option.
    measured: option -> that ratio, for those that were measured.
    """

    engine: str
    choice: str
    pattern: str
    shape: str
    dtype: str
    option: str
    ratio: float
    measured: dict[str, float]
    model: str
    sizes: dict[str, int]
    date: str

    @property
    def site(self) -> Site:
        return Site(self.choice, self.pattern, self.shape, self.dtype)


class TableFile(msgspec.Struct, frozen=True):
    """entries: for the compiler, at most one for a place and engine. trials: for a tuner that goes on."""

    schema: int
    chip: Chip
    entries: list[Entry]
    trials: list[Trial]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The table of a compilation, and where it came from; `file` None is none at all."""

    table: Table
    file: Path | None = None
    note: str = ""

    @property
    def info(self) -> dict[str, object] | None:
        """What the manifest says of it: nothing that differs between machines' folders or between dates."""
        return {"sha256": self.table.digest, "answers": len(self.table.answers)} if self.table.answers else None


def engine_of(name: str, versions: Mapping[str, str]) -> str:
    """A backend with the versions that its measurements hold for."""
    return ", ".join([name, *(f"{library} {version}" for library, version in sorted(versions.items()))])


def default_place(chip: Chip) -> Path | None:
    """`$TUNDISH_TUNING` (a file, or `none`), else one file for each chip under the XDG cache."""
    named = os.environ.get(PLACE)
    if named:
        return None if named == NONE else Path(named)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "tundish" / "tuning" / chip.file


def choose_table(asked: str | Path | None, machine: Machine, engine: str, *, only: bool = True) -> Chosen:
    """The table that `--tuning` asks for: a file, `none`, or None for the default place, where none need be.

    Raises: LoadError where it is broken, newer, or has nothing for this version of the backend.
    One of another chip, and a default one that was measured with other versions, is left out with a note; so is a
    named one that has nothing for this backend, where it is not the only one that compiles.
    """
    chip = Chip.of(machine)
    if asked is not None and str(asked) == NONE:
        return Chosen(Table())
    place = Path(asked) if asked is not None else default_place(chip)
    named = asked is not None or bool(os.environ.get(PLACE))
    if place is None or (asked is None and not place.exists()):
        return Chosen(Table())
    found = read_table(place)
    if found.chip != chip:
        return Chosen(Table(), place, f"the tuning table {place.name} was measured on another chip ({found.chip}; "
                                      f"this is {chip}) and was left out; run `tundish tune` here")  # fmt: skip
    table = answers(found, engine)
    if table.answers or not found.entries:
        return Chosen(table, place)
    others = ", ".join(sorted({e.engine for e in found.entries}))
    if named and only:
        raise LoadError(f"the tuning table {place.name} has nothing for {engine}", found=others,
                        hint="run `tundish tune` again, or compile with --tuning none")  # fmt: skip
    return Chosen(Table(), place, f"the tuning table is for {others} and was left out; run `tundish tune` again")


def answers(file: TableFile, engine: str) -> Table:
    """What the compiler reads of a file."""
    return Table({e.site: Answer(e.option, e.ratio) for e in file.entries if e.engine == engine})


def read_table(path: Path) -> TableFile:
    """Raises: LoadError, one line, on whatever is no table of this version."""
    try:
        raw = read_at_most(path, _LIMIT_BYTES)
    except OSError as error:
        raise LoadError(f"cannot read the tuning table {path.name}: {error.strerror}",
                        hint="run `tundish tune`, or compile with --tuning none") from error  # fmt: skip
    if len(raw) > _LIMIT_BYTES:
        raise LoadError(f"{path.name} is too large to be a tuning table")
    try:
        schema = msgspec.json.decode(raw, type=_Schema).schema
        if schema > SCHEMA:
            raise LoadError(f"the tuning table {path.name} was made by a newer tundish",
                            found=f"schema {schema}, this one reads up to {SCHEMA}", hint="update tundish")  # fmt: skip
        table = msgspec.json.decode(raw, type=TableFile)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _broken(path, str(error)) from error
    problem = f"there is no schema {schema}" if schema != SCHEMA else next(_problems(table), None)
    if problem:
        raise _broken(path, problem)
    return table


def check_chip(path: Path, table: TableFile, chip: Chip) -> None:
    """Raises: LoadError where a table was measured on another chip."""
    if table.chip != chip:
        raise LoadError(f"the tuning table {path.name} was measured on another chip", found=str(table.chip),
                        hint=f"this is {chip}; run `tundish tune` here, or compile with --tuning none")  # fmt: skip


class _Schema(msgspec.Struct):
    schema: int


def _broken(path: Path, found: str) -> LoadError:
    return LoadError(f"{path.name} is no tuning table, or a broken one", found=found[:_LONGEST],
                     hint="remove it and run `tundish tune` again, or compile with --tuning none")  # fmt: skip


def _problems(table: TableFile) -> Iterator[str]:
    seen: set[tuple[str, Site]] = set()
    for entry in table.entries:
        if (entry.engine, entry.site) in seen:
            yield f"{entry.site} stands twice"
        seen.add((entry.engine, entry.site))
        if not all(math.isfinite(r) and r > 0 for r in (entry.ratio, *entry.measured.values())):
            yield f"{entry.site} has a ratio that is none"
    rows: list[Entry | Trial] = [*table.entries, *table.trials]
    for row in rows:
        words = (row.engine, row.choice, row.pattern, row.shape, row.dtype, row.option)
        if not all(w and len(w) <= _LONGEST and w.isprintable() for w in words):
            yield "a name is empty, too long or not printable"


def add(path: Path, chip: Chip, trials: Sequence[Trial] = (), entries: Sequence[Entry] = ()) -> TableFile:
    """Writes a file with more rows, whole or not at all; an entry takes the place of the one before it.

    Raises: LoadError where what is there is no table of this chip; BuildError where it cannot be written.
    """
    found = read_table(path) if path.exists() else TableFile(SCHEMA, chip, [], [])
    check_chip(path, found, chip)
    merged = {(e.engine, e.site): e for e in (*found.entries, *entries)}
    table = TableFile(SCHEMA, chip, [merged[k] for k in sorted(merged)], [*found.trials, *trials])
    with writing(path.name):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, msgspec.json.format(msgspec.json.encode(table), indent=1) + b"\n")
    return table
