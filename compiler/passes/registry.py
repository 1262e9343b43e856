"""What a pass is: a rewrite of programs or a decision on plans, with a name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Union

from ...ir.graph import Program
from ..plan import Plan
from ..rewriting import Rewritten
from ..task import Task

RewriteFn = Callable[[Program, Task], Rewritten]
DecisionFn = Callable[[Plan, Task], Plan]


@dataclass(frozen=True, slots=True)
class Rewrite:
    """Program -> Program with notes. `optimizes`: may be left out without harm (`Task.fuse` False leaves it out)."""

    name: str
    run: RewriteFn
    optimizes: bool = False

    def __call__(self, program: Program, task: Task) -> Rewritten:
        return self.run(program, task)


@dataclass(frozen=True, slots=True)
class Decision:
    """Plan -> Plan. `needs` names the passes that must have run before; it is checked, not solved."""

    name: str
    run: DecisionFn
    needs: tuple[str, ...] = ()

    def __call__(self, plan: Plan, task: Task) -> Plan:
        return self.run(plan, task)


Pass = Union[Rewrite, Decision]


def rewrite(name: str, *, optimizes: bool = False) -> Callable[[RewriteFn], Rewrite]:
    """Makes a rewrite of a function."""
    return lambda run: Rewrite(name, run, optimizes)


def decision(name: str, *, needs: tuple[str, ...] = ()) -> Callable[[DecisionFn], Decision]:
    """Makes a decision of a function."""
    return lambda run: Decision(name, run, needs)
