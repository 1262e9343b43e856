"""Matrix products."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..diagnostics import GraphError
from ..dims import Dim
from ..op import Op, op
from ..tensor import TensorType
from .broadcast import broadcast
from .checks import same_dtype


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The product, accumulated in f32 at least: half types would round every sum."""
    if a.dtype.itemsize < 4:
        a, b = a.astype(np.float32), b.astype(np.float32)
    return np.matmul(a, b)


@op
class matmul(Op):
    """Batched matrix product, with numpy's broadcasting of the leading axes.

    Shapes: a [*b, m, k], b [*b, k, n] -> [*b, m, n].
    Flops: 2 · batch · m · k · n.
    """

    inputs = ("a", "b")
    axes = "*b m k, *b k n -> *b m n"

    def infer(self, a: TensorType, b: TensorType) -> TensorType:
        if a.rank < 2 or b.rank < 2:
            raise GraphError("matmul: needs at least two axes on both sides")
        if a.shape[-1] != b.shape[-2]:
            raise GraphError(
                f"matmul: needs equal inner sizes, got {a.shape[-1]} and {b.shape[-2]}",
                found=f"{a} @ {b}", hint="transpose one side, or check the config's sizes",
            )  # fmt: skip
        same_dtype("matmul", a, b)
        lead = broadcast("matmul", a.shape[:-2], b.shape[:-2])
        return TensorType(a.dtype, (*lead, a.shape[-2], b.shape[-1]))

    def flops(self, out: TensorType, a: TensorType, b: TensorType) -> Dim:
        return 2 * a.shape[-1] * out.elements

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return _product(a, b)


@op
class linear(Op):
    """x · weight + bias, the weight laid out [k, n].

    Shapes: x [*r, k], weight [k, n], bias [n] -> [*r, n].
    Flops: 2 · rows · k · n, and one per output for the bias.
    """

    inputs = ("x", "weight", "bias?")
    axes = "*r k, k n, n -> *r n"

    def infer(self, x: TensorType, weight: TensorType, bias: TensorType | None = None) -> TensorType:
        if weight.rank != 2 or x.rank < 1 or x.shape[-1] != weight.shape[0]:
            raise GraphError(
                f"linear: needs equal inner sizes, got {x.shape[-1:]} and {weight.shape[:1]}",
                found=f"{x} @ {weight}", hint="transpose the weight, or check hidden_size in the config",
            )  # fmt: skip
        same_dtype("linear", x, weight, bias)
        if bias is not None and bias.shape != weight.shape[1:]:
            raise GraphError("linear: the bias does not fit the weight", found=f"{bias} for {weight}")
        return TensorType(x.dtype, (*x.shape[:-1], weight.shape[1]))

    def flops(self, out: TensorType, x: TensorType, weight: TensorType, bias: Any = None) -> Dim:
        return 2 * x.shape[-1] * out.elements + (0 if bias is None else out.elements)

    def reference(self, x: np.ndarray, weight: np.ndarray, bias: Any = None) -> np.ndarray:
        y = _product(x, weight)
        return y if bias is None else y + bias

    def decompose(self, b: Any, x: Any, weight: Any, bias: Any = None) -> Any:
        y = b.emit("matmul", x, weight)
        return y if bias is None else b.emit("add", y, bias)
