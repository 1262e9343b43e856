"""Moves: most are views, which copy nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...ir.dims import Dim
from ...ir.dtypes import DType
from ...ir.graph import Node
from ...ir.tensor import TensorType
from .emit import NAMES, Emit, View, row_major
from .lower import lowers
from .steps import Chain


def copy_of(to: Emit, view: View) -> View:
    """A dense copy, in a new buffer."""
    made = to.new(TensorType(view.dtype, view.shape))
    copy_into(to, view, made)
    return made


def dense_of(to: Emit, view: View) -> View:
    """The view itself where it is dense, else a dense copy."""
    return view if view.dense else copy_of(to, view)


def converted(to: Emit, view: View, dtype: DType) -> View:
    """The same numbers in another type, in a new buffer."""
    made = to.new(TensorType(dtype, view.shape))
    copy_into(to, view, made)
    return made


def fill(to: Emit, into: View, value: float) -> None:
    """Writes one number everywhere."""
    from .lower_elementwise import run_chain

    run_chain(to, Chain((), ((value, NAMES[into.dtype.name]),), ()), [], into)


def copy_into(to: Emit, view: View, into: View, *, apart: bool = False) -> None:
    """Copies elements, whose types may differ. apart: as `Emit.call`."""
    from .lower_elementwise import cast_step, run_chain

    steps = () if view.dtype == into.dtype else (cast_step(into.dtype),)
    run_chain(to, Chain((NAMES[view.dtype.name],), (), steps), [view], into, apart=apart)


@lowers("reshape")
def _reshape(to: Emit, node: Node) -> None:
    shape = node.output.type.shape
    strides = regrouped(to.view(node.inputs[0]), shape)
    x = to.array(node.inputs[0]) if strides is None else to.view(node.inputs[0])
    to.views[node.output] = replace(x, shape=shape, strides=row_major(shape) if strides is None else strides)


def regrouped(view: View, shape: Sequence[Dim]) -> tuple[Dim, ...] | None:
    """The strides by which a view's elements, in their order, have another shape; None where there are none.

    Axes at either end that stay as they are may lie anyhow; those between must lie as if they were one.
    """
    old, first = view.shape, 0
    while first < min(len(old), len(shape)) and old[first] == shape[first]:
        first += 1
    last = 0
    while last < min(len(old), len(shape)) - first and old[-1 - last] == shape[-1 - last]:
        last += 1
    middle = list(zip(old, view.strides, strict=True))[first : len(old) - last]
    lying = [(n, s) for n, s in middle if n != 1]
    if any(s != n * step for (_, s), (n, step) in zip(lying, lying[1:], strict=False)):
        return None
    step = lying[-1][1] if lying else 1
    between = [s * step for s in row_major(shape[first : len(shape) - last])]
    return (*view.strides[:first], *between, *view.strides[len(old) - last :])


@lowers("transpose")
def _transpose(to: Emit, node: Node) -> None:
    x, perm = to.view(node.inputs[0]), node.attrs["perm"]
    shape, strides = (tuple(of[p] for p in perm) for of in (x.shape, x.strides))
    to.views[node.output] = replace(x, shape=shape, strides=strides)


@lowers("expand")
def _expand(to: Emit, node: Node) -> None:
    x, shape = to.view(node.inputs[0]), node.output.type.shape
    lead = len(shape) - len(x.shape)
    own = (0 if n == 1 and full != 1 else s for n, s, full in zip(x.shape, x.strides, shape[lead:], strict=True))
    to.views[node.output] = replace(x, shape=shape, strides=(*[0] * lead, *own))


def _part(x: View, axis: int, start: Dim, size: Dim, step: int = 1) -> View:
    at = axis % len(x.shape)
    shape, strides = list(x.shape), list(x.strides)
    shape[at], strides[at] = size, strides[at] * step
    return replace(x, shape=tuple(shape), strides=tuple(strides), offset=x.offset + start * x.strides[at])


@lowers("slice")
def _slice(to: Emit, node: Node) -> None:
    axis, x = node.attrs["axis"], to.view(node.inputs[0])
    size = node.output.type.shape[axis % len(x.shape)]
    to.views[node.output] = _part(x, axis, node.attrs["start"], size, node.attrs["step"])


@lowers("split")
def _split(to: Emit, node: Node) -> None:
    x, start = to.view(node.inputs[0]), 0
    for value, size in zip(node.outputs, node.attrs["sizes"], strict=True):
        to.views[value] = _part(x, node.attrs["axis"], start, size)
        start = start + size


@lowers("concat")
def _concat(to: Emit, node: Node) -> None:
    y, axis, start = to.result(node), node.attrs["axis"], 0
    for value in node.inputs:
        x = to.view(value)
        size = x.shape[axis % len(x.shape)]
        copy_into(to, x, _part(y, axis, start, size), apart=True)
        start = start + size


@lowers("cast")
def _cast(to: Emit, node: Node) -> None:
    x = to.view(node.inputs[0])
    if x.dtype == node.output.type.dtype:
        to.views[node.output] = x
    else:
        copy_into(to, x, to.result(node))


@lowers("bitcast")
def _bitcast(to: Emit, node: Node) -> None:
    to.views[node.output] = replace(to.view(node.inputs[0]), dtype=node.output.type.dtype)


@lowers("from_panels")
def _from_panels(to: Emit, node: Node) -> None:
    x, columns = to.view(node.inputs[0]), node.attrs["columns"]
    panels, rows, width, depth = (*x.shape, 1)[:4]
    order = (1, 3, 0, 2) if len(x.shape) == 4 else (1, 0, 2)
    across = replace(x, shape=tuple(x.shape[i] for i in order), strides=tuple(x.strides[i] for i in order))
    wide = (rows * depth, panels * width)
    whole = replace(copy_of(to, across), shape=wide, strides=row_major(wide))
    to.views[node.output] = _part(whole, 1, 0, columns)


@lowers("from_expert_panels")
def _from_expert_panels(to: Emit, node: Node) -> None:
    x, parts = to.view(node.inputs[0]), 2 if node.attrs["gated"] else 1
    (e, panels, k, width), columns = x.shape, node.attrs["columns"]
    each = width // parts
    apart = (x.strides[0], x.strides[2], x.strides[3] * each, x.strides[1], x.strides[3])
    across = copy_of(to, replace(x, shape=(e, k, parts, panels, each), strides=apart))
    wide = (e, k, parts, panels * each)
    whole = copy_of(to, _part(replace(across, shape=wide, strides=row_major(wide)), 3, 0, columns // parts))
    to.views[node.output] = replace(whole, shape=(e, k, columns), strides=row_major((e, k, columns)))
