"""Attention and rotary embedding.

From opset 23 on, attention is ONNX's `Attention` on [b, length, heads · size]: it groups heads itself, and a query
that may look at nothing gives 0 in ONNX Runtime, as our op says. Its band is aligned to the first key, ours to the
last, so it draws the band itself only where the lengths are equal. Earlier opsets get matrix products and a softmax.
"""

from __future__ import annotations

from ...ir import dims
from ...ir.dims import Dim
from ...ir.dtypes import i64
from ...ir.graph import Node, Value
from .emit import Emit
from .lower import SINCE, STANDARD, lowers
from .lower_shape import one

POSITION = 6  # among the inputs of attention


def _optional(node: Node, index: int) -> Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _positions(to: Emit, length: Dim, offset: Dim, *shape: int) -> str:
    ends = to.sizes.scalar(offset), to.sizes.scalar(offset + length)
    return to("Reshape", to("Range", *ends, to.scalar(1, i64)), to.ints(*shape))


def _band(to: Emit, node: Node, causal: bool, window: int) -> str | None:
    """Which keys causality and the window let each query see; None is all.

    Bool [s, t], or [b, 1, s, t] where rows have positions of their own.
    """
    if not causal and not window:
        return None
    s, t, own = one(node).type.shape[1], one(node, 1).type.shape[1], _optional(node, POSITION)
    rows = _positions(to, s, t - s if own is None else 0, -1, 1)
    if own is not None:
        rows = to("Add", to.reshape(to.cast(own, i64), own.type.shape, (*own.type.shape, 1, 1, 1)), rows)
    distance = to("Sub", rows, _positions(to, t, 0, 1, -1))
    parts = []
    if causal:
        parts.append(to("GreaterOrEqual", distance, to.scalar(0, i64)))
    if window:
        parts.append(to("Less", distance, to.scalar(window, i64)))
    if window and not causal:
        parts.append(to("Greater", distance, to.scalar(-window, i64)))
    return _all(to, *parts)


def _all(to: Emit, *parts: str | None) -> str | None:
    result = None
    for part in parts:
        if part is not None:
            result = part if result is None else to("And", result, part)
    return result


def _mask(to: Emit, mask: Value | None) -> str | None:
    """The mask input as one that broadcasts to [b, h, s, t]."""
    if mask is None:
        return None
    if mask.type.rank == 4:
        return to.name(mask)
    b, t = mask.type.shape
    return to.reshape(mask, (b, t), (b, 1, 1, t))


def _full(to: Emit, name: str, node: Node, mask: Value | None) -> str:
    """A mask whose last two axes are spelt out: the operator broadcasts only the first two."""
    s, t = one(node).type.shape[1], one(node, 1).type.shape[1]
    shape = mask.type.shape if mask is not None else (1, 1, s, t)
    if mask is not None and len(shape) == 4 and shape[2:] == (s, t):
        return name
    return to("Expand", name, to.sizes.shape((1, 1, s, t)))


@lowers(STANDARD, "attention")
def _attention(to: Emit, node: Node) -> str:
    q, k, v = (one(node, i) for i in range(3))
    mask, bias, sinks = (_optional(node, i) for i in (3, 4, 5))
    a, dtype = node.attrs, q.type.dtype
    scores = to("MatMul", to.transpose(q, 0, 2, 1, 3), _keys(to, k, q, 0, 2, 3, 1))
    scores = to("Mul", scores, to.scalar(a["scale"], dtype))
    if a["softcap"]:
        cap = to.scalar(a["softcap"], dtype)
        scores = to("Mul", to("Tanh", to("Div", scores, cap)), cap)
    if bias is not None:
        scores = to("Add", scores, bias)
    allowed = _all(to, _mask(to, mask), _band(to, node, a["causal"], a["window"]))
    if allowed is not None:
        scores = to("Where", allowed, scores, to.scalar(LOWEST[dtype.name], dtype))
    weights = to("Softmax", scores, axis=-1) if sinks is None else _with_sinks(to, scores, sinks, node)
    if allowed is not None:  # a row of lowest values alone would give an average
        weights = to("Where", allowed, weights, to.scalar(0.0, dtype))
    out = to("MatMul", weights, _keys(to, v, q, 0, 2, 1, 3))
    return to.transpose(out, 0, 2, 1, 3)


LOWEST = {"f32": -3.4028235e38, "f64": -1.7976931348623157e308, "f16": -65504.0, "bf16": -3.3895314e38}


def _keys(to: Emit, x: Value, q: Value, *perm: int) -> str:
    """Keys or values with every head that the queries have, transposed."""
    b, t, g, d = x.type.shape
    repeat = dims.floordiv(q.type.shape[2], g)
    name = to.name(x)
    if repeat != 1:
        name = to.reshape(name, (b, t, g, d), (b, t, g, 1, d))
        name = to("Expand", name, to.sizes.shape((1, 1, 1, repeat, 1)))
        name = to.reshape(name, (b, t, g, repeat, d), (b, t, g * repeat, d))
    return to.transpose(name, *perm)


