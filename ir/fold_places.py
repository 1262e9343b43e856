"""One place for many: the module path of a body's node as a template, and what does not fit it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .diagnostics import Where
from .text_words import where_text
from .walk import at_index

Instances = tuple[Where, ...]  # one node's place in each instance


@dataclass(frozen=True, slots=True)
class Places:
    """The places of a folded layer.

    places:    of the body's nodes, `{i}` standing for the call's index.
    indices, elsewhere: the attributes of each call.
    calls:     the place of each call.
    name:      what holds the layers in the user's model ("" where they are not numbered there).
    """

    places: tuple[Where, ...]
    indices: tuple[int, ...]
    elsewhere: tuple[tuple[str, ...], ...]
    calls: Instances
    name: str


def templates(rows: Sequence[Instances]) -> Places:
    """rows: for each node of the body, its place in every instance."""
    count = len(rows[0])
    position, indices = _numbering(rows)
    made = [_template(row, position, indices) for row in rows]
    places, elsewhere = list(made), [dict[str, str]() for _ in range(count)]
    distinct: dict[Where, dict[Instances, Where]] = {}
    for n, (place, row) in enumerate(zip(made, rows, strict=True)):
        known = distinct.setdefault(place, {})
        if row not in known:  # nodes of one template may part ways in some call: then they need a place each
            mark = f"#{len(known)}" if known else ""
            known[row] = Where(place.file, place.line, place.module + mark)
        places[n] = known[row]
        for j, real in enumerate(row):
            if at_index(places[n], indices[j]) != real:
                elsewhere[j][where_text(places[n])] = where_text(real)
    return Places(
        tuple(places), indices, tuple(tuple(w for pair in e.items() for w in pair) for e in elsewhere),
        tuple(_call_place([row[j] for row in rows], position, indices[j]) for j in range(count)),
        _name(rows, position, indices),
    )  # fmt: skip


def _numbering(rows: Sequence[Instances]) -> tuple[int, tuple[int, ...]]:
    """(which part of the module paths counts the instances, the number of each); (-1, all -1) where none does.

    An instance of several layers bears the number of its first.
    """
    votes: Counter[tuple[int, tuple[int, ...]]] = Counter()
    for row in rows:
        paths = [w.module.split(".") for w in row]
        if len({len(p) for p in paths}) != 1:
            continue
        for position, parts in enumerate(zip(*paths, strict=True)):
            numbers = [_number(p) for p in parts]
            if len(set(parts)) > 1 and all(n >= 0 for n in numbers):
                votes[position, tuple(numbers)] += 1
                break
    if not votes:
        return -1, (-1,) * len(rows[0])
    position, most = min(votes, key=lambda v: (-votes[v], v))
    steps = [n - most[0] for n in most]
    parallel = (v for p, v in votes if p == position and [n - v[0] for n in v] == steps)
    return position, min(parallel)


def _number(part: str) -> int:
    return int(part) if re.fullmatch("0|[1-9][0-9]{0,8}", part, re.ASCII) else -1


def _template(row: Instances, position: int, indices: tuple[int, ...]) -> Where:
    """The first instance's place, its number replaced where it is one."""
    where = row[0]
    parts = where.module.split(".")
    if position < 0 or position >= len(parts) or len(set(row)) == 1:
        return where
    ahead = _number(parts[position]) - indices[0]
    if _number(parts[position]) < 0 or ahead < 0:
        return where
    parts[position] = f"{{i+{ahead}}}" if ahead else "{i}"
    return Where(where.file, where.line, ".".join(parts))


def _call_place(places: Sequence[Where], position: int, index: int) -> Where:
    """The first line of the instance, in the module that holds the instance."""
    for where in places:
        parts = where.module.split(".")
        if 0 <= position < len(parts) and parts[position] == str(index):
            return Where(where.file, where.line, ".".join(parts[: position + 1]))
    return places[0]


def _name(rows: Sequence[Instances], position: int, indices: tuple[int, ...]) -> str:
    for row in rows:
        parts = row[0].module.split(".")
        if 0 < position < len(parts) and parts[position] == str(indices[0]):
            return ".".join(parts[:position])
    return ""
