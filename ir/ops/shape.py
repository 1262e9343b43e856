"""Ops that rename, move, join and cut; none computes."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import dims
from ..diagnostics import GraphError
from ..dims import Dim
from ..op import DIM, DIMS, INTS, Attr, Attrs, Op, op
from ..tensor import TensorType, Work
from .broadcast import broadcast


def normal_axis(name: str, axis: int, rank: int) -> int:
    """A non-negative axis. Raises: GraphError outside the rank."""
    if not -rank <= axis < rank:
        raise GraphError(f"{name}: axis {axis} is outside rank {rank}")
    return axis % rank


class Move(Op):
    """Base: no FLOPs; what it writes, it reads."""

    inputs = ("x",)
    pure_move = True

    def flops(self, out: TensorType, *types: Any, **attrs: Any) -> Dim:
        return 0

    def work(self, outs: Any, types: Any, attrs: Attrs) -> Work:
        moved = sum((t.bytes for t in outs), start=0)
        return Work(0, moved, moved)


@op
class reshape(Move):
    """The same elements under another shape; moves nothing."""

    attrs = {"shape": DIMS}
    axes = "*r -> *q"

    def infer(self, x: TensorType, *, shape: tuple[Dim, ...]) -> TensorType:
        out = x.with_shape(*shape)
        if out.elements != x.elements:
            raise GraphError(f"reshape: {x} does not hold as many elements as {out}")
        return out

    def work(self, outs: Any, types: Any, attrs: Attrs) -> Work:
        return Work()

    def reference(self, x: np.ndarray, *, shape: tuple[int, ...]) -> np.ndarray:
        return x.reshape(shape)


@op
class transpose(Move):
    """Axes in another order: out axis i is input axis perm[i]."""

    attrs = {"perm": INTS}

    def infer(self, x: TensorType, *, perm: tuple[int, ...]) -> TensorType:
        if sorted(perm) != list(range(x.rank)):
            raise GraphError(f"transpose: {perm} is no order of the axes of {x}")
        return x.with_shape(*(x.shape[p] for p in perm))

    def axes_for(self, x: TensorType, *, perm: tuple[int, ...]) -> str:
        names = [chr(ord("a") + i) for i in range(x.rank)]
        return f"{' '.join(names)} -> {' '.join(names[p] for p in perm)}"

    def reference(self, x: np.ndarray, *, perm: tuple[int, ...]) -> np.ndarray:
        return x.transpose(perm)


@op
class expand(Move):
    """Repeats axes of size 1, and adds leading ones, up to a shape."""

    attrs = {"shape": DIMS}
    axes = "*q -> *r"

    def infer(self, x: TensorType, *, shape: tuple[Dim, ...]) -> TensorType:
        if len(shape) < x.rank or broadcast("expand", x.shape, shape) != shape:
            raise GraphError(f"expand: {x} does not broadcast to {list(map(str, shape))}")
        return x.with_shape(*shape)

    def work(self, outs: Any, types: Any, attrs: Attrs) -> Work:
        return Work(0, types[0].bytes, outs[0].bytes)

    def reference(self, x: np.ndarray, *, shape: tuple[int, ...]) -> np.ndarray:
        return np.broadcast_to(x, shape)


@op
class concat(Move):
    """Tensors joined along an axis."""

    inputs = ("*xs",)
    attrs = {"axis": int}
    axes = "*r n! -> *r n!"

    def infer(self, *xs: TensorType, axis: int) -> TensorType:
        if not xs:
            raise GraphError("concat: needs at least one input")
        first = xs[0]
        at = normal_axis("concat", axis, first.rank)
        total: Dim = 0
        for x in xs:
            rest = (*x.shape[:at], *x.shape[at + 1 :])
            if x.dtype != first.dtype or rest != (*first.shape[:at], *first.shape[at + 1 :]):
                raise GraphError("concat: only the joined axis may differ", found=", ".join(map(str, xs)))
            total = total + x.shape[at]
        return first.with_shape(*first.shape[:at], total, *first.shape[at + 1 :])

    def axes_for(self, *xs: TensorType, axis: int) -> str:
        names = [chr(ord("a") + i) for i in range(xs[0].rank)]
        names[axis] += "!"
        side = " ".join(names)
        return f"{', '.join([side] * len(xs))} -> {side}"

    def reference(self, *xs: np.ndarray, axis: int) -> np.ndarray:
        return np.concatenate(xs, axis)


@op
class slice(Move):  # noqa: A001
    """x[start:stop:step] along one axis; the bounds lie inside, and step is positive."""

    attrs = {"axis": int, "start": DIM, "stop": DIM, "step": Attr(int, 1)}
    axes = "*r n! -> *r n!"

    def infer(self, x: TensorType, *, axis: int, start: Dim, stop: Dim, step: int) -> TensorType:
        at = normal_axis("slice", axis, x.rank)
        if step < 1:
            raise GraphError(f"slice: the step is positive, got {step}")
        outside = isinstance(start, int) and start < 0
        if isinstance(stop, int):
            size = x.shape[at]
            outside |= isinstance(start, int) and stop < start
            outside |= isinstance(size, int) and stop > size
        if outside:
            raise GraphError(f"slice: {start}:{stop} is outside axis {at} of {x}")
        length = stop - start if step == 1 else dims.floordiv(stop - start + step - 1, step)
        return x.with_shape(*x.shape[:at], length, *x.shape[at + 1 :])

    def axes_for(self, x: TensorType, *, axis: int, **attrs: Any) -> str:
        names = [chr(ord("a") + i) for i in range(x.rank)]
        names[axis] += "!"
        return f"{' '.join(names)} -> {' '.join(names)}"

    def reference(self, x: np.ndarray, *, axis: int, start: int, stop: int, step: int) -> np.ndarray:
        index = [np.s_[:]] * x.ndim
        index[axis] = np.s_[start:stop:step]
        return x[tuple(index)]


@op
class split(Move):
    """Cut along an axis into pieces of the given sizes."""

    attrs = {"axis": int, "sizes": DIMS}
    axes = "*r n! -> *r n!"

    def infer(self, x: TensorType, *, axis: int, sizes: tuple[Dim, ...]) -> tuple[TensorType, ...]:
        at = normal_axis("split", axis, x.rank)
        total: Dim = 0
        for s in sizes:
            total = total + s
        if total != x.shape[at]:
            raise GraphError(f"split: the pieces make {total} of axis {at} of {x}")
        return tuple(x.with_shape(*x.shape[:at], s, *x.shape[at + 1 :]) for s in sizes)

    def axes_for(self, x: TensorType, *, axis: int, sizes: tuple[Dim, ...]) -> str:
        names = [chr(ord("a") + i) for i in range(x.rank)]
        names[axis] += "!"
        side = " ".join(names)
        return f"{side} -> {', '.join([side] * len(sizes))}"

    def reference(self, x: np.ndarray, *, axis: int, sizes: tuple[int, ...]) -> tuple[np.ndarray, ...]:
        return tuple(np.split(x, np.cumsum(sizes)[:-1], axis))


@op
class pad(Move):
    """Grown by `before` and `after` elements per axis, filled with `value`."""

    attrs = {"before": INTS, "after": INTS, "value": Attr(float, 0.0)}
    axes = "*r! -> *r!"

    def infer(self, x: TensorType, *, before: tuple[int, ...], after: tuple[int, ...], value: float) -> TensorType:
        if not len(before) == len(after) == x.rank or min((*before, *after), default=0) < 0:
            raise GraphError("pad: one non-negative amount per axis and side", found=f"{before}, {after} for {x}")
        return x.with_shape(*(a + d + c for a, d, c in zip(before, x.shape, after, strict=True)))

    def work(self, outs: Any, types: Any, attrs: Attrs) -> Work:
        return Work(0, types[0].bytes, outs[0].bytes)

    def reference(self, x: np.ndarray, *, before: Any, after: Any, value: float) -> np.ndarray:
        return np.pad(x, list(zip(before, after, strict=True)), constant_values=np.asarray(value).astype(x.dtype))
