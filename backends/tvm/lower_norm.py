"""Norms."""

from __future__ import annotations

from ...ir.graph import Node
from .emit import NAMES, Emit
from .kernels.norm import norm
from .lower import PARTS, lowers


@lowers("layer_norm", "rms_norm")
def _norm(to: Emit, node: Node) -> object:
    d = to.view(node.inputs[0]).shape[-1]
    if not isinstance(d, int):
        return PARTS
    given = [to.array(v) for v in node.inputs if v is not None]
    centred = node.op.name == "layer_norm"
    made = to.roundable(node)
    static = {"d": d, "eps": node.attrs["eps"], "lanes": to.lanes, "centred": centred, "biased": len(given) == 3,
              "dtype": NAMES[given[0].dtype.name], "outs": tuple(NAMES[y.dtype.name] for y in made)}  # fmt: skip
    to.call(norm, static, given, made, [node.output.type.elements // d])
    return None
