"""Compares, logic and selection, element by element with numpy's broadcasting: no FLOPs."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..dims import Dim
from ..dtypes import boolean
from ..op import Op, op
from ..tensor import TensorType
from .broadcast import broadcast
from .checks import ANY, BOOL, of_kind, same_dtype
from .elementwise import Binary, Unary


class Compare(Binary):
    """Base of ops on two inputs of one element type that give bool."""

    cost = 0

    def infer(self, a: TensorType, b: TensorType) -> TensorType:
        return super().infer(a, b).with_dtype(boolean)


@op
class eq(Compare):
    """Whether a == b."""

    commutes = True
    takes = ANY
    fn = np.equal


@op
class ne(Compare):
    """Whether a != b."""

    commutes = True
    takes = ANY
    fn = np.not_equal

    def decompose(self, b: Any, x: Any, y: Any) -> Any:
        return b.emit("not", b.emit("eq", x, y))


@op
class lt(Compare):
    """Whether a < b."""

    fn = np.less


@op
class le(Compare):
    """Whether a <= b."""

    fn = np.less_equal


@op
class gt(Compare):
    """Whether a > b."""

    fn = np.greater


@op
class ge(Compare):
    """Whether a >= b."""

    fn = np.greater_equal


@op
class and_(Compare):
    """Whether both are true."""

    commutes = True
    takes = BOOL
    fn = np.logical_and


@op
class or_(Compare):
    """Whether either is true."""

    commutes = True
    takes = BOOL
    fn = np.logical_or


@op
class xor(Compare):
    """Whether exactly one is true."""

    commutes = True
    takes = BOOL
    fn = np.logical_xor

    def decompose(self, b: Any, x: Any, y: Any) -> Any:
        return b.emit("ne", x, y)


@op
class not_(Unary):
    """Whether x is false."""

    takes = BOOL
    cost = 0
    fn = np.logical_not


@op
class isnan(Unary):
    """Whether x is not a number."""

    cost = 0
    fn = np.isnan

    def result(self, x: TensorType) -> TensorType:
        return x.with_dtype(boolean)

    def decompose(self, b: Any, x: Any) -> Any:
        return b.emit("ne", x, x)


@op
class where(Op):
    """a where cond is true, else b."""

    inputs = ("cond", "a", "b")
    axes = "*r, *r, *r -> *r"

    def infer(self, cond: TensorType, a: TensorType, b: TensorType) -> TensorType:
        of_kind("where", "cond", cond, BOOL)
        same_dtype("where", a, b)
        return TensorType(a.dtype, broadcast("where", cond.shape, a.shape, b.shape))

    def flops(self, out: TensorType, *types: Any) -> Dim:
        return 0

    def reference(self, cond: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.where(cond, a, b)
