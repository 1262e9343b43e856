"""The op definitions, one family a file. Importing this fills `ir.op.OPS`."""

from . import attention, contract, elementwise, index, norm, reduce, shape, structure

__all__ = ["attention", "contract", "elementwise", "index", "norm", "reduce", "shape", "structure"]
