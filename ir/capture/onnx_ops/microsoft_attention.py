"""ONNX Runtime's attention operators (com.microsoft), each as the one `attention` of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ... import dims
from ...diagnostics import CaptureError
from ...dims import Dim
from ...dtypes import boolean, i64
from ...ops.widen import as_type
from ..onnx_terms import Term, of_value
from .attention import attend, merged, rotated, split_heads, swapped, up_to
from .microsoft import absent, only
from .table import enters

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_onnx import Importer

TABLE: dict[str, Any] = {}
_OURS = "com.microsoft."


def _features(to: Importer, x: Value, sizes: tuple[Dim, ...]) -> list[Value]:
    """x cut along its last axis into pieces of these sizes."""
    start: Dim = 0
    pieces = []
    for size in sizes:
        pieces.append(to.emit("slice", x, axis=x.type.rank - 1, start=start, stop=start + size))
        start = start + size
    if start != x.type.shape[-1]:
        raise CaptureError(f"{to.op}: {x.type} does not hold pieces of {', '.join(map(str, sizes))}")
    return pieces


def _scale(to: Importer) -> float | None:
    """0 means 1 / sqrt(size of a head)."""
    return to.attr("scale", 0.0) or None


def _padding(to: Importer, i: int, q: Value, t: Dim) -> Value | None:
    """A mask of numbers, 0 where attention is not allowed, as a bias of `mask_filter_value` there.

    It is [b, t], [b, s, t] or [b], the number of real tokens of each row. Raises: CaptureError on other forms.
    """
    if not to.has(i):
        return None
    mask, (b, s) = to.value(i), q.type.shape[:2]
    if mask.type.shape == (b,):
        allowed = to.emit("reshape", up_to(to, as_type(to, mask, i64), t), shape=(b, 1, 1, t))
    elif mask.type.shape in ((b, t), (1, t)):
        allowed = to.emit("reshape", _positive(to, mask), shape=(mask.type.shape[0], 1, 1, t))
    elif mask.type.shape == (b, s, t):
        allowed = to.emit("reshape", _positive(to, mask), shape=(b, 1, s, t))
    else:
        raise CaptureError(f"{to.op}: a mask of this form is not supported", found=str(mask.type),
                           hint="[batch, keys], [batch, queries, keys] or [batch] lengths")  # fmt: skip
    kind = q.type.dtype
    return to.emit("where", allowed, to.constant(0, kind), to.constant(to.attr("mask_filter_value", -10000.0), kind))


def _positive(to: Importer, mask: Value) -> Value:
    return mask if mask.type.dtype == boolean else to.emit("gt", mask, to.constant(0, mask.type.dtype))


def _sum(to: Importer, *parts: Value | None) -> Value | None:
    """What is there of them, added; None for nothing."""
    found = [p for p in parts if p is not None]
    if len(found) == 2:
        return to.emit("add", *found)
    return found[0] if found else None


@enters(TABLE, _OURS + "Attention")
def _(to: Importer) -> list[Term | None]:
    """Inputs: x, the merged weight, its bias, a mask, past keys and values in one tensor, a bias of the scores."""
    absent(to, past_sequence_length=6)
    only(to, do_rotary=0, past_present_share_buffer=0)
    x, weight, heads = to.value(0), to.value(1), to.attr("num_heads")
    whole = weight.type.shape[-1]
    sizes = tuple(to.attr("qkv_hidden_sizes", ())) or (dims.floordiv(whole, 3),) * 3
    if x.type.rank != 3 or len(sizes) != 3:
        raise CaptureError(f"Attention: takes [batch, positions, features], got {x.type}; {len(sizes)} hidden sizes")
    projected = to.emit("linear", x, weight, to.optional(2))
    q, k, v = (split_heads(to, piece, heads) for piece in _features(to, projected, sizes))
    past: Dim = 0
    if to.has(4):
        both = to.value(4)
        past = both.type.shape[3]
        k, v = (_after(to, _row(to, both, i), new) for i, new in ((0, k), (1, v)))
    bias = _sum(to, _padding(to, 3, q, k.type.shape[1]), to.optional(5))
    y = attend(to, q, k, v, scale=_scale(to), causal=bool(to.attr("unidirectional", 0)), offset=past, bias=bias)
    present = None
    if to.wants(1):
        cached = [swapped(to, part) for part in (k, v)]
        present = to.emit("concat", *(to.emit("reshape", c, shape=(1, *c.type.shape)) for c in cached), axis=0)
    return [of_value(merged(to, y)), None if present is None else of_value(present)]


def _row(to: Importer, x: Value, i: int) -> Value:
    """Entry i of the first axis, which goes."""
    one = to.emit("slice", x, axis=0, start=i, stop=i + 1)
    return to.emit("reshape", one, shape=one.type.shape[1:])


def _after(to: Importer, past: Value, new: Value) -> Value:
    """Past [b, h, p, d] and new [b, s, h, d] as [b, p + s, h, d]."""
    return to.emit("concat", swapped(to, past), new, axis=1)


@enters(TABLE, _OURS + "MultiHeadAttention")
def _(to: Importer) -> list[Term | None]:
    """Inputs: q, k, v (or packed in q, or in q and k), a bias of all three, a mask, a bias of the scores, past k, v."""
    absent(to, past_sequence_length=8, cache_indirection=9)
    _no_scores(to)
    q, k, v = _three(to)
    past: Dim = 0
    if to.has(6):
        past = to.value(6).type.shape[2]
        k, v = _after(to, to.value(6), k), _after(to, to.value(7), v)
    bias = _sum(to, _padding(to, 4, q, k.type.shape[1]), to.optional(5))
    y = attend(to, q, k, v, scale=_scale(to), causal=bool(to.attr("unidirectional", 0)), offset=past, bias=bias)
    return [of_value(merged(to, y)), *(of_value(swapped(to, x)) if to.wants(i) else None for i, x in ((1, k), (2, v)))]


def _no_scores(to: Importer) -> None:
    if to.wants(3):
        raise CaptureError(f"{to.op}: the products of queries and keys are not supported as an output")


def _three(to: Importer) -> tuple[Value, Value, Value]:
    """Queries, keys and values as [b, s, h, d], with their bias."""
    heads, q = to.attr("num_heads"), to.value(0)
    if q.type.rank == 5:
        q, k, v = _unpacked(to, q, 3)
    elif to.has(1) and to.value(1).type.rank == 5:
        q, (k, v) = split_heads(to, q, heads), _unpacked(to, to.value(1), 2)
    elif to.has(1) and to.has(2):
        q = split_heads(to, q, heads)
        k, v = (swapped(to, x) if x.type.rank == 4 else split_heads(to, x, heads) for x in (to.value(1), to.value(2)))
    else:
        raise CaptureError(f"{to.op}: keys and values are missing", found=str(q.type))
    if not to.has(3):
        return q, k, v
    ready = to.term(1).shape if to.has(1) else ()
    sizes = [dims.product(x.type.shape[2:]) for x in (q, k, v)]
    parts = _features(to, to.value(3), tuple(sizes))
    shaped = [to.emit("reshape", p, shape=x.type.shape[2:]) for p, x in zip(parts, (q, k, v), strict=True)]
    added = [to.emit("add", x, p) for x, p in zip((q, k, v), shaped, strict=True)]
    return (added[0], k, v) if len(ready) == 4 else (added[0], added[1], added[2])


def _unpacked(to: Importer, x: Value, count: int) -> list[Value]:
    """[b, s, h, count, d] as `count` values [b, s, h, d]."""
    b, s, h, n, d = x.type.shape
    if n != count:
        raise CaptureError(f"{to.op}: {x.type} does not pack {count} tensors")
    return [to.emit("reshape", to.emit("slice", x, axis=3, start=i, stop=i + 1), shape=(b, s, h, d))
            for i in range(count)]  # fmt: skip


@enters(TABLE, _OURS + "RotaryEmbedding")
def _(to: Importer) -> Value:
    """Inputs: x, positions (one number to count from, or each), and the tables of cosines and sines."""
    only(to, is_packed_batching=0, scale=1.0)
    x, positions, cos = to.value(0), to.value(1), to.value(2)
    if x.type.rank == 4:
        wide = swapped(to, x)
    else:
        heads = to.attr("num_heads", 0)
        features = x.type.shape[-1]
        wide = split_heads(to, x, heads or _count(to, features, 2 * cos.type.shape[1]))
    s = wide.type.shape[1]
    if positions.type.rank == 1:
        positions = _counted_from(to, positions, s)
    turned = rotated(to, wide, cos, to.value(3), positions, bool(to.attr("interleaved", 0)))
    return swapped(to, turned) if x.type.rank == 4 else merged(to, turned)


def _count(to: Importer, features: Dim, size: Dim) -> int:
    heads = dims.floordiv(features, size)
    if not isinstance(heads, int):
        raise CaptureError(f"{to.op}: the number of heads is not known", found=f"{features} features")
    return heads


def _counted_from(to: Importer, first: Value, s: Dim) -> Value:
    """[b or 1, s]: first, first + 1, ..."""
    rows = to.emit("reshape", as_type(to, first, i64), shape=(*first.type.shape, 1))
    return to.emit("add", rows, to.emit("iota", length=s))


# -- grouped queries over a cache --------------------------------------------------------------------------


@enters(TABLE, _OURS + "GroupQueryAttention")
def _(to: Importer) -> list[Term | None]:
    """Each row's new keys are put behind its own past ones; `seqlens_k` says how many keys it has then, less one."""
    absent(to, position_ids=9, attention_bias=10, k_scale=12, v_scale=13)
    only(to, qk_output=0, sliding_window_cache=0, k_quant_type="NONE", v_quant_type="NONE", causal=1)
    _no_scores(to)
    q, k, v = _grouped(to)
    b, s = q.type.shape[:2]
    lengths = to.emit("add", as_type(to, to.emit("reshape", to.value(5), shape=(b,)), i64), to.constant(1, i64))
    before = to.emit("maximum", to.emit("sub", lengths, _number(to, s)), to.constant(0, i64))
    if to.has(14):
        eps = to.attr("qk_norm_epsilon", 1e-6)
        q, k = (to.emit("rms_norm", x, to.value(i), eps=eps) for x, i in ((q, 14), (k, 15)))
    if to.attr("do_rotary", 0):
        q, k = _turned(to, q, k, before)
    window = to.attr("local_window_size", -1)
    past = to.term(3).shape[2] if to.has(3) else 0
    offset: Dim | Value = before
    if past == 0:
        offset = 0
    else:
        k, v = (_into_cache(to, i, new, before) for i, new in ((3, k), (4, v)))
    y = attend(to, q, k, v, scale=_scale(to), causal=True, offset=offset, softcap=to.attr("softcap", 0.0),
               window=(window - 1 if window > 0 else -1, -1), sinks=_sinks(to, q))  # fmt: skip
    return [of_value(merged(to, y)), *(of_value(swapped(to, x)) if to.wants(i) else None for i, x in ((1, k), (2, v)))]


