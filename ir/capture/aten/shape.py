"""ATen ops that rename or move elements. Target shapes are what torch inferred."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ... import dims
from ...diagnostics import CaptureError
from ..triangles import Triangle
from .table import axis, enters

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_torch import Translator

TABLE: dict[str, Any] = {}
_END = 2**62  # torch's "to the end" is the largest int64


@enters(TABLE, "view.default", "reshape.default", "_unsafe_view.default", "flatten.using_ints", "unflatten.int",
        "unsqueeze.default", "squeeze.dim", "squeeze.dims", "squeeze.default", "view_as.default",
        "reshape_as.default")  # fmt: skip
def _(to: Translator) -> Value:
    x, shape = to.value(to.node.args[0]), to.type().shape
    return x if x.type.shape == shape else to.emit("reshape", x, shape=shape)


@enters(TABLE, "expand.default", "expand_as.default", "broadcast_to.default")
def _(to: Translator) -> Value:
    x, shape = to.value(to.node.args[0]), to.type().shape
    return x if x.type.shape == shape else to.emit("expand", x, shape=shape)


@enters(TABLE, "transpose.int", "swapaxes.default", "t.default", "numpy_T.default", "mT.default", "permute.default")
def _(to: Translator) -> Value:
    x = to.value(to.node.args[0])
    rank, name = x.type.rank, str(to.node.target)
    perm = list(range(rank))
    if "permute" in name:
        perm = [axis(a, rank) for a in to.node.args[1]]
    elif rank >= 2:
        a, b = to.node.args[1:3] if ("int" in name or "swapaxes" in name) else (-2, -1)
        a, b = axis(a, rank), axis(b, rank)
        perm[a], perm[b] = perm[b], perm[a]
        perm = perm[::-1] if "numpy_T" in name else perm
    return x if perm == list(range(rank)) else to.emit("transpose", x, perm=tuple(perm))


@enters(TABLE, "cat.default", "concat.default")
def _(to: Translator) -> Value:
    parts, at = to.args("tensors", "dim")
    out = to.type()
    values = [to.value(p, out.dtype) for p in parts]
    values = [v for v in values if v.type.rank == out.rank]  # torch skips legacy empty 1-D tensors
    return to.emit("concat", *values, axis=axis(at, out.rank))


@enters(TABLE, "stack.default")
def _(to: Translator) -> Value:
    parts, at = to.args("tensors", "dim")
    out = to.type()
    at = axis(at, out.rank)
    shape = (*out.shape[:at], 1, *out.shape[at + 1 :])
    return to.emit("concat", *(to.emit("reshape", to.value(p, out.dtype), shape=shape) for p in parts), axis=at)


@enters(TABLE, "slice.Tensor")
def _(to: Translator) -> Value | Triangle:
    x, at, start, stop, step = to.args("self", "dim", "start", "end", "step")
    shape = tuple(to.sizes.dim(size) for size in x.meta["val"].shape)
    at = axis(at or 0, len(shape))
    if start is not None and stop is not None and isinstance(to.dim(stop), dims.Expr):
        to.sizes.learn(to.node.meta["val"].shape[at], to.dim(stop) - to.dim(start))
    size, kept = shape[at], to.type().shape[at]
    whole = to.env[x]
    if kept == size:
        return whole
    first = 0 if start is None else to.dim(start)
    if isinstance(first, int) and first < 0:
        first = to.sizes.largest(size + first, 0)
    step = step or 1
    if isinstance(whole, Triangle) and step == 1 and at >= len(shape) - 2:
        return whole.cut(at - len(shape), first, kept)
    value = to.value(x)
    last = first + (kept - 1) * step + 1 if step != 1 else first + kept
    if stop is not None and isinstance(stop, int) and stop >= _END:
        last = size
    return to.emit("slice", value, axis=at, start=first, stop=last, step=step)


@enters(TABLE, "slice_scatter.default", "select_scatter.default")
def _(to: Translator) -> Value:
    """x with a part replaced, as an assignment to a slice does: the parts around it are joined to the new one."""
    x, part, at = to.args("self", "src", "dim")
    whole = to.value(x)
    at = axis(at or 0, whole.type.rank)
    size = whole.type.shape[at]
    part = to.value(part, whole.type.dtype)
    if "select" in str(to.node.target):
        start: Any = to.dim(to.args("index")[0])
        start = size + start if isinstance(start, int) and start < 0 else start
        part = to.emit("reshape", part, shape=(*whole.type.shape[:at], 1, *whole.type.shape[at + 1 :]))
    else:
        start, step = to.args("start", "step")
        start = 0 if start is None else to.dim(start)
        start = size + start if isinstance(start, int) and start < 0 else start
        if step not in (None, 1):
            raise CaptureError("assigning to every other element is not captured", hint="use torch.where")
    stop = start + part.type.shape[at]
    pieces = [part]
    if start != 0:
        pieces.insert(0, to.emit("slice", whole, axis=at, start=0, stop=start))
    if stop != size:
        pieces.append(to.emit("slice", whole, axis=at, start=stop, stop=size))
    return pieces[0] if len(pieces) == 1 else to.emit("concat", *pieces, axis=at)


@enters(TABLE, "narrow.default")
def _(to: Translator) -> Value:
    x, at, start, length = to.args("self", "dim", "start", "length")
    first = to.dim(start)
    value = to.value(x)
    return to.emit("slice", value, axis=axis(at, value.type.rank), start=first, stop=first + to.dim(length))


@enters(TABLE, "diff.default")
def _(to: Translator) -> Value:
    """Each element less the one before it, with what is put before and behind."""
    x, order, at, before, behind = to.args("self", "n", "dim", "prepend", "append")
    parts = [to.value(p) for p in (before, x, behind) if p is not None]
    at = axis(at, parts[0].type.rank)
    whole = parts[0] if len(parts) == 1 else to.emit("concat", *parts, axis=at)
    for _ in range(int(order)):
        size = whole.type.shape[at]
        later = to.emit("slice", whole, axis=at, start=1, stop=size)
        whole = to.emit("sub", later, to.emit("slice", whole, axis=at, start=0, stop=size - 1))
    return whole


@enters(TABLE, "select.int")
def _(to: Translator) -> Value:
    x, at, index = to.args("self", "dim", "index")
    value = to.value(x)
    at, first = axis(at, value.type.rank), to.dim(index)
    if isinstance(first, int) and first < 0:
        first = value.type.shape[at] + first
    one = to.emit("slice", value, axis=at, start=first, stop=first + 1)
    return to.emit("reshape", one, shape=to.type().shape)


def _split(to: Translator, at: int) -> tuple[Value, ...]:
    """Pieces as torch cut them; the sizes are those of its results."""
    value = to.value(to.node.args[0])
    sizes = tuple(to.type(m).shape[axis(at, value.type.rank)] for m in to.node.meta["val"])
    return to.emit_many("split", value, axis=axis(at, value.type.rank), sizes=sizes)


@enters(TABLE, "split.Tensor", "split_with_sizes.default", "split.sizes", "chunk.default", "tensor_split.sections")
def _(to: Translator) -> tuple[Value, ...]:
    return _split(to, to.args("dim")[0] or 0)


@enters(TABLE, "unbind.int")
def _(to: Translator) -> tuple[Value, ...]:
    value, at = to.value(to.node.args[0]), to.args("dim")[0] or 0
    metas = to.node.meta["val"]
    pieces = to.emit_many("split", value, axis=axis(at, value.type.rank), sizes=(1,) * len(metas))
    return tuple(to.emit("reshape", p, shape=to.type(m).shape) for p, m in zip(pieces, metas, strict=True))


@enters(TABLE, "constant_pad_nd.default", "pad.default")
def _(to: Translator) -> Value:
    x, pads = to.node.args[:2]
    value = to.value(x)
    rank = value.type.rank
    fill = float(to.args("value")[0] or 0.0)
    before: list[Any] = [0] * rank
    after: list[Any] = [0] * rank
    for i in range(len(pads) // 2):
        before[rank - 1 - i], after[rank - 1 - i] = to.dim(pads[2 * i]), to.dim(pads[2 * i + 1])
    if any(not isinstance(p, int) or p < 0 for p in (*before, *after)):
        return _pad_by_parts(to, value, before, after, fill)
    return to.emit("pad", value, before=tuple(before), after=tuple(after), value=fill)


def _pad_by_parts(to: Translator, x: Value, before: list[Any], after: list[Any], fill: float) -> Value:
    """Padding by sizes that vary is joined on; padding by a negative size cuts off."""
    for at, ends in enumerate(zip(before, after, strict=True)):
        low, high = (-p if isinstance(p, int) and p < 0 else 0 for p in ends)
        if low or high:
            x = to.emit("slice", x, axis=at, start=low, stop=x.type.shape[at] - high)
        filler, shape = to.value(fill, x.type.dtype), x.type.shape
        filled = [not isinstance(p, int) or p > 0 for p in ends]
        parts = [
            to.emit("expand", filler, shape=(*shape[:at], p, *shape[at + 1 :])) if some else None
            for p, some in zip(ends, filled, strict=True)
        ]
        if any(parts):
            x = to.emit("concat", *(v for v in (parts[0], x, parts[1]) if v is not None), axis=at)
    return x


@enters(TABLE, "repeat.default", "tile.default")
def _(to: Translator) -> Value:
    value, out = to.value(to.node.args[0]), to.type()
    lead = (1,) * (out.rank - value.type.rank)
    value = to.emit("reshape", value, shape=(*lead, *value.type.shape)) if lead else value
    counts = to.node.args[1]
    for at, times in enumerate(counts, out.rank - len(counts)):
        if times == 1:
            continue
        shape = value.type.shape
        wide = to.emit("reshape", value, shape=(*shape[:at], 1, *shape[at:]))
        wide = to.emit("expand", wide, shape=(*shape[:at], to.dim(times), *shape[at:]))
        value = to.emit("reshape", wide, shape=(*shape[:at], shape[at] * to.dim(times), *shape[at + 1 :]))
    return value


@enters(TABLE, "repeat_interleave.self_int")
def _(to: Translator) -> Value:
    x, times, at = to.args("self", "repeats", "dim")
    value = to.value(x)
    at = axis(at, value.type.rank)
    shape = value.type.shape
    wide = to.emit("reshape", value, shape=(*shape[: at + 1], 1, *shape[at + 1 :]))
    wide = to.emit("expand", wide, shape=(*shape[: at + 1], to.dim(times), *shape[at + 1 :]))
    return to.emit("reshape", wide, shape=to.type().shape)
