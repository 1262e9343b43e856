"""ATen ops that look elements up, and ops that make tensors out of nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...diagnostics import CaptureError
from ...dtypes import boolean, i64
from .table import axis, enters

if TYPE_CHECKING:
    from ...dims import Dim
    from ...graph import Value
    from ..from_torch import Translator

TABLE: dict[str, Any] = {}


@enters(TABLE, "embedding.default")
def _(to: Translator) -> Value:
    table, ids = to.node.args[:2]
    return to.emit("gather", to.value(table), to.value(ids), axis=0)


@enters(TABLE, "one_hot.default")
def _(to: Translator) -> Value:
    """1 where an element is the place along a new last axis."""
    x, classes = to.args("self", "num_classes")
    if not isinstance(classes, int) or classes < 1:
        raise CaptureError("one_hot without a number of classes makes a size that depends on values",
                           hint="give num_classes")  # fmt: skip
    value = to.value(x, i64)
    rank = value.type.rank
    each = to.emit("reshape", to.emit("iota", length=classes, dtype=i64), shape=(*[1] * rank, classes))
    ids = to.emit("reshape", value, shape=(*value.type.shape, 1))
    return to.emit("cast", to.emit("eq", ids, each), dtype=i64)


@enters(TABLE, "index_select.default")
def _(to: Translator) -> Value:
    x, at, ids = to.node.args
    value = to.value(x)
    return to.emit("gather", value, to.value(ids), axis=axis(at, value.type.rank))


@enters(TABLE, "gather.default")
def _(to: Translator) -> Value:
    x, at, ids = to.node.args[:3]
    value = to.value(x)
    return to.emit("gather_elements", value, to.value(ids), axis=axis(at, value.type.rank))


@enters(TABLE, "index.Tensor")
def _(to: Translator) -> Value:
    """x[ids, :, more ids]: the broadcast indices become one index into the merged axes."""
    x, indices = to.node.args
    value = to.value(x)
    at = [i for i, index in enumerate(indices) if index is not None]
    if at != list(range(at[0], at[0] + len(at))):  # torch puts the indexed axes first where others lie between
        rest = [i for i in range(value.type.rank) if i not in at]
        value, first = to.emit("transpose", value, perm=(*at, *rest)), 0
    else:
        first = at[0]
    shape, last = value.type.shape, first + len(at)
    flat = _flat_index(to, [indices[i] for i in at], shape[first:last])
    if len(at) > 1:
        from ... import dims

        value = to.emit("reshape", value, shape=(*shape[:first], dims.product(shape[first:last]), *shape[last:]))
    return to.emit("gather", value, flat, axis=first)


def _flat_index(to: Translator, indices: list[Any], sizes: tuple[Any, ...]) -> Value:
    """Where the elements lie once the axes of those sizes are one; an index below 0 counts from the end."""
    flat: Value | None = None
    for index, length in zip(indices, sizes, strict=True):
        ids = to.value(index)
        if ids.type.dtype == boolean:
            raise CaptureError(
                "indexing by a boolean mask makes a size that depends on values", hint="use torch.where on the whole"
            )
        ids, size = to.value(index, i64), to.value(length, i64)
        ids = to.emit("where", to.emit("lt", ids, to.value(0, i64)), to.emit("add", ids, size), ids)
        flat = ids if flat is None else to.emit("add", to.emit("mul", flat, size), ids)
    assert flat is not None
    return flat


@enters(TABLE, "arange.default", "arange.start", "arange.start_step")
def _(to: Translator) -> Value:
    out = to.type()
    start, step = to.args("start", "step")
    start, step = _whole(0 if start is None else start), _whole(1 if step is None else step)
    whole = isinstance(step, int) and not isinstance(start, float)
    first, by = (to.dim(start), step) if whole else (0, 1)
    if out.dtype.is_int:
        if not whole:
            raise CaptureError("arange of whole numbers with a fractional step is not captured")
        return to.emit("iota", length=out.shape[0], start=first, step=by, dtype=out.dtype)
    counted = to.emit("iota", length=out.shape[0], start=first, step=by, dtype=i64)
    if whole:
        return to.emit("cast", counted, dtype=out.dtype)
    scaled = to.emit("mul", to.emit("cast", counted, dtype=out.dtype), to.value(float(step), out.dtype))
    return to.emit("add", scaled, to.value(start, out.dtype))


def _whole(number: Any) -> Any:
    """2 for 2.0."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _filled(to: Translator, number: Any) -> Value:
    out = to.type()
    scalar = to.value(number, out.dtype)
    return to.emit("expand", scalar, shape=out.shape) if out.shape else scalar


@enters(TABLE, "full.default", "full_like.default", "new_full.default")
def _(to: Translator) -> Value:
    return _filled(to, to.args("fill_value")[0])


@enters(TABLE, "fill.Tensor", "fill.Scalar")
def _(to: Translator) -> Value:
    return _filled(to, to.args("value")[0])


@enters(TABLE, "zeros.default", "zeros_like.default", "new_zeros.default", "empty.memory_format",
        "empty_like.default", "new_empty.default")  # fmt: skip
def _(to: Translator) -> Value:
    """What is empty may hold anything, so 0 too; a model writes to all of it before it reads."""
    return _filled(to, 0)


@enters(TABLE, "ones.default", "ones_like.default", "new_ones.default")
def _(to: Translator) -> Value:
    return _filled(to, 1)


@enters(TABLE, "scalar_tensor.default")
def _(to: Translator) -> Value:
    return to.value(to.node.args[0], to.type().dtype)


@enters(TABLE, "eye.default", "eye.m")
def _(to: Translator) -> Value:
    """1 where the row is the column."""
    out = to.type()
    row, column = row_and_column(to, *out.shape)
    return to.emit("cast", to.emit("eq", row, column), dtype=out.dtype)


