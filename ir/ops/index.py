"""Ops that look elements up or put them in place by index."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..diagnostics import GraphError
from ..dims import Dim
from ..dtypes import DType, i64
from ..op import DIM, Attr, Op, op
from ..tensor import TensorType, Work
from .checks import INTEGERS, NUMBERS, check_indices, normal_axis, of_kind, same_but, same_dtype, within
from .letters import letters, spell


class Index(Op):
    """Base of ops that move elements by index and compute none."""

    attrs = {"axis": int}
    pure_move = True

    def flops(self, out: TensorType, *types: Any, **attrs: Any) -> Dim:
        return 0


@op
class gather(Index):
    """Whole slices of x by their index along one axis: an embedding is gather(table, ids, axis=0).

    Shapes: x [*p, n, *s], indices [*i] with 0 <= index < n -> [*p, *i, *s].
    Reads the indices and the slices it takes, not all of x.
    """

    inputs = ("x", "indices")
    axes = "*r!, *i -> *i *r!"

    def infer(self, x: TensorType, indices: TensorType, *, axis: int) -> TensorType:
        at = normal_axis("gather", axis, x)
        of_kind("gather", "indices", indices, INTEGERS)
        return x.with_shape(*x.shape[:at], *indices.shape, *x.shape[at + 1 :])

    def axes_for(self, x: TensorType, indices: TensorType, *, axis: int) -> str:
        at = axis % x.rank
        own, ids = letters(x.rank, {at}), letters(indices.rank, first=x.rank)
        return spell([own, ids], [[*own[:at], *ids, *own[at + 1 :]]])

    def work(self, outs: Any, types: Any, attrs: Any) -> Work:
        return Work(0, outs[0].bytes + types[1].bytes, outs[0].bytes)

    def reference(self, x: np.ndarray, indices: np.ndarray, *, axis: int) -> np.ndarray:
        check_indices("gather", indices, x.shape[axis])
        return np.take(x, indices, axis)


@op
class gather_elements(Index):
    """One element of x for each index, along one axis.

    Shapes: x [*p, n, *s], indices [*p, m, *s] with 0 <= index < n -> [*p, m, *s].
    """

    inputs = ("x", "indices")
    axes = "*r!, *i! -> *i!"

    def infer(self, x: TensorType, indices: TensorType, *, axis: int) -> TensorType:
        of_kind("gather_elements", "indices", indices, INTEGERS)
        same_but("gather_elements", normal_axis("gather_elements", axis, x), x, indices)
        return x.with_shape(*indices.shape)

    def axes_for(self, x: TensorType, indices: TensorType, *, axis: int) -> str:
        at = axis % x.rank
        own = letters(x.rank, {at})
        ids = [*own[:at], *letters(1, first=x.rank), *own[at + 1 :]]
        return spell([own, ids], [ids])

    def work(self, outs: Any, types: Any, attrs: Any) -> Work:
        return Work(0, outs[0].bytes + types[1].bytes, outs[0].bytes)

    def reference(self, x: np.ndarray, indices: np.ndarray, *, axis: int) -> np.ndarray:
        check_indices("gather_elements", indices, x.shape[axis])
        return np.take_along_axis(x, indices.astype(np.int64), axis)


_COMBINE: dict[str, np.ufunc | None] = {
    "none": None, "add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum,
}  # fmt: skip


@op
class scatter_elements(Index):
    """x with one element replaced for each index, along one axis.

    Shapes: x [*p, n, *s], indices and updates [*p, m, *s] with 0 <= index < n -> [*p, n, *s].
    reduction: "none", where no index may come twice in a line, or how what is there and the updates are taken
      together: "add", "mul", "max", "min".
    Flops: one for each update that is added or multiplied.
    """

    inputs = ("x", "indices", "updates")
    attrs = {"axis": int, "reduction": Attr(str, "none")}
    pure_move = False
    axes = "*r!, *i!, *i! -> *r!"

    def infer(
        self, x: TensorType, indices: TensorType, updates: TensorType, *, axis: int, reduction: str
    ) -> TensorType:
        if reduction not in _COMBINE:
            raise GraphError(f"scatter_elements: reduction is one of {', '.join(_COMBINE)}, got {reduction!r}")
        of_kind("scatter_elements", "indices", indices, INTEGERS)
        same_dtype("scatter_elements", x, updates)
        same_but("scatter_elements", normal_axis("scatter_elements", axis, x), x, indices)
        if updates.shape != indices.shape:
            raise GraphError("scatter_elements: one update for each index", found=f"{updates} for {indices}")
        return x

    def axes_for(self, x: TensorType, indices: Any, updates: Any, *, axis: int, reduction: str) -> str:
        at = axis % x.rank
        own = letters(x.rank, {at})
        ids = [*own[:at], *letters(1, {0}, first=x.rank), *own[at + 1 :]]
        return spell([own, ids, ids], [own])

    def flops(self, out: TensorType, x: Any, indices: TensorType, updates: Any, *, axis: int, reduction: str) -> Dim:
        return indices.elements if reduction in ("add", "mul") else 0

    def reference(self, x: np.ndarray, indices: Any, updates: Any, *, axis: int, reduction: str) -> np.ndarray:
        check_indices("scatter_elements", indices, x.shape[axis])
        where = list(np.indices(indices.shape, sparse=True))
        where[axis] = indices.astype(np.int64)
        combine = _COMBINE[reduction]
        if combine is None:
            out = x.copy()
            out[tuple(where)] = updates
        else:  # like a sum, it is rounded once
            wide = x.dtype if np.issubdtype(x.dtype, np.integer) else np.dtype(np.float64)
            out = x.astype(wide)
            combine.at(out, tuple(where), updates.astype(wide))
        return out


@op
class iota(Op):
    """start, start + step, start + 2 · step, ...: `length` numbers. Counts no FLOPs."""

    attrs = {"length": DIM, "start": Attr(DIM, 0), "step": Attr(int, 1), "dtype": Attr(DType, i64)}
    axes = "-> n!"

    def infer(self, *, length: Dim, start: Dim, step: int, dtype: DType) -> TensorType:
        within("iota", 0, length, "the length is negative")
        of_kind("iota", "dtype", TensorType(dtype), NUMBERS)
        return TensorType(dtype, (length,))

    def flops(self, out: TensorType, **attrs: Any) -> Dim:
        return 0

    def reference(self, *, length: int, start: int, step: int, dtype: DType) -> np.ndarray:
        return (start + step * np.arange(length)).astype(dtype.numpy)


@op
class topk(Op):
    """The k greatest (or least) along one axis, best first, and their indices; of equals the first comes first.

    Shapes: x [*p, n, *s] -> values [*p, k, *s], indices i64 [*p, k, *s].
    Compares only: no FLOPs. nan counts as the greatest.
    """

    inputs = ("x",)
    attrs = {"k": int, "axis": Attr(int, -1), "largest": Attr(bool, True)}
    axes = "*r! -> *r!, *r!"

    def infer(self, x: TensorType, *, k: int, axis: int, largest: bool) -> tuple[TensorType, TensorType]:
        at = normal_axis("topk", axis, x)
        of_kind("topk", "x", x, NUMBERS)
        within("topk", 1, k, "k is too small")
        within("topk", k, x.shape[at], f"k is more than axis {at} of {x} holds")
        values = x.with_shape(*x.shape[:at], k, *x.shape[at + 1 :])
        return values, values.with_dtype(i64)

    def axes_for(self, x: TensorType, *, k: int, axis: int, largest: bool) -> str:
        at = axis % x.rank
        own = letters(x.rank, {at})
        kept = [*own[:at], *letters(1, {0}, first=x.rank), *own[at + 1 :]]
        return spell([own], [kept, kept])

    def flops(self, out: TensorType, x: TensorType, **attrs: Any) -> Dim:
        return 0

    def reference(self, x: np.ndarray, *, k: int, axis: int, largest: bool) -> tuple[np.ndarray, np.ndarray]:
        n = x.shape[axis]
        if k > n:
            raise GraphError(f"topk: k is {k}, axis {axis} holds {n}")
        if largest:  # sorting the reverse keeps the first of equals first
            order = n - 1 - np.flip(np.argsort(np.flip(x, axis), axis, kind="stable"), axis)
        else:
            order = np.argsort(x, axis, kind="stable")
        kept = np.take(order, np.arange(k), axis).astype(np.int64)
        return np.take_along_axis(x, kept, axis), kept


