"""Ops that rename or move elements and compute none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import dims
from ..diagnostics import GraphError
from ..dims import Dim
from ..op import DIM, DIMS, INTS, Attr, Op, op
from ..tensor import TensorType, Work
from .broadcast import broadcast
from .checks import normal_axis, same_but, same_dtype, within
from .letters import letters, regroup, spell


class Move(Op):
    """Base of ops that compute nothing: no FLOPs, and as many bytes read as are written."""

    inputs = ("x",)
    pure_move = True

    def flops(self, out: TensorType, *types: Any, **attrs: Any) -> Dim:
        return 0

    def work(self, outs: Sequence[TensorType], types: Any, attrs: Any) -> Work:
        moved = sum((t.bytes for t in outs), start=0)
        return Work(0, moved, moved)


@op
class reshape(Move):
    """The same elements in row-major order under another shape. Moves no bytes.

    Shapes: x [*r] -> [shape], with as many elements.
    """

    attrs = {"shape": DIMS}
    axes = "*r! -> *s!"

    def infer(self, x: TensorType, *, shape: tuple[Dim, ...]) -> TensorType:
        out = x.with_shape(*shape)
        for d in shape:
            within("reshape", 0, d, "a size is negative")
        if out.elements != x.elements:
            raise GraphError(
                f"reshape: {x.elements} elements do not fill {list(map(str, shape))}, which holds {out.elements}",
                found=f"{x} to {out}",
            )
        return out

    def axes_for(self, x: TensorType, *, shape: tuple[Dim, ...]) -> str:
        return regroup(x.shape, shape)

    def work(self, outs: Any, types: Any, attrs: Any) -> Work:
        return Work()

    def reference(self, x: np.ndarray, *, shape: tuple[int, ...]) -> np.ndarray:
        return x.reshape(shape)


@op
class transpose(Move):
    """Axes in another order: axis i of the result is axis perm[i] of x."""

    attrs = {"perm": INTS}
    axes = "*r! -> *s!"

    def infer(self, x: TensorType, *, perm: tuple[int, ...]) -> TensorType:
        order = [normal_axis("transpose", p, x) for p in perm]
        if sorted(order) != list(range(x.rank)):
            raise GraphError(f"transpose: {list(perm)} does not name each axis once", found=str(x))
        return x.with_shape(*(x.shape[p] for p in order))

    def axes_for(self, x: TensorType, *, perm: tuple[int, ...]) -> str:
        names = letters(x.rank)
        return spell([names], [[names[p] for p in perm]])

    def reference(self, x: np.ndarray, *, perm: tuple[int, ...]) -> np.ndarray:
        return x.transpose(perm)


@op
class expand(Move):
    """x repeated along its axes of one, and along new axes in front, up to a shape.

    Reads x once, and writes the whole result.
    """

    attrs = {"shape": DIMS}
    axes = "*r -> *r"

    def infer(self, x: TensorType, *, shape: tuple[Dim, ...]) -> TensorType:
        if len(shape) < x.rank or broadcast("expand", x.shape, shape) != shape:
            raise GraphError(f"expand: {x} does not broadcast to {list(map(str, shape))}")
        return x.with_shape(*shape)

    def axes_for(self, x: TensorType, *, shape: tuple[Dim, ...]) -> str:
        names = letters(len(shape))
        lead = len(shape) - x.rank
        own = ["1" if d == 1 else names[lead + i] for i, d in enumerate(x.shape)]
        return spell([own], [names])

    def work(self, outs: Any, types: Any, attrs: Any) -> Work:
        return Work(0, types[0].bytes, outs[0].bytes)

    def reference(self, x: np.ndarray, *, shape: tuple[int, ...]) -> np.ndarray:
        return np.broadcast_to(x, shape)


@op
class concat(Move):
    """Arrays one after the other along one axis."""

    inputs = ("*xs",)
    attrs = {"axis": int}
    axes = "*xs! -> *r!"

    def infer(self, *xs: TensorType, axis: int) -> TensorType:
        if not xs or any(x is None for x in xs):
            raise GraphError("concat: needs at least one array")
        first, at = xs[0], normal_axis("concat", axis, xs[0])
        same_dtype("concat", *xs)
        for x in xs[1:]:
            same_but("concat", at, first, x)
        total = sum((x.shape[at] for x in xs), start=0)
        return first.with_shape(*first.shape[:at], total, *first.shape[at + 1 :])

    def axes_for(self, *xs: TensorType, axis: int) -> str:
        names = letters(xs[0].rank, {axis % xs[0].rank})
        return spell([names] * len(xs), [names])

    def reference(self, *xs: np.ndarray, axis: int) -> np.ndarray:
        return np.concatenate(xs, axis)


@op
class slice_(Move):
    """Elements start, start + step, ... before stop, along one axis.

    Bounds count from the front: 0 <= start <= stop <= size, and step >= 1. Reads what it keeps.
    """

    attrs = {"axis": int, "start": DIM, "stop": DIM, "step": Attr(int, 1)}
    axes = "*r! -> *r!"

    def infer(self, x: TensorType, *, axis: int, start: Dim, stop: Dim, step: int) -> TensorType:
        at = normal_axis("slice", axis, x)
        if step < 1:
            raise GraphError(f"slice: step is at least 1, got {step}")
        within("slice", 0, start, "start is before the first element")
        within("slice", start, stop, "start is after stop")
        within("slice", stop, x.shape[at], f"stop is after the end of axis {at} of {x}")
        kept = dims.floordiv(stop - start + (step - 1), step)
        return x.with_shape(*x.shape[:at], kept, *x.shape[at + 1 :])

    def axes_for(self, x: TensorType, *, axis: int, **attrs: Any) -> str:
        names = letters(x.rank, {axis % x.rank})
        return spell([names], [names])

    def reference(self, x: np.ndarray, *, axis: int, start: int, stop: int, step: int) -> np.ndarray:
        if not 0 <= start <= stop <= x.shape[axis]:
            raise GraphError(f"slice: {start}..{stop} is outside axis {axis}, which is {x.shape[axis]} long")
        where = [slice(None)] * x.ndim
        where[axis] = slice(start, stop, step)
        return x[tuple(where)]


@op
class split(Move):
    """Consecutive pieces of the given sizes along one axis, which they use up."""

    attrs = {"axis": int, "sizes": DIMS}
    axes = "*r! -> *rs!"

    def infer(self, x: TensorType, *, axis: int, sizes: tuple[Dim, ...]) -> tuple[TensorType, ...]:
        at = normal_axis("split", axis, x)
        if sum(sizes, start=0) != x.shape[at]:
            raise GraphError(
                f"split: sizes {list(map(str, sizes))} do not add up to {x.shape[at]}", found=str(x)
            )
        return tuple(x.with_shape(*x.shape[:at], size, *x.shape[at + 1 :]) for size in sizes)

    def axes_for(self, x: TensorType, *, axis: int, sizes: tuple[Dim, ...]) -> str:
        names = letters(x.rank, {axis % x.rank})
        return spell([names], [names] * len(sizes))

    def reference(self, x: np.ndarray, *, axis: int, sizes: tuple[int, ...]) -> tuple[np.ndarray, ...]:
        if sum(sizes) != x.shape[axis]:
            raise GraphError(f"split: sizes {list(sizes)} do not add up to {x.shape[axis]}")
        return tuple(np.split(x, np.cumsum(sizes)[:-1], axis))


@op
class pad(Move):
    """x with `value` put before and after it on each axis. Reads x, and writes the whole result."""

    attrs = {"before": INTS, "after": INTS, "value": Attr(float, 0.0)}
    axes = "*r! -> *r!"

    def infer(
        self, x: TensorType, *, before: tuple[int, ...], after: tuple[int, ...], value: float
    ) -> TensorType:
        if not len(before) == len(after) == x.rank:
            raise GraphError(f"pad: one size an axis, got {list(before)} and {list(after)}", found=str(x))
        if any(p < 0 for p in (*before, *after)):
            raise GraphError(f"pad: sizes are not negative, got {list(before)} and {list(after)}")
        return x.with_shape(*(d + p + q for d, p, q in zip(x.shape, before, after, strict=True)))

    def axes_for(self, x: TensorType, *, before: Any, after: Any, value: float) -> str:
        names = letters(x.rank, {i for i in range(x.rank) if before[i] or after[i]})
        return spell([names], [names])

    def work(self, outs: Any, types: Any, attrs: Any) -> Work:
        return Work(0, types[0].bytes, outs[0].bytes)

    def reference(self, x: np.ndarray, *, before: Any, after: Any, value: float) -> np.ndarray:
        fill = np.asarray(value).astype(x.dtype)
        out = np.full([d + p + q for d, p, q in zip(x.shape, before, after, strict=True)], fill)
        out[tuple(slice(p, p + d) for p, d in zip(before, x.shape, strict=True))] = x
        return out
