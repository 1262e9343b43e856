"""The list of passes, and running them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from functools import partial
from typing import TextIO

from ..ir.aliases import overwritten
from ..ir.diagnostics import CompileError, ours
from ..ir.graph import Program
from .passes.choose import choose
from .passes.clean import clean
from .passes.experts import experts, schedule_experts
from .passes.fold import fold_layers
from .passes.fuse_epilogues import fuse_epilogues
from .passes.fuse_projections import fuse_projections
from .passes.hoist import dequantize_rest, dequantize_weights, hoist
from .passes.legalize import legalize
from .passes.memory import check_fits, plan_memory, weights_bytes
from .passes.pack_panels import pack_panels
from .passes.precision import precision
from .passes.quantize import quantize_weights
from .passes.raise_activation import raise_activation
from .passes.raise_attention import raise_attention
from .passes.raise_cache import raise_cache
from .passes.raise_linear import raise_linear
from .passes.raise_moe import raise_moe
from .passes.raise_norm import raise_norm
from .passes.raise_quantized import raise_quantized, split_offsets
from .passes.raise_rotary import raise_rotary
from .passes.registry import Decision, Pass, Rewrite
from .passes.routing import keep_experts, keep_routing
from .passes.sink_masks import sink_masks
from .plan import Guard, Note, Plan, Variant
from .task import Task

PASSES: tuple[Pass, ...] = (
    keep_routing,
    raise_moe,
    keep_experts,
    fold_layers,
    clean,
    sink_masks,
    dequantize_weights,
    raise_linear,
    quantize_weights,
    raise_quantized,
    dequantize_rest,
    raise_norm,
    raise_rotary,
    raise_attention,
    raise_cache,
    raise_activation,
    clean,
    precision,
    fuse_projections,
    split_offsets,
    clean,
    pack_panels,
    experts,
    fuse_epilogues,
    legalize,
    hoist,
    clean,
    choose,
    schedule_experts,
    plan_memory,
)
OnPass = Callable[[str, int, int], None]


def compile_program(
    program: Program, task: Task, *, verify_each: bool = False, print_after: Collection[str] = (),
    stop_after: str | None = None, on_pass: OnPass | None = None, passes: tuple[Pass, ...] = PASSES,
    out: TextIO | None = None,
) -> Plan:  # fmt: skip
    """Runs the passes in order: a program with a plan for the task's machine and backend.

    verify_each: checks the program between all passes, not only at the ends.
    print_after: passes after which the program is printed to `out` (standard error).
    stop_after:  the pass after whose last run to stop, for looking at what it gives.
    on_pass:     is told (name, index, how many) before each pass.
    Raises: CompileError where the program cannot be compiled for this task; VerifyError on one that is no program.
    """
    _check_names(passes, (*print_after, *([stop_after] if stop_after else ())))
    check_fits(weights_bytes(program), task, "the weights alone take")
    _verify(program)
    plan = _plan(program, task)
    names = [p.name for p in passes]
    end = len(names) - names[::-1].index(stop_after) if stop_after else len(names)
    for index, step in enumerate(passes[:end]):
        if on_pass is not None:
            on_pass(step.name, index, end)
        with ours(partial(_text, plan)):
            plan = _run(step, plan, task, names[:index])
        if step.name in print_after:
            _print(plan, step.name, out or sys.stderr)
        if verify_each or index == end - 1:
            with ours(partial(_text, plan)):
                _verify(plan.program)
    return plan


def _plan(program: Program, task: Task) -> Plan:
    entries = {name: (Variant(Guard(), name),) for name in program.entries}
    aliases = {name: found for name in program.entries if (found := overwritten(program, name))}
    return Plan(program, entries, task.capabilities.backend, task.machine.target, aliases=aliases)


def _run(step: Pass, plan: Plan, task: Task, before: Collection[str]) -> Plan:
    if isinstance(step, Decision):
        missing = [n for n in step.needs if n not in before]
        assert not missing, f"pass {step.name} needs {', '.join(missing)} before it"
        return step(plan, task)
    if step.optimizes and not task.fuse:
        return plan
    done = step(plan.program, task)
    picks = tuple(dict.fromkeys((*plan.picks, *done.picks)))
    return plan.replace(program=done.program, notes=_merge(plan.notes, done.notes), picks=picks)


def _merge(notes: tuple[Note, ...], more: tuple[Note, ...]) -> tuple[Note, ...]:
    """Notes with those of a pass that runs again added up; what it declined twice is said once."""
    found = {(n.pass_name, n.text, n.where): n for n in notes}
    for note in more:
        key = (note.pass_name, note.text, note.where)
        if key in found and " declined: " not in note.text:
            note = Note(note.pass_name, note.text, note.where, found[key].times + note.times)
        found[key] = note
    return tuple(found.values())


def _check_names(passes: tuple[Pass, ...], wanted: Collection[str]) -> None:
    known = list(dict.fromkeys(p.name for p in passes))
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise CompileError(f"there is no pass {', '.join(unknown)}", hint=f"the passes are {', '.join(known)}")


def _verify(program: Program) -> None:
    from ..ir.verify import verify

    verify(program)


def _text(plan: Plan) -> str:
    from ..ir.text import to_text

    return to_text(plan.program)


def _print(plan: Plan, name: str, out: TextIO) -> None:
    out.write(f"# after {name}\n{_text(plan)}\n")
    if name in plan.decisions:
        out.writelines(f"# {name} {key}: {value}\n" for key, value in plan.decisions[name].items())


def pass_names(passes: tuple[Pass, ...] = PASSES) -> tuple[str, ...]:
    """The passes' names in order, each once."""
    return tuple(dict.fromkeys(p.name for p in passes))


__all__ = ["PASSES", "Decision", "Rewrite", "compile_program", "pass_names"]
