"""Reductions and running sums."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from ..diagnostics import GraphError
from ..dims import Dim
from ..dtypes import boolean, i64
from ..op import INTS, Attr, Op, op
from ..tensor import TensorType
from .shape import normal_axis


class Reduce(Op):
    """Base: over `axes`, which are kept as 1 where `keepdims`. Flops: one per input element, none for compares."""

    inputs = ("x",)
    attrs = {"axes": INTS, "keepdims": Attr(bool, False)}
    axes = "*r n -> *r"
    per_element: ClassVar[int] = 1
    function: ClassVar[Callable[..., np.ndarray]]

    def infer(self, x: TensorType, *, axes: tuple[int, ...], keepdims: bool) -> TensorType:
        over = {normal_axis(self.name, a, x.rank) for a in axes}
        if keepdims:
            return x.with_shape(*(1 if i in over else d for i, d in enumerate(x.shape)))
        return x.with_shape(*(d for i, d in enumerate(x.shape) if i not in over))

    def axes_for(self, x: TensorType, *, axes: tuple[int, ...], keepdims: bool) -> str:
        names = [chr(ord("a") + i) for i in range(x.rank)]
        over = {a % x.rank for a in axes}
        kept = [("1" if i in over else n) for i, n in enumerate(names) if keepdims or i not in over]
        return f"{' '.join(names)} -> {' '.join(kept)}".strip()

    def flops(self, out: TensorType, x: TensorType, **attrs: Any) -> Dim:
        return self.per_element * x.elements

    def reference(self, x: np.ndarray, *, axes: tuple[int, ...], keepdims: bool) -> np.ndarray:
        wide = x.astype(np.float64) if x.dtype.kind not in "iub" else x
        return np.asarray(type(self).function(wide, axis=axes, keepdims=keepdims))


@op
class sum(Reduce):  # noqa: A001
    """The sum."""

    function = staticmethod(np.sum)


@op
class mean(Reduce):
    """The mean; the division of each result is not counted."""

    function = staticmethod(np.mean)

    def infer(self, x: TensorType, *, axes: tuple[int, ...], keepdims: bool) -> TensorType:
        if not x.dtype.is_float:
            raise GraphError("mean: takes floating types", found=str(x))
        return super().infer(x, axes=axes, keepdims=keepdims)


@op
class max(Reduce):  # noqa: A001
    """The largest element."""

    per_element = 0
    function = staticmethod(np.max)


@op
class min(Reduce):  # noqa: A001
    """The smallest element."""

    per_element = 0
    function = staticmethod(np.min)


class Truth(Reduce):
    """Base of the reductions of booleans."""

    per_element = 0

    def infer(self, x: TensorType, *, axes: tuple[int, ...], keepdims: bool) -> TensorType:
        if x.dtype != boolean:
            raise GraphError(f"{self.name}: takes booleans", found=str(x))
        return super().infer(x, axes=axes, keepdims=keepdims)


@op
class any(Truth):  # noqa: A001
    """Whether some element holds."""

    function = staticmethod(np.any)


@op
class all(Truth):  # noqa: A001
    """Whether every element holds."""

    function = staticmethod(np.all)


@op
class argmax(Op):
    """The index of the largest element along an axis, the first of equals; i64. Compares count no FLOPs."""

    inputs = ("x",)
    attrs = {"axis": int, "keepdims": Attr(bool, False)}
    axes = "*r n! -> *r"

    def infer(self, x: TensorType, *, axis: int, keepdims: bool) -> TensorType:
        at = normal_axis("argmax", axis, x.rank)
        return TensorType(i64, (*x.shape[:at], *((1,) if keepdims else ()), *x.shape[at + 1 :]))

    def flops(self, out: TensorType, x: TensorType, **attrs: Any) -> Dim:
        return 0

    def reference(self, x: np.ndarray, *, axis: int, keepdims: bool) -> np.ndarray:
        return np.argmax(x, axis, keepdims=keepdims).astype(np.int64)


@op
class cumsum(Op):
    """The running sum along an axis, its own element included. Flops: one per element."""

    inputs = ("x",)
    attrs = {"axis": int}
    axes = "*r n! -> *r n!"

    def infer(self, x: TensorType, *, axis: int) -> TensorType:
        normal_axis("cumsum", axis, x.rank)
        return x

    def flops(self, out: TensorType, x: TensorType, *, axis: int) -> Dim:
        return x.elements

    def reference(self, x: np.ndarray, *, axis: int) -> np.ndarray:
        return np.cumsum(x.astype(np.float64) if x.dtype.kind not in "iub" else x, axis)
