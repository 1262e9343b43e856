"""The table of lowerings, in layers: standard ONNX at opset 17, what later opsets bring, what ONNX Runtime adds.

`table(opset, portable)` lays them over each other. An op that no layer takes is lowered through its own `decompose`,
or stands in DECLINED with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Union

from ...ir import ops  # noqa: F401  (fills OPS)
from ...ir.graph import Node
from ...ir.op import OPS
from .emit import Emit

Names = Union[str, list[str], None]  # None: by its own `decompose`
Lowering = Callable[[Emit, Node], Names]
Table = dict[str, Lowering]

STANDARD: Table = {}  # standard operators, opset 17 and later
SINCE: dict[int, Table] = {18: {}, 20: {}, 23: {}}  # better forms that a later opset brings
FAST: Table = {}  # ONNX Runtime's own operators, where they are faster
OTHERS: dict[str, Table] = {}  # op -> other kernels for it, by name, for the tuner to measure against the usual one
USUAL = "usual"
OLDEST_OPSET, NEWEST_OPSET, DEFAULT_OPSET = 17, 24, 23

STRUCTURE = frozenset({"weight", "constant", "dim_value", "call", "fused"})  # emitted by the walk itself
DECLINED = {
    name: "it moves data between devices; a plan for this backend runs on one"
    for name in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send", "receive", "broadcast")
} | dict.fromkeys(("quantize", "quantize_scale", "to_panels", "to_quads", "to_expert_panels",
                   "to_expert_quads"), "it is done to weights when a program is built, never in a run") | {
    name: "it reads weights in the panels of another backend"
    for name in ("panel_linear", "panel_gather", "panel_moe", "quad_linear", "quad_gather", "quad_moe")
} | {
    "bitcast": "ONNX has it since opset 26, which ONNX Runtime does not run"
}


def lowers(table: Table, *names: str) -> Callable[[Lowering], Lowering]:
    """Enters a lowering under the names of the ops it takes."""

    def enter(function: Lowering) -> Lowering:
        for name in names:
            if name in table:
                raise AssertionError(f"{name} is lowered twice in one table")
            table[name] = function
        return function

    return enter


def another(op: str, kernel: str) -> Callable[[Lowering], Lowering]:
    """Enters one more lowering of an op, which is taken only where it was measured to be faster."""
    return lowers(OTHERS.setdefault(op, {}), kernel)


def kernels() -> dict[str, tuple[str, ...]]:
    """The names of the lowerings of each op that has several."""
    table()
    return {op: (USUAL, *others) for op, others in OTHERS.items()}


@lru_cache
def table(opset: int = DEFAULT_OPSET, portable: bool = False) -> Mapping[str, Lowering]:
    """Op name -> lowering at that opset; `portable` leaves out ONNX Runtime's own operators."""
    from . import (  # noqa: F401
        lower_attention,
        lower_cache,
        lower_contract,
        lower_conv,
        lower_elementwise,
        lower_experts,
        lower_index,
        lower_norm,
        lower_quantized,
        lower_reduce,
        lower_shape,
        other_kernels,
    )

    layers = [STANDARD, *(SINCE[v] for v in sorted(SINCE) if v <= opset), *([] if portable else [FAST])]
    return {name: function for layer in layers for name, function in layer.items()}


def decomposed(opset: int = DEFAULT_OPSET, portable: bool = False) -> frozenset[str]:
    """The ops that go through their own `decompose` at that opset."""
    lowered = table(opset, portable)
    left = {*lowered, *STRUCTURE, *DECLINED}
    return frozenset(n for n, op in OPS.items() if op.decompose and n not in left)


def declined(opset: int = DEFAULT_OPSET, portable: bool = False) -> dict[str, str]:
    """The ops that are not taken, with the reason."""
    taken = {*table(opset, portable), *decomposed(opset, portable), *STRUCTURE}
    return {n: DECLINED.get(n, "no lowering to ONNX is written") for n in OPS if n not in taken}
