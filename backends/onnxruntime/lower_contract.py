"""Matrix products."""

from __future__ import annotations

from ...ir.graph import Node
from .emit import Emit
from .lower import STANDARD, lowers


@lowers(STANDARD, "matmul")
def _matmul(to: Emit, node: Node) -> str:
    return to("MatMul", *node.inputs)


@lowers(STANDARD, "linear")
def _linear(to: Emit, node: Node) -> str:
    x, weight, *bias = node.inputs
    y = to("MatMul", x, weight)
    return to("Add", y, bias[0]) if bias and bias[0] is not None else y
