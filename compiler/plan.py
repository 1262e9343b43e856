"""A program with the decisions made for one machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..ir.diagnostics import Where
from ..ir.graph import Program
from .tuning import Pick


@dataclass(frozen=True, slots=True)
class Guard:
    """A comparison over symbols that must hold for a variant to run: `past == 0`, `tokens <= 16`.

    `op` is one of ==, <=, <, >=, >; an empty `symbol` always holds.
    """

    symbol: str = ""
    op: str = "=="
    value: int = 0


@dataclass(frozen=True, slots=True)
class Variant:
    """One body of an entry: the function to run when the guard holds."""

    guard: Guard
    function: str


@dataclass(frozen=True, slots=True)
class Note:
    """What a pass did, or declined to do, and where in the user's model. `times` counts repeats (calls expanded)."""

    pass_name: str
    text: str
    where: Where | None = None
    times: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """entries: name -> variants, of which the first whose guard holds runs.

    decisions: pass name -> what it decided, keyed inside by (function, call path, node) where it differs by node.
    picks: what passes chose that a tuner could choose otherwise, each place once.
    aliases: of an entry that writes over its inputs, output -> the input whose buffer it is. Noted before any pass: a
    write that is taken in parts still ends in that buffer, element by element.
    """

    program: Program
    entries: Mapping[str, tuple[Variant, ...]]
    backend: str
    target: str
    decisions: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    picks: tuple[Pick, ...] = ()
    aliases: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def replace(self, **changes: Any) -> Plan:
        return dataclasses.replace(self, **changes)

    def decide(self, name: str, decision: Any, *notes: Note) -> Plan:
        """A copy with one more decision."""
        return self.replace(
            decisions={**self.decisions, name: decision}, notes=(*self.notes, *notes)
        )
