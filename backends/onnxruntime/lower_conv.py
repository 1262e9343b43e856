"""Convolution."""

from __future__ import annotations

from ...ir.graph import Node
from .emit import Emit
from .lower import STANDARD, lowers


@lowers(STANDARD, "conv")
def _conv(to: Emit, node: Node) -> str:
    a = node.attrs
    none = (0,) * (node.output.type.rank - 2)
    y: str = to(
        "Conv", *node.inputs, strides=a["strides"] or None, dilations=a["dilations"] or None,
        pads=(*(a["before"] or none), *(a["after"] or none)), group=a["groups"],
    )  # fmt: skip
    return y
