"""Ops that look things up."""

from __future__ import annotations

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
    return to("ScatterElements", *node.inputs, axis=node.attrs["axis"])
