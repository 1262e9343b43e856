"""ONNX ops that make tensors out of nothing, or out of a size."""

from __future__ import annotations

from math import ceil, prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import dims
from ...diagnostics import CaptureError
from ...dims import Dim, Expr
from ...dtypes import boolean, f32, from_numpy
from ..onnx_terms import LARGEST, Term
from .shape import expanded
from .table import enters, number, one_size, sizes

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_onnx import Importer

TABLE: dict[str, Any] = {}
_MOST = 1 << 28  # elements of a constant


@enters(TABLE, "Constant")
def _(to: Importer) -> Term:
    if to.attr("value", None) is not None:
        return to.tensor(to.attr("value"))
    for name, kind in (("value_float", np.float32), ("value_floats", np.float32), ("value_int", np.int64),
                       ("value_ints", np.int64)):  # fmt: skip
        if to.attr(name, None) is not None:
            array = np.asarray(to.attr(name), kind)
            return Term(from_numpy(array.dtype), array.shape, content=array)
    raise CaptureError("Constant holds no tensor of numbers")


@enters(TABLE, "ConstantOfShape")
def _(to: Importer) -> Term | Value:
    shape = sizes(to, 0, "shape")
    value = to.attr("value", None)
    fill = Term(f32, (1,), content=np.zeros(1, np.float32)) if value is None else to.tensor(value)
    if fill.content is None or fill.content.size != 1:
        raise CaptureError("ConstantOfShape: its value is one element")
    element = fill.content.reshape(())
    known = [d for d in shape if isinstance(d, int)]
    if len(known) == len(shape) and prod(known) <= LARGEST:
        return Term(fill.dtype, shape, content=np.full(known, element))
    return expanded(to, to.valued(Term(fill.dtype, (), content=element)), shape)


@enters(TABLE, "EyeLike")
def _(to: Importer) -> Value:
    like = to.term(0)
    if len(like.shape) != 2:
        raise CaptureError(f"EyeLike takes a matrix, got {len(like.shape)} axes")
    dtype = to.dtype(to.attr("dtype")) if to.attr("dtype", None) is not None else like.dtype
    rows, columns = like.shape
    row = to.emit("reshape", to.emit("iota", length=rows, start=to.attr("k", 0)), shape=(rows, 1))
    same = to.emit("eq", row, to.emit("iota", length=columns))
    return same if dtype == boolean else to.emit("cast", same, dtype=dtype)


@enters(TABLE, "Range")
def _(to: Importer) -> Term | Value:
    """From start up to limit in steps of delta: known numbers, or sizes with a whole delta that is known."""
    terms = [to.term(i) for i in range(3)]
    if all(t.plain for t in terms) or any(t.content is None and t.dtype.is_float for t in terms):
        return _numbers([number(to, i, what) for i, what in enumerate(("start", "limit", "delta"))], terms[0])
    start, limit, delta = _end(to, 0, "start"), _end(to, 1, "limit"), _end(to, 2, "delta")
    if not isinstance(delta, int) or delta == 0:
        raise CaptureError(f"Range: between sizes, delta is a whole number other than 0, got {delta}")
    span = limit - start if delta > 0 else start - limit
    length = dims.floordiv(span + abs(delta) - 1, abs(delta))
    return to.emit("iota", length=_count(to, length), start=start, step=delta, dtype=terms[0].dtype)


def _end(to: Importer, i: int, what: str) -> Dim:
    """An end of the range as a size, whatever the type that it is held in."""
    term = to.term(i)
    if term.content is None or not term.dtype.is_float:
        return one_size(to, i, what)
    found = [d if isinstance(d, Expr) else float(d) for d in term.content.flat]
    if len(found) != 1 or (isinstance(found[0], float) and not found[0].is_integer()):
        raise CaptureError(f"Range: between sizes, the {what} is one whole number, got {found}")
    return found[0] if isinstance(found[0], Expr) else int(found[0])


def _count(to: Importer, length: Dim) -> Dim:
    if dims.at_most(0, length, to.ranges):
        return length
    return 0 if dims.at_most(length, 0, to.ranges) else dims.maximum(length, 0)


def _numbers(ends: list[float], like: Term) -> Term:
    start, limit, delta = ends
    if delta == 0 or not np.isfinite(ends).all():
        raise CaptureError(f"Range from {start} to {limit} in steps of {delta}")
    count = max(0, ceil((limit - start) / delta))
    if count > _MOST:
        raise CaptureError(f"Range makes {count} numbers, over {_MOST}")
    array = (start + delta * np.arange(count)).astype(like.dtype.numpy)
    return Term(like.dtype, array.shape, content=array)
