"""Ops that look elements up by index, and the counting of positions."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..diagnostics import GraphError
from ..dims import Dim
from ..dtypes import DType, i64
from ..op import DIM, Attr, Attrs, Op, op
from ..tensor import TensorType, Work
from .shape import normal_axis


def _integers(name: str, indices: TensorType) -> None:
    if not indices.dtype.is_int:
        raise GraphError(f"{name}: indices are integers", found=str(indices))


class Lookup(Op):
    """Base: no FLOPs; reads the indices and as many elements as it writes."""

    def flops(self, out: TensorType, *types: Any, **attrs: Any) -> Dim:
        return 0

    def work(self, outs: Any, types: Any, attrs: Attrs) -> Work:
        return Work(0, types[1].bytes + outs[0].bytes, outs[0].bytes)


@op
class gather(Lookup):
    """numpy's take: x[..., indices, ...] along one axis. An embedding is gather(weight, ids, axis=0).

    Shapes: x [*a, n, *b], indices [*i] -> [*a, *i, *b]. Negative indices count from the end.
    """

    inputs = ("x", "indices")
    attrs = {"axis": Attr(int, 0)}
    axes = "n! *b, *i -> *i *b"

    def infer(self, x: TensorType, indices: TensorType, *, axis: int) -> TensorType:
        _integers("gather", indices)
        at = normal_axis("gather", axis, x.rank)
        return x.with_shape(*x.shape[:at], *indices.shape, *x.shape[at + 1 :])

    def reference(self, x: np.ndarray, indices: np.ndarray, *, axis: int) -> np.ndarray:
        return np.take(x, indices, axis)


@op
class gather_elements(Lookup):
    """out[i][j] = x[indices[i][j]][j], for axis 0: one index per output element.

    Shapes: x and indices have one rank and may differ on `axis` only -> shape of indices.
    """

    inputs = ("x", "indices")
    attrs = {"axis": int}
    axes = "*r n!, *r m -> *r m"

    def infer(self, x: TensorType, indices: TensorType, *, axis: int) -> TensorType:
        _integers("gather_elements", indices)
        at = normal_axis("gather_elements", axis, x.rank)
        same = all(a == b for i, (a, b) in enumerate(zip(x.shape, indices.shape, strict=False)) if i != at)
        if x.rank != indices.rank or not same:
            raise GraphError("gather_elements: shapes may differ on the axis only", found=f"{x}, {indices}")
        return x.with_shape(*indices.shape)

    def reference(self, x: np.ndarray, indices: np.ndarray, *, axis: int) -> np.ndarray:
        return np.take_along_axis(x, indices, axis)


@op
class scatter_elements(Op):
    """x with out[indices[i][j]][j] = updates[i][j], for axis 0; where indices repeat, the last one stays."""

    inputs = ("x", "indices", "updates")
    attrs = {"axis": int}
    axes = "*r n!, *r m!, *r m! -> *r n!"

    def infer(self, x: TensorType, indices: TensorType, updates: TensorType, *, axis: int) -> TensorType:
        _integers("scatter_elements", indices)
        normal_axis("scatter_elements", axis, x.rank)
        if updates.dtype != x.dtype or indices.shape != updates.shape or indices.rank != x.rank:
            raise GraphError("scatter_elements: one index per update", found=f"{x}, {indices}, {updates}")
        return x

    def flops(self, out: TensorType, *types: Any, **attrs: Any) -> Dim:
        return 0

    def reference(self, x: np.ndarray, indices: np.ndarray, updates: np.ndarray, *, axis: int) -> np.ndarray:
        out = x.copy()
        np.put_along_axis(out, indices, updates, axis)
        return out


@op
class iota(Op):
    """start, start + step, ...: `length` numbers."""

    attrs = {"length": DIM, "start": Attr(DIM, 0), "step": Attr(int, 1), "dtype": Attr(DType, i64)}
    axes = "-> n"
    pure_move = True

    def infer(self, *, length: Dim, start: Dim, step: int, dtype: DType) -> TensorType:
        if not dtype.is_int:
            raise GraphError(f"iota: counts in integers, got {dtype}", hint="cast its result")
        return TensorType(dtype, (length,))

    def flops(self, out: TensorType, **attrs: Any) -> Dim:
        return 0

    def reference(self, *, length: int, start: int, step: int, dtype: DType) -> np.ndarray:
        return (start + step * np.arange(length)).astype(dtype.numpy)


@op
class topk(Op):
    """The k largest (or smallest) along an axis, best first, and their indices; of equals the lower index first.

    Shapes: x [*r, n] -> values [*r, k], indices i64 [*r, k]. Compares count no FLOPs.
    """

    inputs = ("x",)
    attrs = {"k": int, "axis": Attr(int, -1), "largest": Attr(bool, True)}
    axes = "*r n! -> *r k!, *r k!"

    def infer(self, x: TensorType, *, k: int, axis: int, largest: bool) -> tuple[TensorType, TensorType]:
        at = normal_axis("topk", axis, x.rank)
        size = x.shape[at]
        if k < 1 or (isinstance(size, int) and k > size):
            raise GraphError(f"topk: cannot take {k} of axis {at} of {x}")
        out = x.with_shape(*x.shape[:at], k, *x.shape[at + 1 :])
        return out, out.with_dtype(i64)

    def flops(self, out: TensorType, x: TensorType, **attrs: Any) -> Dim:
        return 0

    def reference(self, x: np.ndarray, *, k: int, axis: int, largest: bool) -> tuple[np.ndarray, np.ndarray]:
        keys = -x.astype(np.float64) if largest else x.astype(np.float64)
        order = np.argsort(keys, axis=axis, kind="stable")
        index = np.take(order, np.arange(k), axis)
        return np.take_along_axis(x, index, axis), index.astype(np.int64)
