"""Matrices cut into panels of columns, as kernels of matrix products read them.

A dot-product instruction adds up several products along k in each of its lanes: for such, panels are `depth` deep, so
many numbers along k beside each other in a column.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..diagnostics import GraphError
from ..dims import Dim
from ..dtypes import f32
from ..op import Attr, Op, get, op
from ..tensor import TensorType, Work
from .checks import INTEGERS, check_indices, of_kind
from .widen import as_type


@op
class to_panels(Op):
    """A matrix as panels of `width` columns; columns that are missing in the last panel are 0.

    Shapes: x [k, n] -> [ceil(n / width), k, width], or [ceil(n / width), k / depth, width, depth] of a depth over 1.
    """

    inputs = ("x",)
    attrs = {"width": int, "depth": Attr(int, 1)}
    axes = "k n! -> p! k w!"
    pure_move = True

    def axes_for(self, *types: Any, depth: int = 1, **attrs: Any) -> str:
        return self.axes if depth == 1 else "k! n! -> p! h! w! z!"

    def infer(self, x: TensorType, *, width: int, depth: int = 1) -> TensorType:
        if width < 1 or depth < 1:
            raise GraphError("to_panels: a panel has at least one column", found=f"width {width}, depth {depth}")
        if x.rank != 2 or not isinstance(x.shape[1], int):
            raise GraphError("to_panels: takes a matrix of so many columns", found=str(x))
        panels, k = -(-x.shape[1] // width), x.shape[0]
        if depth == 1:
            return x.with_shape(panels, k, width)
        if not isinstance(k, int) or k % depth:
            raise GraphError(f"to_panels: {k} rows are no multiple of {depth}")
        return x.with_shape(panels, k // depth, width, depth)

    def flops(self, out: TensorType, *types: Any, **attrs: Any) -> Dim:
        return 0

    def reference(self, x: np.ndarray, *, width: int, depth: int = 1) -> np.ndarray:
        k, n = x.shape
        panels = -(-n // width)
        wide = np.zeros((k, panels * width), x.dtype)
        wide[:, :n] = x
        cut = wide.reshape(k // depth, depth, panels, width).transpose(2, 0, 3, 1)  # p k w z
        return np.ascontiguousarray(cut if depth > 1 else cut[..., 0])


def _rows(panels: TensorType) -> Dim:
    """k of the matrix that panels were cut from."""
    return panels.shape[1] if panels.rank == 3 else panels.shape[1] * panels.shape[3]


@op
class from_panels(Op):
    """The matrix of so many columns that panels were cut from.

    Shapes: x [ceil(n / width), k, width] or [ceil(n / width), k / depth, width, depth] -> [k, n], n = columns.
    """

    inputs = ("x",)
    attrs = {"columns": int}
    axes = "p! k w! -> k n!"
    pure_move = True

    def axes_for(self, x: TensorType, **attrs: Any) -> str:
        return self.axes if x.rank == 3 else "p! h! w! z! -> k! n!"

    def infer(self, x: TensorType, *, columns: int) -> TensorType:
        if x.rank not in (3, 4) or not all(isinstance(d, int) for d in x.shape):
            raise GraphError("from_panels: takes panels [p, k, width] or [p, k, width, depth]", found=str(x))
        panels, width = x.shape[0], x.shape[2]
        if columns < 1 or -(-columns // width) != panels:
            raise GraphError(f"from_panels: {panels} panels of {width} do not make {columns} columns")
        return x.with_shape(_rows(x), columns)

    def flops(self, out: TensorType, *types: Any, **attrs: Any) -> Dim:
        return 0

    def reference(self, x: np.ndarray, *, columns: int) -> np.ndarray:
        panels, rows, width, depth = (*x.shape, 1)[:4]
        cut = x.reshape(panels, rows, width, depth).transpose(1, 3, 0, 2)  # k z p w
        return np.ascontiguousarray(cut.reshape(rows * depth, panels * width)[:, :columns])


@op
class panel_linear(Op):
    """x · weight + bias of a weight that is held in panels, in x's type; they may be of fewer bits than x.

    Of deep panels, which are of x's type, sums and bias are in f32, and so is what comes: the instructions that they
    are made for add up so.

    Shapes: x [*r, k], panels as of `to_panels`, bias [n] -> [*r, n], n = columns.
    Flops: those of `linear`; what pads the last panel is not counted.
    """

    inputs = ("x", "panels", "bias?")
    attrs = {"columns": int}
    axes = "*r k, p! k w!, n! -> *r n!"

    def axes_for(self, x: TensorType, panels: TensorType, *types: Any, **attrs: Any) -> str:
        return self.axes if panels.rank == 3 else "*r k!, p! h! w! z!, n! -> *r n!"

    def infer(self, x: TensorType, panels: TensorType, bias: TensorType | None = None, *,
              columns: int) -> TensorType:  # fmt: skip
        weight = get("from_panels").infer(panels, columns=columns)
        assert isinstance(weight, TensorType)
        if panels.rank == 4 and panels.dtype == x.dtype:
            x, weight = x.with_dtype(f32), weight.with_dtype(f32)
        if panels.dtype.is_float and panels.dtype.bits < x.dtype.bits and panels.rank == 3:
            weight = weight.with_dtype(x.dtype)
        y = get("linear").infer(x, weight, bias)
        assert isinstance(y, TensorType)
        return y

    def flops(self, out: TensorType, x: TensorType, panels: TensorType, bias: Any = None, *, columns: int) -> Dim:
        return 2 * x.shape[-1] * out.elements + (0 if bias is None else out.elements)

    def reference(self, x: np.ndarray, panels: np.ndarray, bias: Any = None, *, columns: int) -> np.ndarray:
        weight = np.asarray(get("from_panels").reference(panels, columns=columns))
        x = x if panels.ndim == 3 or x.itemsize > 2 else x.astype(np.float32)
        y = get("linear").reference(x, weight.astype(x.dtype), bias)
        assert isinstance(y, np.ndarray)
        return y

    def decompose(self, b: Any, x: Any, panels: Any, bias: Any = None, *, columns: int) -> Any:
        x = x if panels.type.rank == 3 else as_type(b, x, f32)
        return b.emit("linear", x, as_type(b, b.emit("from_panels", panels, columns=columns), x.type.dtype), bias)


@op
class panel_gather(Op):
    """Columns of a matrix that is held in panels, by their index: an embedding that is the head's weight too.

    Shapes: panels as of `to_panels`, indices integer [*i], 0 <= index < columns -> [*i, k].
    Reads the columns that it takes, not all of the panels.
    """

    inputs = ("panels", "indices")
    attrs = {"columns": int}
    axes = "p! k w!, *i -> *i k"
    pure_move = True

    def axes_for(self, panels: TensorType, *types: Any, **attrs: Any) -> str:
        return self.axes if panels.rank == 3 else "p! h! w! z!, *i -> *i k!"

    def infer(self, panels: TensorType, indices: TensorType, *, columns: int) -> TensorType:
        get("from_panels").infer(panels, columns=columns)
        of_kind("panel_gather", "indices", indices, INTEGERS)
        return panels.with_shape(*indices.shape, _rows(panels))

    def flops(self, out: TensorType, *types: Any, **attrs: Any) -> Dim:
        return 0

    def work(self, outs: Any, types: Any, attrs: Any) -> Work:
        return Work(0, outs[0].bytes + types[1].bytes, outs[0].bytes)

    def reference(self, panels: np.ndarray, indices: np.ndarray, *, columns: int) -> np.ndarray:
        check_indices("panel_gather", indices, columns)
        width = panels.shape[2]
        taken: np.ndarray = panels[indices // width, :, indices % width]
        return taken.reshape(*indices.shape, panels.shape[1] * (panels.shape[3] if panels.ndim == 4 else 1))

    def decompose(self, b: Any, panels: Any, indices: Any, *, columns: int) -> Any:
        matrix = b.emit("transpose", b.emit("from_panels", panels, columns=columns), perm=(1, 0))
        return b.emit("gather", matrix, indices, axis=0)
