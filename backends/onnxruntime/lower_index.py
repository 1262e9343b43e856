"""Ops that look things up."""

from __future__ import annotations

from ...ir.diagnostics import BuildError
from ...ir.dtypes import f16, f32
from ...ir.graph import Node
from .emit import Emit
from .lower import STANDARD, lowers


@lowers(STANDARD, "gather")
def _gather(to: Emit, node: Node) -> str:
    return to("Gather", *node.inputs, axis=node.attrs["axis"])


@lowers(STANDARD, "gather_elements")
def _gather_elements(to: Emit, node: Node) -> str:
    return to("GatherElements", *node.inputs, axis=node.attrs["axis"])


@lowers(STANDARD, "topk")
def _topk(to: Emit, node: Node) -> list[str]:
    a = node.attrs
    result: list[str] = to(
        "TopK", node.inputs[0], to.ints(a["k"]), outputs=2, axis=a["axis"], largest=int(a["largest"]), sorted=1
    )
    return result


@lowers(STANDARD, "scatter_elements")
def _scatter_elements(to: Emit, node: Node) -> str:
    """ONNX Runtime does not add or multiply in f16 here."""
    axis, reduction, dtype = node.attrs["axis"], node.attrs["reduction"], node.output.type.dtype
    if reduction in ("max", "min") and to.opset < 18:
        raise BuildError(
            f"scatter_elements: opset {to.opset} has no reduction {reduction!r}", where=node.where,
            hint="ask for opset 18",
        )  # fmt: skip
    if reduction == "none":
        return to("ScatterElements", *node.inputs, axis=axis)
    if dtype != f16 or reduction in ("max", "min"):
        return to("ScatterElements", *node.inputs, axis=axis, reduction=reduction)
    x, indices, updates = node.inputs
    wide = to("ScatterElements", to.cast(x, f32), indices, to.cast(updates, f32), axis=axis, reduction=reduction)
    return to.cast(wide, f16)
