"""Norms."""

from __future__ import annotations

from ...ir.graph import Node
from .emit import Emit
from .kernels.norm import norm
from .lower import lowers


@lowers("layer_norm", "rms_norm")
def _norm(to: Emit, node: Node) -> None:
    given = [to.array(v) for v in node.inputs if v is not None]
    d = given[0].shape[-1]
    centred = node.op.name == "layer_norm"
    static = {"d": d, "eps": node.attrs["eps"], "lanes": to.lanes, "centred": centred, "biased": len(given) == 3}
    to.call(norm, static, given, [to.result(node)], [node.output.type.elements // d])
