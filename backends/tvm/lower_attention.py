"""Attention, and the turning of its queries and keys by their position."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...ir import dims
from ...ir.diagnostics import BuildError
from ...ir.dims import Dim
from ...ir.dtypes import f32
from ...ir.graph import Node, Value
from ...ir.tensor import TensorType
from .emit import NAMES, Emit, View
from .kernels.attention import attention, scratch_of
from .kernels.attention_one import MOST_PARTS, ROWS, attention_one, attention_parts, part_of
from .kernels.attention_rows import Form
from .kernels.rotary import rotary
from .lower import lowers
from .lower_move import copy_into
from .tiles import Chip


@lowers("attention")
def _attention(to: Emit, node: Node) -> None:
    q, k, v = (rows(to, x) for x in node.inputs[:3])
    beyond: list[Value | None] = [*node.inputs[3:], *[None] * (7 - len(node.inputs))]
    mask, bias, sinks, position = beyond
    scores = (q.shape[0], q.shape[2], q.shape[1], k.shape[1])
    beside = {
        "mask": None if mask is None else _mask(to, mask, scores),
        "bias": None if bias is None else scores_view(to, to.view(bias), scores),
        "sinks": None if sinks is None else to.array(sinks),
        "position": None if position is None else to.array(position),
    }
    given = {n: x for n, x in beside.items() if x is not None}
    to.family.attend(to, node.attrs, q, k, v, given, to.result(node))


def rows(to: Emit, value: Value | None) -> View:
    """An array whose last axis is contiguous: a copy where it is not."""
    view = to.view(value)
    return view if view.strides[-1] == 1 or view.shape[-1] == 1 else to.array(value)


def _mask(to: Emit, mask: Value, scores: tuple[Dim, ...]) -> View:
    view = to.view(mask)
    if len(view.shape) != 2:
        return scores_view(to, view, scores)
    return view if view.strides[-1] == 1 else to.array(mask)


def scores_view(to: Emit, view: View, scores: tuple[Dim, ...]) -> View:
    """A mask or bias [b, h, s, t] as [b, s, h, t], repeated where it is one; a copy where its last axis is apart."""
    if view.strides[-1] != 1 or view.shape[-1] != scores[-1]:
        made = to.new(TensorType(view.dtype, (*view.shape[:3], scores[-1])))
        copy_into(to, view, made)
        view = made
    b, h, s, t = (0 if n == 1 else apart for n, apart in zip(view.shape, view.strides, strict=True))
    return replace(view, shape=(scores[0], scores[2], scores[1], scores[3]), strides=(b, s, h, t))


def form_of(
    q: View, k: View, v: View, attrs: Any, beside: dict[str, View], chip: Chip, causal: bool
) -> Form:  # fmt: skip
    """Packed keys and values take a quarter of a second cache."""
    h, d, g, e = (known(n) for n in (q.shape[2], q.shape[3], k.shape[2], v.shape[3]))
    width = 2 * chip.lanes
    block = max(width, min(1024, chip.l2_bytes // 4 // (4 * (d + e)) // width * width))
    mask = "" if "mask" not in beside else "keys" if len(beside["mask"].shape) == 2 else "full"
    position = NAMES[beside["position"].dtype.name] if "position" in beside else ""
    return Form(
        d, e, g, h // g, attrs["scale"], causal, attrs["window"], attrs["softcap"], mask, "bias" in beside,
        "sinks" in beside, position, chip.lanes, chip.registers // 4, block, _alone(q.shape[1], k.shape[1], h // g),
    )  # fmt: skip


def known(size: Dim) -> int:
    """A size that a model fixes. Raises: BuildError on one that is not."""
    if not isinstance(size, int):
        raise BuildError(f"attention: TVM takes heads and features of a fixed number, not {size}")
    return size


def attend(to: Emit, attrs: Any, q: View, k: View, v: View, beside: dict[str, View], y: View) -> None:
    """Calls the kernels. q [b, s, h, d], k [b, t, g, d], v [b, t, g, e], y [b, s, h, e]: views with contiguous rows."""
    form = form_of(q, k, v, attrs, beside, to.chip, attrs["causal"])
    (b, s), t = q.shape[:2], k.shape[1]
    arrays, sizes = [q, k, v, y, *(beside[n] for n in form.optional)], [b, s, t]
    reads = [x for x in arrays if x is not y]
    for view in (q, k, v, y, *(beside[n] for n in ("mask", "bias") if n in beside)):
        sizes += apart(view)
    scratch = _scratch(form, s, t)
    if not form.alone:
        to.call(attention, {"form": form}, reads, [y], [scratch, *sizes], scratch, arrays)
        return
    parts = to.new(TensorType(f32, ((b * form.heads + MOST_PARTS) * form.group * part_of(form),)))
    arrays.append(parts)
    kernel = attention_one if s == 1 else attention
    to.call(kernel, {"form": form}, reads, [y, parts], [scratch, *sizes], scratch, arrays)
    to.call(attention_parts, {"form": form}, [*reads, parts], [y], [scratch, *sizes], scratch, arrays)


def _scratch(form: Form, s: Dim, t: Dim) -> Dim:
    """Bytes: of many queries, the parts of `scratch_of`, of which the last keeps 8 of each; of one, its scores."""
    many = scratch_of(form)[-1] + dims.floordiv(form.group * s + 7, 8) * 64
    one = form.group * dims.floordiv(t + 31, 16) * 64
    if not form.alone:
        return many
    return one if s == 1 else dims.maximum(many, one)


def _alone(s: Dim, t: Dim, group: int) -> bool:
    """Whether there may be one query over many keys."""
    return group <= ROWS and (s == 1 or (not isinstance(s, int) and s != t))


def apart(view: View) -> tuple[Dim, ...]:
    """How far apart elements lie along batch, places and heads."""
    if len(view.shape) == 2:
        return view.strides[0], 0, 0
    return view.strides[:3]


@lowers("rotary")
def _rotary(to: Emit, node: Node) -> None:
    x, cos, sin = (rows(to, v) for v in node.inputs)
    y = to.result(node)
    (b, s, h, d), turned = x.shape, known(cos.shape[2])
    angles = [(0 if a.shape[0] == 1 else a.strides[0], a.strides[1]) for a in (cos, sin)]
    static = {"d": known(d), "turned": turned, "interleaved": node.attrs["interleaved"], "lanes": to.lanes}
    if x.dtype != f32:  # which only some families take
        static["dtype"] = NAMES[x.dtype.name]
    sizes = [b, s, h, *x.strides[:3], *angles[0], *angles[1], *y.strides[:3]]
    to.call(rotary, static, [x, cos, sin], [y], sizes)
