"""What a backend offers in several ways: which of its kernels computes a node, and how a bundle is opened."""

from __future__ import annotations

from collections.abc import Mapping

from ...ir.graph import Graph
from ..plan import Note, Plan
from ..rewriting import Event, notes_of
from ..task import Task
from ..tuning import WHOLE, Choice, Pick, node_dtype, shape_class
from .registry import decision

KERNELS, RUN = "kernels", "run"  # the decisions: (function, node) -> kernel; what is set -> value


@decision("choose", needs=("legalize",))
def choose(plan: Plan, task: Task) -> Plan:
    """Decides only what differs from the usual, so that an empty table leaves the plan as it is."""
    kernels, inside, notes = _kernels(plan.program.functions, task)
    run, whole = _run(task)
    said = [Note("choose", f"{p.choice.name} is {p.option}{p.why}") for p in whole if p.answer]
    picks = tuple(dict.fromkeys((*plan.picks, *inside, *whole)))
    decisions = {key: value for key, value in ((KERNELS, kernels), (RUN, run)) if value}
    return plan.replace(
        picks=picks, decisions={**plan.decisions, **decisions},
        notes=(*plan.notes, *notes_of(plan.program, "choose", notes), *said),
    )  # fmt: skip


def _kernels(functions: Mapping[str, Graph], task: Task) -> tuple[
    dict[tuple[str, str], str], list[Pick], dict[str, list[Event]]
]:  # fmt: skip
    """The kernels of all nodes outside of fused bodies, of which the backend has several."""
    bodies = {n.attrs["function"] for g in functions.values() for n in g.nodes if n.op.name == "fused"}
    kernels: dict[tuple[str, str], str] = {}
    picks: list[Pick] = []
    events: dict[str, list[Event]] = {}
    for name in functions if task.fuse else ():
        for node in functions[name].nodes if name not in bodies else ():
            options = task.capabilities.kernels.get(node.op.name, ())
            if len(options) < 2:
                continue
            choice = Choice("kernel", options, alone=node.op.name in task.capabilities.alone)
            pick = task.tuning.pick(choice, node.op.name, shape_class(node), node_dtype(node))
            picks.append(pick)
            if not pick.usual:
                kernels[name, node.outputs[0].name] = pick.option
            if pick.answer:
                text = f"{node.op.name} runs as {pick.option}{pick.why}"
                events.setdefault(name, []).append(Event(text, node.where))
    return kernels, picks, events


def _run(task: Task) -> tuple[dict[str, str], list[Pick]]:
    """What is set when the bundle is opened; nothing is asked where the model has no key."""
    picks = [
        task.tuning.pick(choice, WHOLE, task.model, task.precision.compute)
        for choice in (task.capabilities.runs if task.model else ())
    ]
    return {p.choice.name: p.option for p in picks if not p.usual}, picks
