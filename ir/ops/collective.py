"""Ops that move data between the ranks of one mesh axis.

`ranks` is their meaning: from the arrays of all ranks, in order, to the results of all. Bytes are what one rank
reads and writes in its own memory; what crosses the links is a matter of the machine and stands with its costs.
"""

from __future__ import annotations

from functools import reduce
from typing import Any, ClassVar

import numpy as np

from .. import dims
from ..diagnostics import GraphError
from ..dims import Dim
from ..op import DIM, Attr, Op, op
from ..tensor import TensorType
from .checks import NUMBERS, normal_axis, of_kind, within
from .letters import letters, spell

REDUCTIONS = {"sum": np.add, "max": np.maximum, "min": np.minimum}


class Collective(Op):
    """Base. axis: the mesh axis; size: how many ranks it has."""

    inputs = ("x",)
    attrs = {"axis": str, "size": DIM}
    axes = "*r! -> *r!"
    whole: ClassVar[tuple[str, ...]] = ("dim",)  # attributes that name an axis which must not be split again

    def ranks(self, arrays: list[np.ndarray], *_: Any, **attrs: Any) -> list[np.ndarray]:
        """The results of all ranks from the arrays of all, in the order of the ranks."""
        raise GraphError(f"{self.name}: has no numpy meaning")

    def flops(self, out: TensorType, *types: Any, **attrs: Any) -> Dim:
        return 0

    def axes_for(self, x: TensorType, **attrs: Any) -> str:
        names = letters(x.rank, {attrs[w] % x.rank for w in self.whole})
        return spell([names], [names])

    def reference(self, x: np.ndarray, **attrs: Any) -> np.ndarray:
        """Of one rank alone. Raises: GraphError where there are more; those run in step, by `ranks`."""
        if attrs["size"] != 1:
            raise GraphError(f"{self.name}: {attrs['size']} ranks of {attrs['axis']!r} run in step, not one alone")
        return self.ranks([x], **attrs)[0]

    def _check(self, arrays: list[np.ndarray], size: int) -> None:
        if len(arrays) != size or any(a.shape != arrays[0].shape for a in arrays):
            raise GraphError(f"{self.name}: needs {size} arrays of one shape", found=str([a.shape for a in arrays]))


def _combine(arrays: list[np.ndarray], how: str) -> np.ndarray:
    dtype = arrays[0].dtype
    wide = dtype if how != "sum" or np.issubdtype(dtype, np.integer) else np.dtype(np.float64)
    return np.asarray(reduce(REDUCTIONS[how], [a.astype(wide) for a in arrays])).astype(dtype)


def _check_reduction(name: str, how: str, x: TensorType) -> None:
    of_kind(name, "x", x, NUMBERS)
    if how not in REDUCTIONS:
        raise GraphError(f"{name}: reduction is one of {', '.join(REDUCTIONS)}, got {how!r}")


def _scaled(name: str, x: TensorType, dim: int, up: Dim = 1, down: Dim = 1) -> TensorType:
    """The type with one axis `up` times as long, or a `down`-th. Raises: GraphError where that leaves a rest."""
    at = normal_axis(name, dim, x)
    within(name, 1, up * down, "size is at least 1")
    size = x.shape[at] * up
    if dims.mod(size, down) != 0:
        raise GraphError(f"{name}: axis {at} of {x} is no multiple of {down}")
    return x.with_shape(*x.shape[:at], dims.floordiv(size, down), *x.shape[at + 1 :])


@op
class all_reduce(Collective):
    """Each rank gets the sum (or max, min) over all ranks.

    Shapes: x [*r] -> [*r].
    Flops: of a sum, elements · (size - 1) / size on each rank.
    """

    attrs = {**Collective.attrs, "reduction": Attr(str, "sum")}
    whole = ()

    def infer(self, x: TensorType, *, axis: str, size: Dim, reduction: str) -> TensorType:
        _check_reduction("all_reduce", reduction, x)
        within("all_reduce", 1, size, "size is at least 1")
        return x

    def flops(self, out: TensorType, x: TensorType, *, axis: str, size: Dim, reduction: str) -> Dim:
        return dims.floordiv(x.elements * (size - 1), size) if reduction == "sum" else 0

    def ranks(self, arrays: list[np.ndarray], *, axis: str, size: int, reduction: str) -> list[np.ndarray]:
        self._check(arrays, size)
        return [_combine(arrays, reduction)] * size


@op
class all_gather(Collective):
    """Each rank gets all ranks' parts, one after the other along one axis.

    Shapes: x [*p, n, *s] -> [*p, n · size, *s].
    """

    attrs = {**Collective.attrs, "dim": int}

    def infer(self, x: TensorType, *, axis: str, size: Dim, dim: int) -> TensorType:
        return _scaled("all_gather", x, dim, up=size)

    def ranks(self, arrays: list[np.ndarray], *, axis: str, size: int, dim: int) -> list[np.ndarray]:
        self._check(arrays, size)
        return [np.concatenate(arrays, dim)] * size


@op
class reduce_scatter(Collective):
    """Each rank gets its own part, along one axis, of the sum (or max, min) over all ranks.

    Shapes: x [*p, n, *s] -> [*p, n / size, *s].
    Flops: of a sum, size - 1 for each element of the result.
    """

    attrs = {**Collective.attrs, "dim": int, "reduction": Attr(str, "sum")}

    def infer(self, x: TensorType, *, axis: str, size: Dim, dim: int, reduction: str) -> TensorType:
        _check_reduction("reduce_scatter", reduction, x)
        return _scaled("reduce_scatter", x, dim, down=size)

    def flops(self, out: TensorType, x: TensorType, *, axis: str, size: Dim, dim: int, reduction: str) -> Dim:
        return out.elements * (size - 1) if reduction == "sum" else 0

    def ranks(
        self, arrays: list[np.ndarray], *, axis: str, size: int, dim: int, reduction: str
    ) -> list[np.ndarray]:
        self._check(arrays, size)
        return np.split(_combine(arrays, reduction), size, dim)


@op
class all_to_all(Collective):
    """Rank i's j-th part goes to rank j, which puts the parts it gets one after the other.

    split_dim: the axis that is cut into `size` parts; concat_dim: the axis along which they are put together.
    Shapes: split_dim becomes a size-th of its length, concat_dim `size` times it.
    """

    attrs = {**Collective.attrs, "split_dim": int, "concat_dim": int}
    whole = ("split_dim", "concat_dim")

    def infer(self, x: TensorType, *, axis: str, size: Dim, split_dim: int, concat_dim: int) -> TensorType:
        return _scaled("all_to_all", _scaled("all_to_all", x, split_dim, down=size), concat_dim, up=size)

    def ranks(
        self, arrays: list[np.ndarray], *, axis: str, size: int, split_dim: int, concat_dim: int
    ) -> list[np.ndarray]:
        self._check(arrays, size)
        parts = [np.split(a, size, split_dim) for a in arrays]
        return [np.concatenate([p[j] for p in parts], concat_dim) for j in range(size)]
