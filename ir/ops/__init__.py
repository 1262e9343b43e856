"""The op definitions, one family a file. Importing this fills `ir.op.OPS`."""

from . import (
    attention,
    bits,
    cache,
    collective,
    contract,
    conv,
    elementwise,
    expert_panels,
    index,
    logic,
    moe,
    norm,
    panels,
    quads,
    quantize,
    quantized_experts,
    quantizing,
    reduce,
    shape,
    structure,
    trigonometry,
)

__all__ = [
    "attention", "bits", "cache", "collective", "contract", "conv", "elementwise", "expert_panels", "index", "logic",
    "moe", "norm", "panels", "quads", "quantize", "quantized_experts", "quantizing", "reduce", "shape", "structure",
    "trigonometry",
]  # fmt: skip
