"""Normalisations over the last axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..diagnostics import GraphError
from ..dims import Dim
from ..op import Attr, Op, op
from ..tensor import TensorType
from .checks import FLOATS, normal_axis, of_kind
from .letters import letters, spell
from .widen import as_type, statistics_dtype


def _check(name: str, x: TensorType, *params: TensorType | None) -> None:
    of_kind(name, "x", x, FLOATS)
    if x.rank < 1:
        raise GraphError(f"{name}: needs an axis to normalise over", found=str(x))
    for p in params:
        if p is not None and p.shape != x.shape[-1:]:
            raise GraphError(f"{name}: parameters are as long as the last axis", found=f"{p} for {x}")


@op
class rms_norm(Op):
    """x / sqrt(mean(x²) + eps) · weight, over the last axis.

    Shapes: x [*r, d], weight [d] -> [*r, d].
    Flops: 4 per element of x (square, sum, two products); the square root of each row is not counted.
    Source: Zhang and Sennrich 2019, "Root Mean Square Layer Normalization".
    """

    inputs = ("x", "weight")
    attrs = {"eps": float}
    axes = "*r d!, d! -> *r d!"
    keeps_f32 = True

    def infer(self, x: TensorType, weight: TensorType, *, eps: float) -> TensorType:
        _check("rms_norm", x, weight)
        return x

    def flops(self, out: TensorType, x: TensorType, weight: TensorType, *, eps: float) -> Dim:
        return 4 * x.elements

    def reference(self, x: np.ndarray, weight: np.ndarray, *, eps: float) -> np.ndarray:
        wide = x.astype(np.float64)
        return wide / np.sqrt((wide * wide).mean(-1, keepdims=True) + eps) * weight

    def decompose(self, b: Any, x: Any, weight: Any, *, eps: float) -> Any:
        dtype = statistics_dtype(x.type.dtype)
        wide = as_type(b, x, dtype)
        square = b.emit("mean", b.emit("mul", wide, wide), axes=(-1,), keepdims=True)
        scale = b.emit("rsqrt", b.emit("add", square, b.constant(eps, dtype)))
        y = b.emit("mul", b.emit("mul", wide, scale), as_type(b, weight, dtype))
        return as_type(b, y, x.type.dtype)


@op
class layer_norm(Op):
    """(x - mean) / sqrt(var + eps) · weight + bias, over the last axis.

    Shapes: x [*r, d], weight [d], bias [d] -> [*r, d].
    Flops: 7 per element (mean, difference, square, sum, scale, weight, bias; 6 without bias).
    Source: Ba, Kiros and Hinton 2016, "Layer Normalization".
    """

    inputs = ("x", "weight", "bias?")
    attrs = {"eps": float}
    axes = "*r d!, d!, d! -> *r d!"
    keeps_f32 = True

    def infer(
        self, x: TensorType, weight: TensorType, bias: TensorType | None = None, *, eps: float
    ) -> TensorType:
        _check("layer_norm", x, weight, bias)
        return x

    def flops(self, out: TensorType, x: TensorType, weight: Any, bias: Any = None, *, eps: float) -> Dim:
        return (6 if bias is None else 7) * x.elements

    def reference(self, x: np.ndarray, weight: Any, bias: Any = None, *, eps: float) -> np.ndarray:
        wide = x.astype(np.float64)
        centred = wide - wide.mean(-1, keepdims=True)
        y = centred / np.sqrt((centred * centred).mean(-1, keepdims=True) + eps) * weight
        return y if bias is None else y + bias

    def decompose(self, b: Any, x: Any, weight: Any, bias: Any = None, *, eps: float) -> Any:
        dtype = statistics_dtype(x.type.dtype)
        wide = as_type(b, x, dtype)
        centred = b.emit("sub", wide, b.emit("mean", wide, axes=(-1,), keepdims=True))
        square = b.emit("mean", b.emit("mul", centred, centred), axes=(-1,), keepdims=True)
        scale = b.emit("rsqrt", b.emit("add", square, b.constant(eps, dtype)))
        y = b.emit("mul", b.emit("mul", centred, scale), as_type(b, weight, dtype))
        y = y if bias is None else b.emit("add", y, as_type(b, bias, dtype))
        return as_type(b, y, x.type.dtype)


@op
class softmax(Op):
    """exp(x - max) / sum(exp(x - max)) over one axis.

    Shapes: x [*r] -> [*r].
    Flops: 4 per element (difference, exponential, sum, division); the maximum is compares.
    """

    inputs = ("x",)
    attrs = {"axis": Attr(int, -1)}
    axes = "*r d! -> *r d!"
    keeps_f32 = True

    def infer(self, x: TensorType, *, axis: int) -> TensorType:
        of_kind("softmax", "x", x, FLOATS)
        normal_axis("softmax", axis, x)
        return x

    def axes_for(self, x: TensorType, *, axis: int) -> str:
        names = letters(x.rank, {axis % x.rank})
        return spell([names], [names])

    def flops(self, out: TensorType, x: TensorType, *, axis: int) -> Dim:
        return 4 * x.elements

    def reference(self, x: np.ndarray, *, axis: int) -> np.ndarray:
        wide = x.astype(np.float64)
        e = np.exp(wide - wide.max(axis, keepdims=True, initial=-np.inf))
        return e / e.sum(axis, keepdims=True)

    def decompose(self, b: Any, x: Any, *, axis: int) -> Any:
        wide = as_type(b, x, statistics_dtype(x.type.dtype))
        e = b.emit("exp", b.emit("sub", wide, b.emit("max", wide, axes=(axis,), keepdims=True)))
        return as_type(b, b.emit("div", e, b.emit("sum", e, axes=(axis,), keepdims=True)), x.type.dtype)
