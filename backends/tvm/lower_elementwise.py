"""Element-wise ops: one kernel each, whose axes are merged as far as all arrays allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...ir.dims import Dim
from ...ir.dtypes import DType
from ...ir.graph import Node
from .emit import NAMES, Emit, View
from .kernels.elementwise import APART, CONTIGUOUS, REPEATED, elementwise
from .lower import lowers
from .steps import FORMULAS, Chain, Step

PLAIN = tuple(n for n in FORMULAS if n != "cast")  # of which most move nothing, or copy


@lowers(*PLAIN)
def _plain(to: Emit, node: Node) -> None:
    arrays, constants, places = operands(to, node)
    steps = (Step(node.op.name, places, step_attrs(node)),)
    chain = Chain(tuple(NAMES[v.dtype.name] for v in arrays), constants, steps)
    run_chain(to, chain, arrays, to.result(node))


def step_attrs(node: Node) -> tuple[tuple[str, Any], ...]:
    return tuple((k, _name(v) if k == "dtype" else v) for k, v in node.attrs.items())


def _name(dtype: DType) -> str:
    """What the formula of `cast` calls a type: a bool is not any byte."""
    return "bool" if dtype.kind == "bool" else NAMES[dtype.name]


def cast_step(dtype: DType) -> Step:
    return Step("cast", (0,), (("dtype", _name(dtype)),))


def operands(to: Emit, node: Node) -> tuple[list[View], tuple[tuple[float, str], ...], tuple[int, ...]]:
    """The arrays that a node reads, the constants, and the place of each of its inputs among both."""
    arrays = [to.view(v) for v in node.inputs if v is not None and v not in to.scalars]
    constants: list[tuple[float, str]] = []
    places: list[int] = []
    seen = 0
    for v in node.inputs:
        if v is None:
            continue
        if v in to.scalars:
            places.append(len(arrays) + len(constants))
            constants.append((to.scalars[v], NAMES[v.type.dtype.name]))
        else:
            places.append(seen)
            seen += 1
    return arrays, tuple(constants), tuple(places)


def run_chain(to: Emit, chain: Chain, arrays: Sequence[View], y: View, *, apart: bool = False) -> None:
    """Calls a kernel that computes `chain` of the arrays, broadcast to y's shape, into y. apart: as `Emit.call`."""
    spread = [broadcast(v.shape, v.strides, y.shape) for v in arrays]
    sizes, strides = merged(y.shape, [*spread, y.strides])
    last = tuple(_last(s[-1]) for s in strides)
    out = NAMES[y.dtype.name]
    static = {"chain": chain.stored(out), "out": out, "rank": len(sizes), "last": last, "lanes": to.lanes}
    to.call(elementwise, static, arrays, [y], [*sizes, *(s for one in strides for s in one)], apart=apart)


def _last(stride: Dim) -> int:
    return CONTIGUOUS if stride == 1 else REPEATED if stride == 0 else APART


def broadcast(own_shape: Sequence[Dim], strides: Sequence[Dim], shape: Sequence[Dim]) -> tuple[Dim, ...]:
    """Strides along the axes of a shape that an array broadcasts to."""
    lead = len(shape) - len(own_shape)
    own = [0 if n == 1 and full != 1 else s for n, s, full in zip(own_shape, strides, shape[lead:], strict=True)]
    return (*[0] * lead, *own)


def merged(shape: Sequence[Dim], strides: Sequence[Sequence[Dim]]) -> tuple[list[Dim], list[list[Dim]]]:
    """The same elements over as few axes as can be: axes of one go, neighbours that lie alike in all arrays join."""
    sizes: list[Dim] = []
    steps: list[list[Dim]] = [[] for _ in strides]
    for axis, n in enumerate(shape):
        if n == 1:
            continue
        here = [s[axis] for s in strides]
        if sizes and all(old[-1] == new * n for old, new in zip(steps, here, strict=True)):
            sizes[-1] = sizes[-1] * n
            for old, new in zip(steps, here, strict=True):
                old[-1] = new
        else:
            sizes.append(n)
            for old, new in zip(steps, here, strict=True):
                old.append(new)
    return (sizes, steps) if sizes else ([1], [[1] for _ in strides])
