"""Matrices cut into panels of columns, as kernels of matrix products read them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..diagnostics import GraphError
from ..dims import Dim
from ..op import Op, get, op
from ..tensor import TensorType, Work
from .checks import INTEGERS, check_indices, of_kind
from .widen import as_type


def _width(name: str, width: int) -> None:
    if width < 1:
        raise GraphError(f"{name}: a panel has at least one column", found=f"width {width}")


@op
class to_panels(Op):
    """A matrix as panels of `width` columns; columns that are missing in the last panel are 0.

    Shapes: x [k, n] -> [ceil(n / width), k, width].
    """

    inputs = ("x",)
    attrs = {"width": int}
    axes = "k n! -> p! k w!"
    pure_move = True

    def infer(self, x: TensorType, *, width: int) -> TensorType:
        _width("to_panels", width)
        if x.rank != 2 or not isinstance(x.shape[1], int):
            raise GraphError("to_panels: takes a matrix of so many columns", found=str(x))
        return x.with_shape(-(-x.shape[1] // width), x.shape[0], width)

    def flops(self, out: TensorType, *types: Any, **attrs: Any) -> Dim:
        return 0

    def reference(self, x: np.ndarray, *, width: int) -> np.ndarray:
        k, n = x.shape
        panels = -(-n // width)
        wide = np.zeros((k, panels * width), x.dtype)
        wide[:, :n] = x
        return np.ascontiguousarray(wide.reshape(k, panels, width).transpose(1, 0, 2))


@op
class from_panels(Op):
    """The matrix of so many columns that panels were cut from.

    Shapes: x [ceil(n / width), k, width] -> [k, n], n = columns.
    """

    inputs = ("x",)
    attrs = {"columns": int}
    axes = "p! k w! -> k n!"
    pure_move = True

    def infer(self, x: TensorType, *, columns: int) -> TensorType:
        if x.rank != 3 or not all(isinstance(d, int) for d in x.shape):
            raise GraphError("from_panels: takes panels [p, k, width]", found=str(x))
        panels, k, width = x.shape
        if columns < 1 or -(-columns // width) != panels:
            raise GraphError(f"from_panels: {panels} panels of {width} do not make {columns} columns")
        return x.with_shape(k, columns)

    def flops(self, out: TensorType, *types: Any, **attrs: Any) -> Dim:
        return 0

    def reference(self, x: np.ndarray, *, columns: int) -> np.ndarray:
        panels, k, width = x.shape
        return np.ascontiguousarray(x.transpose(1, 0, 2).reshape(k, panels * width)[:, :columns])


@op
class panel_linear(Op):
    """x · weight + bias of a weight that is held in panels, in x's type; they may be of fewer bits than x.

    Shapes: x [*r, k], panels [p, k, width], bias [n] -> [*r, n], n = columns.
    Flops: those of `linear`; what pads the last panel is not counted.
    """

    inputs = ("x", "panels", "bias?")
    attrs = {"columns": int}
    axes = "*r k, p! k w!, n! -> *r n!"

    def infer(self, x: TensorType, panels: TensorType, bias: TensorType | None = None, *,
              columns: int) -> TensorType:  # fmt: skip
        weight = get("from_panels").infer(panels, columns=columns)
        assert isinstance(weight, TensorType)
        if panels.dtype.is_float and panels.dtype.bits < x.dtype.bits:
            weight = weight.with_dtype(x.dtype)
        y = get("linear").infer(x, weight, bias)
        assert isinstance(y, TensorType)
        return y

    def flops(self, out: TensorType, x: TensorType, panels: TensorType, bias: Any = None, *, columns: int) -> Dim:
        return 2 * x.shape[-1] * out.elements + (0 if bias is None else out.elements)

    def reference(self, x: np.ndarray, panels: np.ndarray, bias: Any = None, *, columns: int) -> np.ndarray:
        weight = np.asarray(get("from_panels").reference(panels, columns=columns))
        y = get("linear").reference(x, weight.astype(x.dtype), bias)
        assert isinstance(y, np.ndarray)
        return y

    def decompose(self, b: Any, x: Any, panels: Any, bias: Any = None, *, columns: int) -> Any:
        return b.emit("linear", x, as_type(b, b.emit("from_panels", panels, columns=columns), x.type.dtype), bias)


@op
class panel_gather(Op):
    """Columns of a matrix that is held in panels, by their index: an embedding that is the head's weight too.

    Shapes: panels [p, k, width], indices integer [*i], 0 <= index < columns -> [*i, k].
    Reads the columns that it takes, not all of the panels.
    """

    inputs = ("panels", "indices")
    attrs = {"columns": int}
    axes = "p! k w!, *i -> *i k"
    pure_move = True

    def infer(self, panels: TensorType, indices: TensorType, *, columns: int) -> TensorType:
        get("from_panels").infer(panels, columns=columns)
        of_kind("panel_gather", "indices", indices, INTEGERS)
        return panels.with_shape(*indices.shape, panels.shape[1])

    def flops(self, out: TensorType, *types: Any, **attrs: Any) -> Dim:
        return 0

    def work(self, outs: Any, types: Any, attrs: Any) -> Work:
        return Work(0, outs[0].bytes + types[1].bytes, outs[0].bytes)

    def reference(self, panels: np.ndarray, indices: np.ndarray, *, columns: int) -> np.ndarray:
        check_indices("panel_gather", indices, columns)
        width = panels.shape[2]
        return panels[indices // width, :, indices % width]

    def decompose(self, b: Any, panels: Any, indices: Any, *, columns: int) -> Any:
        matrix = b.emit("transpose", b.emit("from_panels", panels, columns=columns), perm=(1, 0))
        return b.emit("gather", matrix, indices, axis=0)
