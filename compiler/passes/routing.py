"""What recorded routing says of each layer of experts, kept where decisions are."""

from __future__ import annotations

from ...ir.diagnostics import CompileError, TundishError
from ...ir.dtypes import DTYPES
from ...ir.graph import Program
from ...ir.walk import steps
from ..experts.residency import plan_residency
from ..experts.routing import expert_layers
from ..plan import Note, Plan
from ..task import Task
from .registry import decision

_BITS = {"": 0, "int8": 8, "int4": 4}  # blocks -> bits of a number of an expert's matrices
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


@decision("residency", needs=("routing",))
def keep_experts(plan: Plan, task: Task) -> Plan:
    """Which experts stay in memory where not all may, and the bytes that each token then reads.

    plan.decisions["residency"]: `Residency.row`. Raises: CompileError with a number where it cannot work.
    """
    if task.expert_memory_bytes is None:
        return plan
    if task.routing is None:
        raise CompileError("which experts are to stay in memory is decided by what the routers choose",
                           hint="add --routing FILE, of `tundish profile MODEL --record-routing FILE`")  # fmt: skip
    each = expert_bytes(plan.program, task)
    try:
        found = plan_residency(task.routing, each, task.expert_memory_bytes)
    except TundishError as error:
        raise CompileError(error.problem, found=error.found, hint=error.hint) from error
    total = sum(layer.experts for layer in task.routing.layers)
    text = (f"{found.slots} of {total} experts of {each:,} bytes fit: by {found.policy}, {len(found.pinned)} of them "
            f"pinned, a token reads {found.bytes_per_token:,.0f} bytes; no policy reads less than "
            f"{found.least_bytes_per_token:,.0f}")  # fmt: skip
    return plan.decide("residency", found.row(), Note("residency", text))


def expert_bytes(program: Program, task: Task) -> int:
    """Bytes of the largest expert: its two matrices and biases, as they are held. Scales of few bits not counted."""
    bits = _BITS.get(task.precision.blocks, 0) or DTYPES[task.precision.weights].bits
    sizes = []
    for place in expert_layers(program):
        elements = [v.type.elements for v in place.node.inputs[3:] if v is not None]
        sizes.append(sum(e for e in elements if isinstance(e, int)) // place.experts)
    return max(sizes, default=0) * bits // 8
