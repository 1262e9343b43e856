"""Repeated layers become one function, called once for each."""

from __future__ import annotations

from ...ir.diagnostics import Where
from ...ir.graph import Program
from ..plan import Note
from ..rewriting import Rewritten, call_counts
from ..task import Task
from .registry import rewrite


@rewrite("fold")
def fold_layers(program: Program, task: Task) -> Rewritten:
    """See `ir/fold.py`: what repeats is found by structure, never by names."""
    from ...ir.fold import fold

    folded = fold(program)
    runs = call_counts(folded)
    notes = tuple(
        Note("fold", f"{name} is one function, called {runs[name]} times", _first_place(folded, name))
        for name in folded.functions
        if name not in program.functions and runs[name] > 1
    )
    return Rewritten(folded, notes)


def _first_place(program: Program, name: str) -> Where | None:
    nodes = program.functions[name].nodes
    return nodes[0].where if nodes else None
