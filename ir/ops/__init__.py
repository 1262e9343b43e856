"""The op definitions, one family a file. Importing this fills `ir.op.OPS`."""

from . import (
    attention,
    cache,
    collective,
    contract,
    elementwise,
    index,
    logic,
    moe,
    norm,
    quantize,
    reduce,
    shape,
    structure,
)

__all__ = [
    "attention", "cache", "collective", "contract", "elementwise", "index", "logic", "moe", "norm", "quantize",
    "reduce", "shape", "structure",
]  # fmt: skip
