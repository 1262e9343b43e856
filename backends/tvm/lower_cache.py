"""Caches that are written over in place, and attention over what they hold."""

from __future__ import annotations

from dataclasses import replace

from ...ir import dims
from ...ir.dims import Dim
from ...ir.graph import Node
from .emit import NAMES, Emit, View
from .kernels.cache import cache_write
from .lower import lowers
from .lower_attention import rows, scores_view
from .lower_move import copy_of


@lowers("cache_write")
def _cache_write(to: Emit, node: Node) -> None:
    cache, new, position = node.inputs
    into = to.overwritten(cache)
    write_into(to, into, to.view(new), to.array(position), node.attrs["axis"])
    to.views[node.output] = into


@lowers("cached_attention")
def _cached_attention(to: Emit, node: Node) -> None:
    q, k, v, key_cache, value_cache, position, *more = node.inputs
    bias = more[0] if more else None
    sinks = more[1] if len(more) > 1 else None
    at, caches = to.array(position), []
    for cache, new, value in ((key_cache, k, node.outputs[1]), (value_cache, v, node.outputs[2])):
        into = to.overwritten(cache)
        write_into(to, into, _turned(to.view(new)), at, 2)
        caches.append(into)
        to.views[value] = into
    beside = {"position": at}
    if bias is not None:
        full = (*q_sizes(node), key_cache.type.shape[2])  # type: ignore[union-attr]
        beside["bias"] = scores_view(to, to.view(bias), full)
    if sinks is not None:
        beside["sinks"] = to.array(sinks)
    keys, values = (_turned(c) for c in caches)
    attrs = {**node.attrs, "causal": True}
    to.family.attend(to, attrs, rows(to, q), keys, values, beside, to.result(node))


def q_sizes(node: Node) -> tuple[Dim, Dim, Dim]:
    """Batch, heads and queries."""
    b, s, h, _ = node.inputs[0].type.shape  # type: ignore[union-attr]
    return b, h, s


def _turned(view: View) -> View:
    """Its second and third axes, one as the other."""
    shape, strides = ((x[0], x[2], x[1], x[3]) for x in (view.shape, view.strides))
    return replace(view, shape=shape, strides=strides)


def write_into(to: Emit, cache: View, new: View, position: View, axis: int) -> None:
    """new's rows along an axis, into the cache's from each position on."""
    joined = _joined(new, axis)
    if joined is None:
        new = copy_of(to, new)
        joined = _joined(new, axis)
    held = _joined(cache, axis)
    assert joined is not None and held is not None
    (shape, strides), (room, apart) = joined, held
    b, a, s, r = shape
    sizes = [b, a, s, room[2], r, *strides[:3], *apart[:3], 0 if position.shape == () else 1]
    static = {"dtype": NAMES[new.dtype.name], "lanes": to.lanes, "position": NAMES[position.dtype.name]}
    to.call(cache_write, static, [new, position], [cache], sizes, order=[new, cache, position], reports=True)


def _joined(view: View, axis: int) -> tuple[tuple[Dim, ...], tuple[Dim, ...]] | None:
    """As [b, a, axis, r], r contiguous: shape and strides. None where axes cannot be joined to that."""
    before = _one(view.shape[1:axis], view.strides[1:axis])
    after = _one(view.shape[axis + 1 :], view.strides[axis + 1 :])
    if before is None or after is None or not (after[0] == 1 or after[1] == 1):
        return None
    (a, a_apart), (r, _) = before, after
    return (view.shape[0], a, view.shape[axis], r), (view.strides[0], a_apart, view.strides[axis], 1)


def _one(shape: tuple[Dim, ...], strides: tuple[Dim, ...]) -> tuple[Dim, Dim] | None:
    """Axes as one, and its stride; None where they do not lie so."""
    real = [(n, s) for n, s in zip(shape, strides, strict=True) if n != 1]
    if not real:
        return 1, 1
    for (_, outer), (n, inner) in zip(real, real[1:], strict=False):
        if outer != inner * n:
            return None
    return dims.product(n for n, _ in real), real[-1][1]