def row_and_column(to: Translator, rows: Dim, columns: Dim) -> tuple[Value, Value]:
    """The index of each row, [rows, 1], and of each column, [1, columns]."""
    row = to.emit("reshape", to.emit("iota", length=rows, start=0, dtype=i64), shape=(rows, 1))
    return row, to.emit("reshape", to.emit("iota", length=columns, start=0, dtype=i64), shape=(1, columns))


@enters(TABLE, "triu.default", "tril.default")
def _(to: Translator) -> Value:
    """Keeps one side of a diagonal."""
    x = to.value(to.node.args[0])
    offset = to.args("diagonal")[0] or 0
    row, column = row_and_column(to, *x.type.shape[-2:])
    edge = to.emit("add", row, to.value(offset, i64))
    upper = "triu" in str(to.node.target)
    keep = to.emit("ge" if upper else "le", column, edge)
    return to.emit("where", keep, x, to.value(0, x.type.dtype))


@enters(TABLE, "topk.default")
def _(to: Translator) -> tuple[Value, ...]:
    x, k, at, largest = to.args("self", "k", "dim", "largest")
    value = to.value(x)
    return to.emit_many("topk", value, k=int(k), axis=axis(at, value.type.rank), largest=bool(largest))


@enters(TABLE, "scatter.src")
def _(to: Translator) -> Value:
    x, at, ids, updates = to.node.args
    value = to.value(x)
    return to.emit("scatter_elements", value, to.value(ids), to.value(updates), axis=axis(at, value.type.rank))


@enters(TABLE, "scatter.value")
def _(to: Translator) -> Value:
    """One number in every place."""
    x, at, ids, number = to.node.args
    value, places = to.value(x), to.value(ids)
    same = to.emit("expand", to.value(number, value.type.dtype), shape=places.type.shape)
    return to.emit("scatter_elements", value, places, same, axis=axis(at, value.type.rank))


@enters(TABLE, "tundish.last_marked.default")
def _(to: Translator) -> Value:
    """x [b, s, ...] at the last true position of each row; the first where a row has none."""
    x, marked = (to.value(a) for a in to.node.args)
    (b, s), rest = marked.type.shape, x.type.shape[2:]
    places = to.emit("iota", length=s, start=1, dtype=i64)
    last = to.emit("argmax", to.emit("mul", to.emit("cast", marked, dtype=i64), places), axis=1, keepdims=True)
    ids = to.emit("expand", to.emit("reshape", last, shape=(b, 1, *(1 for _ in rest))), shape=(b, 1, *rest))
    return to.emit("reshape", to.emit("gather_elements", x, ids, axis=1), shape=(b, *rest))


@enters(TABLE, "tundish.band_mask.default")
def _(to: Translator) -> Value:
    """The exact 4-D mask of a band, where attention could not take it as attributes."""
    padding, _, q_len, kv_len, q_offset, kv_offset, texts, positions = (*to.node.args, None, None)[:8]
    causal, window = to.node.kwargs["causal"], to.node.kwargs["window"]
    q, k, out = to.dim(q_len), to.dim(kv_len), to.type().shape
    if positions is None:
        row = to.emit("iota", length=q, start=to.dim(q_offset), dtype=i64)
        column = to.emit("iota", length=k, start=to.dim(kv_offset), dtype=i64)
    else:
        row = column = to.value(positions, i64)
    distance = to.emit("sub", *_crossed(to, row, column))
    keep = to.emit("ge", distance, to.value(0, i64)) if causal else to.emit("eq", distance, distance)
    if window:
        keep = to.emit("and", keep, to.emit("lt", to.emit("abs", distance), to.value(window, i64)))
    if texts is not None:
        keep = to.emit("and", keep, to.emit("eq", *_crossed(to, *[to.value(texts, i64)] * 2)))
    keep = to.emit("expand", to.emit("reshape", keep, shape=(keep.type.shape[0], 1, q, k)), shape=out)
    if padding is None:
        return keep
    pad = to.value(padding)
    if pad.type.shape[1] != k:
        first = to.dim(kv_offset)
        pad = to.emit("slice", pad, axis=1, start=first, stop=first + k)
    return to.emit("and", keep, to.emit("reshape", pad, shape=(pad.type.shape[0], 1, 1, k)))


@enters(TABLE, "tundish.cached_mask.default")
def _(to: Translator) -> Value:
    """The exact 4-D mask over a cache, where attention could not take it as attributes."""
    position, q_len, kv_len = to.node.args
    causal, window, out = to.node.kwargs["causal"], to.node.kwargs["window"], to.type().shape
    own = to.emit("reshape", to.value(position, i64), shape=(out[0], 1, 1, 1))
    query = to.emit("add", own, to.emit("reshape", to.emit("iota", length=to.dim(q_len), dtype=i64), shape=(out[2], 1)))
    distance = to.emit("sub", query, to.emit("iota", length=to.dim(kv_len), dtype=i64))
    keep = to.emit("ge", distance, to.value(0, i64)) if causal else to.emit("eq", distance, distance)
    if window:
        keep = to.emit("and", keep, to.emit("lt", to.emit("abs", distance), to.value(window, i64)))
    return keep


def _crossed(to: Translator, row: Value, column: Value) -> tuple[Value, Value]:
    """[s] or [n, s] as [n or 1, s, 1], and [t] or [n, t] as [n or 1, 1, t]: what is done to them meets as [n, s, t]."""
    lead = row.type.shape[0] if row.type.rank == 2 else 1
    left = to.emit("reshape", row, shape=(lead, row.type.shape[-1], 1))
    return left, to.emit("reshape", column, shape=(lead, 1, column.type.shape[-1]))

