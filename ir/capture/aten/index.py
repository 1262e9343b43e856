"""ATen ops that look elements up, and ops that make tensors out of nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...diagnostics import CaptureError
from ...dtypes import i64
from .table import axis, enters

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_torch import Translator

TABLE: dict[str, Any] = {}


@enters(TABLE, "embedding.default")
def _(to: Translator) -> Value:
    table, ids = to.node.args[:2]
    return to.emit("gather", to.value(table), to.value(ids), axis=0)


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
    """x[ids] on leading axes: the broadcast indices become one index into the merged axes."""
    x, indices = to.node.args
    value = to.value(x)
    given = [i for i in indices if i is not None]
    lead = len(given)
    if any(i is None for i in indices[:lead]):
        raise CaptureError("indexing by tensors is captured on leading axes only", hint="move those axes to the front")
    shape = value.type.shape
    flat: Value | None = None
    for at, index in enumerate(given):
        ids = to.value(index, i64)
        if ids.type.dtype != i64:
            raise CaptureError("indexing by a boolean mask makes a size that depends on values")
        size = to.value(shape[at] if isinstance(shape[at], int) else shape[at], i64)
        ids = to.emit("where", to.emit("lt", ids, to.value(0, i64)), to.emit("add", ids, size), ids)
        flat = ids if flat is None else to.emit("add", to.emit("mul", flat, size), ids)
    if lead > 1:
        from ... import dims

        value = to.emit("reshape", value, shape=(dims.product(shape[:lead]), *shape[lead:]))
    return to.emit("gather", value, flat, axis=0)


@enters(TABLE, "arange.default", "arange.start", "arange.start_step")
def _(to: Translator) -> Value:
    out = to.type()
    start, step = to.args("start", "step")
    first, step = to.dim(0 if start is None else start), 1 if step is None else step
    if not isinstance(step, int):
        raise CaptureError("arange with a fractional step is not captured")
    if out.dtype.is_int:
        return to.emit("iota", length=out.shape[0], start=first, step=step, dtype=out.dtype)
    return to.emit("cast", to.emit("iota", length=out.shape[0], start=first, step=step, dtype=i64), dtype=out.dtype)


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


@enters(TABLE, "zeros.default", "zeros_like.default", "new_zeros.default")
def _(to: Translator) -> Value:
    return _filled(to, 0)


@enters(TABLE, "ones.default", "ones_like.default", "new_ones.default")
def _(to: Translator) -> Value:
    return _filled(to, 1)


@enters(TABLE, "scalar_tensor.default")
def _(to: Translator) -> Value:
    return to.value(to.node.args[0], to.type().dtype)


@enters(TABLE, "triu.default", "tril.default")
def _(to: Translator) -> Value:
    """Keeps one side of a diagonal."""
    x = to.value(to.node.args[0])
    offset = to.args("diagonal")[0] or 0
    rows, columns = x.type.shape[-2:]
    row = to.emit("reshape", to.emit("iota", length=rows, start=0, dtype=i64), shape=(rows, 1))
    column = to.emit("reshape", to.emit("iota", length=columns, start=0, dtype=i64), shape=(1, columns))
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


@enters(TABLE, "tundish.band_mask.default")
def _(to: Translator) -> Value:
    """The exact 4-D mask of a band, where attention could not take it as attributes."""
    padding, _, q_len, kv_len, q_offset, kv_offset = to.node.args
    causal, window = to.node.kwargs["causal"], to.node.kwargs["window"]
    q, k = to.dim(q_len), to.dim(kv_len)
    row = to.emit("iota", length=q, start=to.dim(q_offset), dtype=i64)
    column = to.emit("iota", length=k, start=to.dim(kv_offset), dtype=i64)
    distance = to.emit("sub", to.emit("reshape", row, shape=(q, 1)), to.emit("reshape", column, shape=(1, k)))
    keep = to.emit("ge", distance, to.value(0, i64)) if causal else to.emit("eq", distance, distance)
    if window:
        keep = to.emit("and", keep, to.emit("lt", to.emit("abs", distance), to.value(window, i64)))
    out = to.type().shape
    keep = to.emit("expand", to.emit("reshape", keep, shape=(1, 1, q, k)), shape=out)
    if padding is None:
        return keep
    pad = to.value(padding)
    if pad.type.shape[1] != k:
        first = to.dim(kv_offset)
        pad = to.emit("slice", pad, axis=1, start=first, stop=first + k)
    return to.emit("and", keep, to.emit("reshape", pad, shape=(pad.type.shape[0], 1, 1, k)))
