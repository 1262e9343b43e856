"""Attention over a cache that stays in place: ONNX Runtime's GroupQueryAttention.

Its past and present may be one buffer, into which it writes the new keys and values. It takes several tokens of several
rows only where all caches are empty; `rows` runs them one by one elsewhere.
"""

from __future__ import annotations

from ...ir.dims import Dim
from ...ir.dtypes import DTYPES, f32, i64
from ...ir.graph import Node
from .emit import Emit
from .lower import FAST, Names, lowers
from .lower_attention import _no_filter, _optional
from .lower_shape import one

HEAD_MULTIPLE = 8  # of the size of a head, which it asks for


@lowers(FAST, "cached_attention")
def _cached_attention(to: Emit, node: Node) -> Names:
    q, k, v, key_cache, value_cache, position = (one(node, i) for i in range(6))
    bias, sinks = _optional(node, 6), _optional(node, 7)
    (b, s, h, d), (_, _, g, _), e = q.type.shape, k.type.shape, v.type.shape[3]
    if d != e or not isinstance(d, int) or d % HEAD_MULTIPLE or q.type.dtype != f32:
        return None
    flat = [to.reshape(x, x.type.shape, (b, s, n * d)) for x, n in ((q, h), (k, g), (v, g))]
    place = to.cast(position, i64)
    last = to("Add", place, to("Sub", to.sizes.scalar(s), to.scalar(1, i64)))
    total = to("Add", to("ReduceMax", place, keepdims=0), to.sizes.scalar(s))
    added = None
    if bias is not None:
        added = _seen(to, node, total)
    a, i32 = node.attrs, DTYPES["i32"]
    more = [None, None, None, added, sinks]
    y, keys, values = to.ms(
        "GroupQueryAttention", *flat, key_cache, value_cache, to.cast(last, i32), to.cast(total, i32), *more, outputs=3,
        num_heads=h, kv_num_heads=g, scale=a["scale"], local_window_size=a["window"] or None,
        softcap=a["softcap"] or None,
    )  # fmt: skip
    return [to.reshape(y, (b, s, h * d), (b, s, h, d)), keys, values]


@lowers(FAST, "cache_write")
def _cache_write(to: Emit, node: Node) -> Names:
    """ScatterND of whole rows, which writes into the buffer it is given where that is the cache's own."""
    cache, new, position = (one(node, i) for i in range(3))
    axis, shape = node.attrs["axis"], new.type.shape[: node.attrs["axis"] + 1]
    indices = []
    for i, size in enumerate(shape):
        own: list[Dim] = [1] * (axis + 1)
        own[i] = size
        at = to("Range", to.scalar(0, i64), to.sizes.scalar(size), to.scalar(1, i64))
        at = to.reshape(at, (size,), own)
        if i == axis:
            first = to.cast(position, i64)
            rows = position.type.shape
            at = to("Add", at, to.reshape(first, rows, (*rows, *[1] * axis) if rows else [1] * (axis + 1)))
        spread = to("Expand", at, to.sizes.shape(shape))
        indices.append(to.reshape(spread, shape, (*shape, 1)))
    return to("ScatterND", cache, to("Concat", *indices, axis=-1), new)


def _seen(to: Emit, node: Node, total: str) -> str:
    """The bias [.., .., s, t] of the places that are filled, its last two axes spelt out."""
    s, t = one(node).type.shape[1], one(node, 3).type.shape[2]
    value = one(node, 6)
    name = _no_filter(to, value)
    if value.type.shape[2:] != (s, t):
        name = to("Expand", name, to.sizes.shape((1, 1, s, t)))
    end = to.reshape(total, (), (1,))
    return str(to("Slice", name, to.ints(0), end, to.ints(3), to.ints(1)))
