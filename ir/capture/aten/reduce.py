"""ATen reductions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...diagnostics import CaptureError
from ...dtypes import boolean
from .table import axes, axis, enters

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_torch import Translator

TABLE: dict[str, Any] = {}


def _reduce(to: Translator, op: str, dim: Any, keepdim: Any, dtype: Any = None) -> Value:
    value = to.value(to.node.args[0], dtype)
    return to.emit(op, value, axes=axes(dim, value.type.rank), keepdims=bool(keepdim))


@enters(TABLE, "sum.dim_IntList", "sum.default", "mean.dim", "mean.default")
def _(to: Translator) -> Value:
    dim, keepdim = to.args("dim", "keepdim")
    op = "sum" if ".sum." in str(to.node.target) else "mean"
    return _reduce(to, op, dim, keepdim, to.type().dtype)


@enters(TABLE, "amax.default", "amin.default", "max.default", "min.default")
def _(to: Translator) -> Value:
    dim, keepdim = to.args("dim", "keepdim")
    return _reduce(to, "max" if "max" in str(to.node.target) else "min", dim, keepdim)


@enters(TABLE, "max.dim", "min.dim")
def _(to: Translator) -> tuple[Value, ...]:
    """(values, indices): the best one of topk."""
    x, dim, keepdim = to.args("self", "dim", "keepdim")
    value = to.value(x)
    at = axis(dim, value.type.rank)
    found = to.emit_many("topk", value, k=1, axis=at, largest=".max." in str(to.node.target))
    if keepdim:
        return found
    return tuple(to.emit("reshape", v, shape=to.type(m).shape) for v, m in zip(found, to.node.meta["val"], strict=True))


@enters(TABLE, "any.default", "any.dim", "any.dims", "all.default", "all.dim", "all.dims")
def _(to: Translator) -> Value:
    dim, keepdim = to.args("dim", "keepdim")
    return _reduce(to, "any" if ".any." in str(to.node.target) else "all", dim, keepdim, boolean)


@enters(TABLE, "argmax.default")
def _(to: Translator) -> Value:
    x, dim, keepdim = to.args("self", "dim", "keepdim")
    value = to.value(x)
    if dim is None:
        from ... import dims

        value, dim = to.emit("reshape", value, shape=(dims.product(value.type.shape),)), 0
    return to.emit("argmax", value, axis=axis(dim, value.type.rank), keepdims=bool(keepdim))


@enters(TABLE, "cumsum.default")
def _(to: Translator) -> Value:
    value = to.value(to.node.args[0], to.type().dtype)
    return to.emit("cumsum", value, axis=axis(to.node.args[1], value.type.rank))


@enters(TABLE, "linalg_vector_norm.default", "norm.ScalarOpt_dim")
def _(to: Translator) -> Value:
    """The Euclidean length, or the sum or the largest of the absolute values."""
    order, dim, keepdim = to.args("ord", "dim", "keepdim")
    order = to.args("p")[0] if order is None else order
    value = to.value(to.node.args[0], to.type().dtype)
    over = {"axes": axes(dim, value.type.rank), "keepdims": bool(keepdim)}
    if order in (None, 2):
        return to.emit("sqrt", to.emit("sum", to.emit("mul", value, value), **over))
    if order not in (1, float("inf")):
        raise CaptureError(f"the norm of order {order} is not captured", hint="write it out, or use order 2")
    return to.emit("sum" if order == 1 else "max", to.emit("abs", value), **over)


@enters(TABLE, "std.correction", "std.dim")
def _(to: Translator) -> Value:
    return to.emit("sqrt", _variance(to))


@enters(TABLE, "var.correction", "var.dim")
def _(to: Translator) -> Value:
    return _variance(to)


def _variance(to: Translator) -> Value:
    """Mean of squared differences, with n - correction in the denominator."""
    from ... import dims

    x, dim, keepdim = to.args("self", "dim", "keepdim")
    correction, unbiased = to.args("correction", "unbiased")
    correction = (1 if unbiased in (None, True) else 0) if correction is None else int(correction)
    value = to.value(x)
    over = axes(dim, value.type.rank)
    centred = to.emit("sub", value, to.emit("mean", value, axes=over, keepdims=True))
    square = to.emit("mul", centred, centred)
    if not correction:
        return to.emit("mean", square, axes=over, keepdims=bool(keepdim))
    count = dims.product(value.type.shape[a] for a in over) - correction
    total = to.emit("sum", square, axes=over, keepdims=bool(keepdim))
    return to.emit("div", total, to.value(count, value.type.dtype))
