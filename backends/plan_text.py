"""A plan as text: the program, then the decisions as comments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..compiler.plan import Plan
from ..ir.diagnostics import LoadError
from ..ir.weights import Stored, leaves
from .base import WEIGHTS

if TYPE_CHECKING:
    from ..ir.graph import Program


def plan_text(plan: Plan) -> str:
    """The program in its text form, followed by entries and decisions in `#` lines. Parses as the program."""
    from ..ir.text import to_text

    lines = [f"# backend {plan.backend}, target {plan.target}"]
    for entry, variants in plan.entries.items():
        for v in variants:
            guard = f" when {v.guard.symbol} {v.guard.op} {v.guard.value}" if v.guard.symbol else ""
            lines.append(f"# entry {entry}: {v.function}{guard}")
    for name in sorted(plan.decisions):
        lines += [f"# decision {name}{line}" for line in _decision(plan.decisions[name])]
    return to_text(plan.program).rstrip("\n") + "\n\n" + "\n".join(lines) + "\n"


def read_program(path: Path) -> Program:
    """The program in a file of such text, verified; its weights lie in the bundle's own file.

    Raises: LoadError, or another TundishError naming the line.
    """
    from ..ir.text import from_text
    from ..ir.verify import verify

    try:
        program = from_text(path.read_text(encoding="utf-8"), origin=path.name)
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise LoadError(f"{path.name} cannot be read as a program", found=str(error)) from error
    for name, weight in program.weights.items():
        for leaf in leaves(weight):
            if not isinstance(leaf.source, Stored) or leaf.source.file != WEIGHTS:
                raise LoadError(f"{path.name}: weight {name!r} does not lie in {WEIGHTS}")
    return verify(program)


def _decision(decision: Any) -> Iterator[str]:
    """One line per choice of a mapping, one in all for anything else."""
    if isinstance(decision, Mapping):
        yield from (f" {key}: {value}" for key, value in decision.items())
    else:
        yield f": {decision}"
