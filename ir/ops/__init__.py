"""The op definitions, one family a file. Importing this fills `ir.op.OPS`."""

from . import (
    attention,
    bits,
    cache,
    collective,
    contract,
    conv,
    elementwise,
    index,
    logic,
    moe,
    norm,
    panels,
    quads,
    quantize,
    quantizing,
    reduce,
    shape,
    structure,
    trigonometry,
)

__all__ = [
    "attention", "bits", "cache", "collective", "contract", "conv", "elementwise", "index", "logic", "moe", "norm",
    "panels", "quads", "quantize", "quantizing", "reduce", "shape", "structure", "trigonometry",
]  # fmt: skip
