"""Reductions and running sums."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from .. import dims
from ..dims import Dim
from ..dtypes import i64
from ..op import INTS, Attr, Op, op
from ..tensor import TensorType
from .checks import BOOL, FLOATS, NUMBERS, normal_axes, normal_axis, of_kind, within
from .letters import letters, spell


class Reduce(Op):
    """Base of ops that take one value out of many along some axes.

    axes:     which; none reduces nothing.
    keepdims: whether they stay as axes of one.
    """

    inputs = ("x",)
    attrs = {"axes": INTS, "keepdims": Attr(bool, False)}
    axes = "*r! -> *s!"
    takes: ClassVar[tuple[str, ...]] = NUMBERS
    cost: ClassVar[int] = 0
    of_none: ClassVar[bool] = True  # whether it has a value where there are no elements

    def infer(self, x: TensorType, *, axes: tuple[int, ...], keepdims: bool) -> TensorType:
        of_kind(self.name, "x", x, self.takes)
        gone = normal_axes(self.name, axes, x)
        for i in () if self.of_none else gone:
            within(self.name, 1, x.shape[i], f"axis {i} has no elements")
        kept = [1 if i in gone else d for i, d in enumerate(x.shape) if keepdims or i not in gone]
        return x.with_shape(*kept)

    def axes_for(self, x: TensorType, *, axes: tuple[int, ...], keepdims: bool) -> str:
        gone = normal_axes(self.name, axes, x)
        names = letters(x.rank)
        return spell([names], [["1" if i in gone else n for i, n in enumerate(names) if keepdims or i not in gone]])

    def flops(self, out: TensorType, x: TensorType, **attrs: Any) -> Dim:
        return self.cost * x.elements


def _accumulator(x: np.ndarray) -> np.dtype:
    """Floats add up in f64 (ml_dtypes' types are none of numpy's kinds), integers in their own type."""
    return x.dtype if np.issubdtype(x.dtype, np.integer) else np.dtype(np.float64)


@op
class sum_(Reduce):
    """The sum. Counts one FLOP per element of x."""

    cost = 1

    def reference(self, x: np.ndarray, *, axes: tuple[int, ...], keepdims: bool) -> np.ndarray:
        return x.sum(axes, dtype=_accumulator(x), keepdims=keepdims)


@op
class prod(Reduce):
    """The product. Counts one FLOP per element of x."""

    cost = 1

    def reference(self, x: np.ndarray, *, axes: tuple[int, ...], keepdims: bool) -> np.ndarray:
        return x.prod(axes, dtype=_accumulator(x), keepdims=keepdims)


@op
class mean(Reduce):
    """The arithmetic mean. Counts one FLOP per element of x; the division of each result is not counted."""

    takes = FLOATS
    cost = 1

    def reference(self, x: np.ndarray, *, axes: tuple[int, ...], keepdims: bool) -> np.ndarray:
        return x.mean(axes, dtype=np.float64, keepdims=keepdims)

    def decompose(self, b: Any, x: Any, *, axes: tuple[int, ...], keepdims: bool) -> Any:
        total = b.emit("sum", x, axes=axes, keepdims=keepdims)
        count = dims.product(x.type.shape[a] for a in axes)
        return b.emit("div", total, b.emit("cast", b.emit("dim_value", dim=count), dtype=x.type.dtype))


@op
class max_(Reduce):
    """The greatest; nan where there is one. Compares: no FLOPs."""

    of_none = False

    def reference(self, x: np.ndarray, *, axes: tuple[int, ...], keepdims: bool) -> np.ndarray:
        return np.max(x, axes, keepdims=keepdims)


@op
class min_(Reduce):
    """The least; nan where there is one. Compares: no FLOPs."""

    of_none = False

    def reference(self, x: np.ndarray, *, axes: tuple[int, ...], keepdims: bool) -> np.ndarray:
        return np.min(x, axes, keepdims=keepdims)


@op
class any_(Reduce):
    """Whether one is true."""

    takes = BOOL

    def reference(self, x: np.ndarray, *, axes: tuple[int, ...], keepdims: bool) -> np.ndarray:
        return np.any(x, axes, keepdims=keepdims)


@op
class all_(Reduce):
    """Whether all are true."""

    takes = BOOL

    def reference(self, x: np.ndarray, *, axes: tuple[int, ...], keepdims: bool) -> np.ndarray:
        return np.all(x, axes, keepdims=keepdims)

    def decompose(self, b: Any, x: Any, *, axes: tuple[int, ...], keepdims: bool) -> Any:
        return b.emit("not", b.emit("any", b.emit("not", x), axes=axes, keepdims=keepdims))


@op
class argmax(Op):
    """Where the greatest stands along one axis, the first of equals; i64. Compares: no FLOPs."""

    inputs = ("x",)
    attrs = {"axis": int, "keepdims": Attr(bool, False)}
    axes = "*r! -> *s!"

    def infer(self, x: TensorType, *, axis: int, keepdims: bool) -> TensorType:
        of_kind("argmax", "x", x, (*NUMBERS, *BOOL))
        at = normal_axis("argmax", axis, x)
        within("argmax", 1, x.shape[at], "there is nothing to choose from")
        kept = (1,) if keepdims else ()
        return TensorType(i64, (*x.shape[:at], *kept, *x.shape[at + 1 :]))

    def axes_for(self, x: TensorType, *, axis: int, keepdims: bool) -> str:
        at = axis % x.rank
        names = letters(x.rank, {at})
        return spell([names], [[*names[:at], *(["1"] if keepdims else []), *names[at + 1 :]]])

    def flops(self, out: TensorType, x: TensorType, **attrs: Any) -> Dim:
        return 0

    def reference(self, x: np.ndarray, *, axis: int, keepdims: bool) -> np.ndarray:
        return np.argmax(x, axis, keepdims=keepdims)


@op
class cumsum(Op):
    """The running sum along one axis, the element itself included. Counts one FLOP per element."""

    inputs = ("x",)
    attrs = {"axis": int}
    axes = "*r! -> *r!"

    def infer(self, x: TensorType, *, axis: int) -> TensorType:
        of_kind("cumsum", "x", x, NUMBERS)
        normal_axis("cumsum", axis, x)
        return x

    def axes_for(self, x: TensorType, *, axis: int) -> str:
        names = letters(x.rank, {axis % x.rank})
        return spell([names], [names])

    def flops(self, out: TensorType, x: TensorType, *, axis: int) -> Dim:
        return x.elements

    def reference(self, x: np.ndarray, *, axis: int) -> np.ndarray:
        return np.cumsum(x, axis, dtype=_accumulator(x))
