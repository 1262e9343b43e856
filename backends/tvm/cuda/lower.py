"""The lowerings for GPUs: those for CPUs, and others for products and attention."""

from __future__ import annotations

from functools import lru_cache

from ....ir.dtypes import bf16, f16, f32
from ....ir.op import OPS
from ..family import Family, Lowering
from ..lower import STRUCTURE, decomposed, table
from .lower_attention import attend
from .lower_product import panel_linear, product, takes

NONE_YET = frozenset({
    "quad_linear", "quad_gather", "quantized_matmul", "quantized_gather", "panel_moe", "quad_moe", "quantized_moe",
})  # fmt: skip
KINDS = frozenset({f32, bf16, f16})


@lru_cache
def gpus_table() -> dict[str, Lowering]:
    own: dict[str, Lowering] = {"panel_linear": panel_linear}
    return {**{n: lowering for n, lowering in table().items() if n not in NONE_YET}, **own}


@lru_cache
def gpus() -> Family:
    """The lowerings for GPUs."""
    return Family(gpus_table(), KINDS, KINDS, takes, product, attend)


def taken() -> tuple[frozenset[str], frozenset[str], dict[str, str]]:
    """The ops that are lowered, those that go through their own `decompose`, those that are not taken, and why."""
    ops, apart = frozenset(gpus_table()) | STRUCTURE, decomposed()
    left = {n: "no kernel of it is written for GPUs yet" for n in OPS if n not in ops and n not in apart}
    return ops, apart, left