def _with_sinks(to: Emit, scores: str, sinks: Value, node: Node) -> str:
    """Softmax with one more logit per head that takes weight and gives nothing."""
    b, s, h, _ = one(node).type.shape
    t = one(node, 1).type.shape[1]
    column = to.reshape(sinks, (h,), (1, h, 1, 1))
    column = to("Expand", column, to.sizes.shape((b, 1, s, 1)))
    weights = to("Softmax", to("Concat", scores, column, axis=-1), axis=-1)
    return to("Slice", weights, to.ints(0), to.sizes.vector(t), to.ints(3), to.ints(1))


def _no_filter(to: Emit, bias: Value) -> str:
    """The bias without f32's least number, which the operator takes for -inf: a row of it alone would give 0."""
    if bias.type.dtype.name != "f32":
        return to.name(bias)
    least, nearly = (to.scalar(x, bias.type.dtype) for x in (LOWEST["f32"], 0.99 * LOWEST["f32"]))
    return str(to("Where", to("Equal", bias, least), nearly, bias))


@lowers(SINCE[23], "attention")
def _attention_23(to: Emit, node: Node) -> str:
    (b, s, h, d), (_, t, g, _), (_, _, _, e) = (one(node, i).type.shape for i in range(3))
    mask, bias, sinks = (_optional(node, i) for i in (3, 4, 5))
    a = node.attrs
    if sinks is not None or a["softcap"]:
        return str(_attention(to, node))
    heads = [(h, d), (g, d), (g, e)]
    flat = [
        to.reshape(one(node, i), one(node, i).type.shape, (*one(node, i).type.shape[:2], n * size))
        for i, (n, size) in enumerate(heads)
    ]
    own_band = a["causal"] and not a["window"] and s == t and _optional(node, POSITION) is None
    allowed = _all(to, _mask(to, mask), _band(to, node, a["causal"] and not own_band, a["window"]))
    final: str | None
    if bias is not None:
        final = _no_filter(to, bias)
        if allowed is not None:
            final = to("Where", allowed, final, to.scalar(float("-inf"), bias.type.dtype))
        final = _full(to, final, node, bias if allowed is None else None)
    else:
        final = None if allowed is None else _full(to, allowed, node, mask)
    out = to(
        "Attention", *flat, final, since=23, q_num_heads=h, kv_num_heads=g, scale=a["scale"],
        is_causal=1 if own_band else None,
    )  # fmt: skip
    return to.reshape(out, (b, s, h * e), (b, s, h, e))


@lowers(STANDARD, "rotary")
def _rotary(to: Emit, node: Node) -> str:
    x, cos, sin = (one(node, i) for i in range(3))
    (b, s, h, d), r = x.type.shape, cos.type.shape[-1]
    head, tail = to.name(x), None
    if r != d:
        head, tail = _part(to, x, 0, r), _part(to, x, r, d)
    if node.attrs["interleaved"]:
        pairs = to.reshape(head, (b, s, h, r), (b, s, h, r // 2, 2))
        first, second = to("Split", pairs, to.ints(1, 1), outputs=2, axis=-1)
        turned = to.reshape(
            to("Concat", to("Neg", second), first, axis=-1), (b, s, h, r // 2, 2), (b, s, h, r)
        )
    else:
        first, second = to("Split", head, to.sizes.shape((r // 2, r // 2)), outputs=2, axis=-1)
        turned = to("Concat", to("Neg", second), first, axis=-1)
    wide_cos, wide_sin = (
        to.reshape(y, y.type.shape, (*y.type.shape[:2], 1, r)) for y in (cos, sin)
    )
    y = to("Add", to("Mul", head, wide_cos), to("Mul", turned, wide_sin))
    return y if tail is None else to("Concat", y, tail, axis=-1)


def _part(to: Emit, x: str | Value, start: Dim, stop: Dim, step: int = 1) -> str:
    """A slice of the last axis."""
    ends = to.sizes.vector(start), to.sizes.vector(stop)
    return to("Slice", x, *ends, to.ints(-1), to.ints(step))


@lowers(SINCE[23], "rotary")
def _rotary_23(to: Emit, node: Node) -> str:
    """The operator takes one cosine per pair; ours holds both members, which are equal."""
    x, cos, sin = (one(node, i) for i in range(3))
    (b, s, h, d), r = x.type.shape, cos.type.shape[-1]
    if d % 2 or not isinstance(r, int) or not isinstance(h, int):
        return str(_rotary(to, node))
    interleaved = node.attrs["interleaved"]
    tables = []
    for y in (cos, sin):
        half = _part(to, y, 0, r, 2) if interleaved else _part(to, y, 0, r // 2)
        if y.type.shape[0] != b:
            half = to("Expand", half, to.sizes.shape((b, 1, 1)))
        tables.append(half)
    flat = to.reshape(x, (b, s, h, d), (b, s, h * d))
    out = to(
        "RotaryEmbedding", flat, *tables, since=23, num_heads=h, interleaved=int(interleaved),
        rotary_embedding_dim=r if r != d else None,
    )  # fmt: skip
    return to.reshape(out, (b, s, h * d), (b, s, h, d))
