"""What recorded routing says of each layer of experts, kept where decisions are."""

from __future__ import annotations

from ...ir.walk import steps
from ..plan import Note, Plan
from ..task import Task
from .registry import decision

_TOKENS = (1, 8, 64)  # of a run, for which notes say how many experts are reached


@decision("routing")
def keep_routing(plan: Plan, task: Task) -> Plan:
    """Notes each layer's skew, and how many different experts some tokens in a row reach; nothing without a record.

    plan.decisions["routing"]: the layer's module -> experts, k, max_over_mean, kept, and reached: (tokens, experts).
    """
    if task.routing is None:
        return plan
    where = {s.where.module: s.where for s in steps(plan.program)}
    kept, notes = {}, []
    for layer in task.routing.layers:
        kept[layer.module] = {
            "experts": layer.experts, "k": layer.k, "max_over_mean": round(layer.max_over_mean, 4),
            "kept": round(layer.kept, 4), "reached": [(n, round(r, 4)) for n, r in layer.reached],
        }  # fmt: skip
        reached = ", ".join(f"{n} tokens {layer.distinct(n):.1f}" for n in _TOKENS)
        text = (f"the hottest of {layer.experts} experts is chosen {layer.max_over_mean:.2f} times as often as the "
                f"mean; different experts that tokens in a row reach: {reached}")  # fmt: skip
        notes.append(Note("routing", text, where.get(layer.module)))
    return plan.decide("routing", kept, *notes)
