"""Normalisations over the last axis."""

from __future__ import annotations

from ...ir.graph import Node
from .emit import Emit
from .lower import SINCE, STANDARD, lowers


@lowers(STANDARD, "layer_norm")
def _layer_norm(to: Emit, node: Node) -> str:
    return to("LayerNormalization", *node.inputs, axis=-1, epsilon=node.attrs["eps"], since=17)


@lowers(SINCE[23], "rms_norm")
def _rms_norm(to: Emit, node: Node) -> str:
    return to("RMSNormalization", *node.inputs, axis=-1, epsilon=node.attrs["eps"], since=23)


@lowers(STANDARD, "softmax")
def _softmax(to: Emit, node: Node) -> str:
    return to("Softmax", node.inputs[0], axis=node.attrs["axis"])