def _sinks(to: Importer, q: Value) -> Value | None:
    """One more logit for each head: that of the file, or 0 where the softmax is to be smooth."""
    if to.has(11):
        return to.value(11)
    if to.attr("smooth_softmax", 0) != 1:
        return None
    return to.emit("expand", to.constant(0, q.type.dtype), shape=q.type.shape[2:3])


def _number(to: Importer, dim: Dim) -> Value:
    return to.emit("dim_value", dim=dim)


def _grouped(to: Importer) -> tuple[Value, Value, Value]:
    heads, groups, q = to.attr("num_heads"), to.attr("kv_num_heads"), to.value(0)
    if to.has(1):
        k, v = (split_heads(to, to.value(i), groups, "kv_num_heads") for i in (1, 2))
        return split_heads(to, q, heads), k, v
    size = dims.floordiv(q.type.shape[-1], heads + 2 * groups)
    q, k, v = _features(to, q, (heads * size, groups * size, groups * size))
    return split_heads(to, q, heads), split_heads(to, k, groups), split_heads(to, v, groups)


def _turned(to: Importer, q: Value, k: Value, before: Value) -> list[Value]:
    """Queries and keys turned by their positions, which go on where each row's past ends."""
    positions = _counted_from(to, before, q.type.shape[1])
    return [rotated(to, x, to.value(7), to.value(8), positions, bool(to.attr("rotary_interleaved", 0))) for x in (q, k)]


def _into_cache(to: Importer, i: int, new: Value, before: Value) -> Value:
    """The past of input i [b, g, p, d] with room for `total_sequence_length` keys, the new ones from `before` on."""
    past = swapped(to, to.value(i))
    (b, p, g, d), kind = past.type.shape, past.type.dtype
    total = to.dims(6, "total_sequence_length")
    if len(total) != 1:
        raise CaptureError(f"{to.op}: total_sequence_length is one number, got {len(total)}")
    if total[0] != p:
        room = to.emit("expand", to.constant(0, kind), shape=(b, total[0] - p, g, d))
        past = to.emit("concat", past, room, axis=1)
    return to.emit("cache_write", past, new, before)
