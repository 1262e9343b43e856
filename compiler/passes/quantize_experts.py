"""Experts' matrices into groups of few bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...ir.graph import Node, Value
from ..rewriting import RuleBuilder
from ..task import Task
from .stored import BITS, takes

GROUPS = (128, 64, 32)  # numbers that share a scale: the first that divides a matrix's rows
SCHEME = "centred"


def group_of(k: Any, task: Task) -> int | None:
    """How many numbers along k share a scale, None where no group fits."""
    bits = BITS[task.precision.blocks]
    return next((g for g in GROUPS if isinstance(k, int) and k % g == 0 and takes(task, bits, g, SCHEME)), None)


def why_not(node: Node, static: set[Value], task: Task) -> str | None:
    """Why the experts of a `moe` node are left as they are."""
    up, down = node.inputs[3:5]
    assert up is not None and down is not None
    if "quantized_moe" not in task.capabilities.ops:
        return f"{task.capabilities.backend} has no kernel for them"
    if up not in static or down not in static:
        return "they are no weights"
    for k in (up.type.shape[1], down.type.shape[1]):
        if group_of(k, task) is None:
            return f"no group of {', '.join(map(str, GROUPS))} divides their {k} features"
    return None


def spoken(node: Node, task: Task) -> str:
    (e, d, _), (_, f, _) = (v.type.shape for v in node.inputs[3:5] if v is not None)
    groups = dict.fromkeys(str(group_of(k, task)) for k in (d, f))
    return f"{e} experts' weights in {task.precision.blocks}, groups of {' and '.join(groups)}"


def quantized_experts(b: RuleBuilder, node: Node, made_by: Mapping[Value, Node], task: Task) -> Value:
    """The `moe` node on numbers of few bits."""
    x, indices, weights, up, down, *biases = node.inputs
    assert up is not None and down is not None
    bits, groups = BITS[task.precision.blocks], [group_of(v.type.shape[1], task) for v in (up, down)]
    held = zip((up, down), groups, strict=True)
    parts = [p for v, group in held for p in _numbers(b, _rows(b, v, made_by), bits, group)]
    return b.emit(
        "quantized_moe", x, indices, weights, *parts, *biases, bits=bits, group=groups[0], inner_group=groups[1],
        activation=node.attrs["activation"], x_bits=task.capabilities.x_bits,
    )  # fmt: skip


def _rows(b: RuleBuilder, w: Value, made_by: Mapping[Value, Node]) -> Value:
    """Matrices [e, k, n] as [e, n, k], which they are mostly a transpose of."""
    maker = made_by.get(w)
    if maker is not None and maker.op.name == "transpose" and maker.attrs["perm"] == (0, 2, 1):
        return b.present(maker.inputs[0])  # type: ignore[arg-type]
    return b.emit("transpose", w, perm=(0, 2, 1))


def _numbers(b: RuleBuilder, w: Value, bits: int, group: int | None) -> tuple[Value, Value]:
    """The numbers of matrices [e, n, k], and their scales: each expert's outputs are rows of one matrix."""
    e, n, k = w.type.shape
    assert isinstance(k, int) and group is not None
    rows = b.emit("reshape", w, shape=(e * n, k))
    scale = b.emit("quantize_scale", rows, bits=bits, group=group)
    q = b.emit("quantize", rows, scale, bits=bits, group=group)
    return b.emit("reshape", q, shape=(e, n, k)), b.emit("reshape", scale, shape=(e, n, k // group))
