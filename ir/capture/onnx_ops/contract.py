"""ONNX's products of matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...diagnostics import CaptureError
from ..einsum import einsum
from .table import enters, scalar

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_onnx import Importer

TABLE: dict[str, Any] = {}


@enters(TABLE, "MatMul")
def _(to: Importer) -> Value:
    return product(to, to.value(0), to.value(1))


def product(to: Importer, a: Value, b: Value) -> Value:
    """numpy's matmul: a vector is a row on the left, a column on the right, and its axis goes. Raises: CaptureError."""
    if a.type.rank == 0 or b.type.rank == 0:
        raise CaptureError(f"{to.op}: takes vectors and matrices", found=f"{a.type} @ {b.type}")
    if a.type.rank > 1 and b.type.rank > 1:
        return to.emit("matmul", a, b)
    left = a if a.type.rank > 1 else to.emit("reshape", a, shape=(1, *a.type.shape))
    right = b if b.type.rank > 1 else to.emit("reshape", b, shape=(*b.type.shape, 1))
    y = to.emit("matmul", left, right)
    lead = y.type.shape[:-2]
    rows, columns = y.type.shape[-2:]
    kept = (*([rows] if a.type.rank > 1 else []), *([columns] if b.type.rank > 1 else []))
    return to.emit("reshape", y, shape=(*lead, *kept))


@enters(TABLE, "Gemm")
def _(to: Importer) -> Value:
    """alpha · A' B' + beta · C."""
    a, b = to.value(0), to.value(1)
    if a.type.rank != 2 or b.type.rank != 2:
        raise CaptureError("Gemm: takes two matrices", found=f"{a.type} and {b.type}")
    a, b = (to.emit("transpose", v, perm=(1, 0)) if to.attr(n, 0) else v for v, n in ((a, "transA"), (b, "transB")))
    alpha, beta = to.attr("alpha", 1.0), to.attr("beta", 1.0)
    bias = to.value(2) if to.has(2) and beta != 0 else None
    if bias is not None and alpha == beta == 1 and bias.type.shape == b.type.shape[1:]:
        return to.emit("linear", a, b, bias)
    y = scaled(to, to.emit("linear", a, b), alpha)
    return y if bias is None else to.emit("add", y, scaled(to, bias, beta))


def scaled(to: Importer, x: Value, factor: float) -> Value:
    return x if factor == 1 else to.emit("mul", x, scalar(to, factor, x))


@enters(TABLE, "Einsum")
def _(to: Importer) -> Value:
    return einsum(to.emit, to.attr("equation"), [to.value(i) for i in range(to.count)])
