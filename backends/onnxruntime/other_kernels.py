"""Other lowerings of ops, which are taken where `tundish tune` measured them to be faster than the usual one."""

from __future__ import annotations

from ...ir.dtypes import DTYPES
from ...ir.graph import Node
from .emit import Emit
from .lower import STANDARD, another
from .lower_attention import LOWEST, POSITION, _all, _attention_23, _band, _full, _mask, _no_filter, _optional
from .lower_shape import one


@another("attention", "products")
def _products(to: Emit, node: Node) -> str:
    """Two matrix products and a softmax."""
    return str(STANDARD["attention"](to, node))


@another("attention", "multi_head")
def _multi_head(to: Emit, node: Node) -> str:
    """ONNX Runtime's MultiHeadAttention, in f32, where each query head has its own keys; else the usual kernel.

    A row whose bias forbids everything would give it the average of the values, so 0 is put there, as our op says.
    """
    (b, s, h, d), (_, t, g, _), (_, _, _, e) = (one(node, i).type.shape for i in range(3))
    mask, bias, sinks = (_optional(node, i) for i in (3, 4, 5))
    a, dtype = node.attrs, one(node).type.dtype
    if g != h or sinks is not None or a["softcap"] or dtype != DTYPES["f32"]:
        return str(_attention_23(to, node))
    shapes = [one(node, i).type.shape for i in range(3)]
    flat = [to.reshape(one(node, i), x, (x[0], x[1], h * x[3])) for i, x in enumerate(shapes)]
    placed = _optional(node, POSITION) is not None
    own_band = a["causal"] and not a["window"] and s == t and mask is None and not placed
    allowed = _all(to, _mask(to, mask), _band(to, node, a["causal"] and not own_band, a["window"]))
    added = None if bias is None else _full(to, _no_filter(to, bias), node, bias)
    if allowed is not None:
        allowed = _full(to, allowed, node, mask)
        free = to.scalar(0.0, dtype) if added is None else added
        added = to("Where", allowed, free, to.scalar(LOWEST["f32"], dtype))
    out = to.ms(
        "MultiHeadAttention", *flat, None, None, added, num_heads=h, scale=a["scale"], mask_filter_value=LOWEST["f32"],
        unidirectional=1 if own_band else None,
    )  # fmt: skip
    out = to.reshape(out, (b, s, h * e), (b, s, h, e))
    if allowed is None:
        return str(out)
    seen = to("ReduceMax", to.cast(allowed, DTYPES["i32"]), to.ints(3), since=18, keepdims=1)
    seen = to.transpose(to.cast(seen, DTYPES["bool"]), 0, 2, 1, 3)  # [b, s, heads or 1, 1]
    return str(to("Where", seen, out, to.scalar(0.0, dtype)))


@another("rotary", "simple")
def _rotary(to: Emit, node: Node) -> str:
    """Splits, products and sums."""
    return str(STANDARD["rotary"](to, node))


@another("silu", "sigmoid_mul")
def _silu(to: Emit, node: Node) -> str:
    return str(STANDARD["silu"](to, node))
