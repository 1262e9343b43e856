"""The table of lowerings: op -> what it calls."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from ...ir import ops  # noqa: F401  (fills OPS)
from ...ir.dtypes import bf16, f32
from ...ir.graph import Node
from ...ir.op import OPS
from .family import Family, Lowering

PARTS = "parts"  # what a lowering gives back that emitted nothing: the op's own `decompose` is taken
LOWERINGS: dict[str, Lowering] = {}
STRUCTURE = frozenset({"weight", "constant", "dim_value", "call", "fused"})  # the walk's own
DECLINED = {
    name: "it moves data between devices; a plan for this backend runs on one"
    for name in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")
} | dict.fromkeys(
    ("quantize", "quantize_scale", "to_panels", "to_quads", "from_quads", "to_expert_panels", "to_expert_quads",
     "from_expert_quads"),
    "it is done to weights when a program is built, never in a run",
)  # fmt: skip


def lowers(*names: str) -> Callable[[Lowering], Lowering]:
    """Enters a lowering under the names of the ops it takes."""

    def enter(function: Lowering) -> Lowering:
        for name in names:
            if name in LOWERINGS:
                raise AssertionError(f"{name} is lowered twice")
            LOWERINGS[name] = function
        return function

    return enter


@lru_cache
def table() -> dict[str, Lowering]:
    from . import (  # noqa: F401
        lower_attention,
        lower_cache,
        lower_elementwise,
        lower_experts,
        lower_index,
        lower_matmul,
        lower_move,
        lower_norm,
        lower_product,
        lower_quads,
        lower_reduce,
    )  # fmt: skip

    return LOWERINGS


@lru_cache
def cpus() -> Family:
    """The lowerings for CPUs."""
    from . import lower_product, lower_quads
    from .lower_attention import attend

    products = {"panel_linear": lower_product.product, "quad_linear": lower_quads.product}

    def anchors(node: Node) -> bool:
        return node.op.name == "quad_linear" or lower_product.takes(node)

    def product(to: Any, node: Node, *others: Any) -> None:
        products[node.op.name](to, node, *others)

    return Family(table(), frozenset({f32}), frozenset({f32, bf16}), anchors, product, attend)


def decomposed() -> frozenset[str]:
    """The ops that go through their own `decompose`."""
    return frozenset(n for n, op in OPS.items() if op.decompose and n not in table() and n not in STRUCTURE)


def declined() -> dict[str, str]:
    """The ops that are not taken, with the reason."""
    taken = {*table(), *decomposed(), *STRUCTURE}
    return {n: DECLINED.get(n, "no kernel is written for it yet") for n in OPS if n not in taken}
