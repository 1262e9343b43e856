"""ONNX ops on numbers held in few bits: scales of a whole tensor, of an axis, or of blocks along one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ... import dims
from ...diagnostics import CaptureError
from ...dtypes import DType, f32, f64, i32, i64, u8
from ...ops.widen import as_type
from ..onnx_terms import Term
from . import space as spaces
from .table import axis, enters
from .types import clipped, converted

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_onnx import Importer

TABLE: dict[str, Any] = {}


@enters(TABLE, "DequantizeLinear")
def _(to: Importer) -> Value:
    """(x - zero) · scale, computed in f32 and rounded once."""
    out = to.dtype(to.attr("output_dtype")) if to.attr("output_dtype", 0) else to.term(1).dtype
    kept = _as_weight(to, out)
    if kept is not None:
        return kept
    x = as_type(to, to.value(0), f32)
    if to.has(2):
        x = to.emit("sub", x, as_type(to, beside(to, 2), f32))
    return as_type(to, to.emit("mul", x, as_type(to, beside(to, 1), f32)), out)


def _as_weight(to: Importer, out: DType) -> Value | None:
    """One `dequantize` node where its form says it: blocks along an axis, or a scale for each row or column."""
    x, scale = to.term(0), to.term(1)
    if not x.dtype.is_int or x.dtype.bits > 16 or not out.is_float or not scale.dtype.is_float:
        return None
    block, at = to.attr("block_size", 0), 0
    parts = [1, 2] if to.has(2) else [1]
    if block:
        at = axis(to.attr("axis", 1), len(x.shape))
        values = [to.value(i) for i in parts]
    elif x.content is not None and len(x.shape) == 2 and all(to.term(i).plain for i in parts):
        at = axis(to.attr("axis", 1), 2)
        values = [_lined_up(to, i, at) for i in parts]
        at = 0 if scale.shape in ((), (1,)) else 1 - at
    else:
        return None
    values[0] = as_type(to, values[0], f32) if values[0].type.dtype.bits < 16 else values[0]
    return to.emit("dequantize", to.value(0), *values, bits=x.dtype.bits, group=block, axis=at, dtype=out,
                   scheme="symmetric" if len(parts) == 1 else "asymmetric")  # fmt: skip


def _lined_up(to: Importer, i: int, at: int) -> Value:
    """Known scales or zero points of a matrix, one for each place on axis `at`; a single one for each column."""
    term, shape = to.term(i), [int(str(d)) for d in to.term(0).shape]
    assert term.content is not None
    if term.content.size == 1:
        array = np.broadcast_to(term.content.reshape(1, 1), (1, shape[1]))
    else:
        array = term.content.reshape([shape[d] if d == at else 1 for d in range(2)])
    array = np.ascontiguousarray(array)
    return to.valued(Term(term.dtype, array.shape, content=array, kept=term.kept))


@enters(TABLE, "QuantizeLinear")
def _(to: Importer) -> Value:
    """x / scale, rounded to even, + zero, held to the ends of the type."""
    x, scale = to.term(0), to.term(1)
    wide = scale.dtype if x.dtype.is_int else x.dtype
    if to.attr("precision", 0):
        wide = to.dtype(to.attr("precision"))
    asked = to.attr("output_dtype", 0)
    out = to.term(2).dtype if to.has(2) else to.dtype(asked) if asked else u8
    ratio = to.emit("div", as_type(to, to.value(0), wide), as_type(to, beside(to, 1), wide))
    if out.is_int:
        return rounded(to, ratio, beside(to, 2) if to.has(2) else None, out)
    if to.has(2):
        ratio = to.emit("add", ratio, as_type(to, beside(to, 2), wide))
    return converted(to, ratio, out)


def rounded(to: Importer, x: Value, zero: Value | None, dtype: DType) -> Value:
    """The nearest numbers of an integer type, counted from its zero point."""
    x = to.emit("round", x if x.type.dtype == f64 else as_type(to, x, f32))
    if zero is not None:
        x = to.emit("add", x, as_type(to, zero, x.type.dtype))
    return to.emit("cast", clipped(to, x, dtype), dtype=dtype)



def beside(to: Importer, i: int) -> Value:
    """A scale or zero point so that it broadcasts to input 0. Raises: CaptureError where it does not fit."""
    value, shape = to.value(i), to.term(0).shape
    if value.type.shape in ((), (1,)):
        return value if value.type.rank == 0 else to.emit("reshape", value, shape=())
    if not shape:
        raise CaptureError(f"{to.op}: a scalar has one scale", found=str(value.type))
    at, block = axis(to.attr("axis", 1), len(shape)), to.attr("block_size", 0)
    if block < 0 or (block and value.type.rank != len(shape)):
        raise CaptureError(f"{to.op}: blocks of {block} with scales {value.type}", found=f"for {list(map(str, shape))}")
    if block:
        counted = to.emit("iota", length=shape[at], dtype=i64)
        return to.emit("gather", value, to.emit("div", counted, to.constant(block, i64)), axis=at)
    if value.type.rank != 1 or not shape or value.type.shape[0] != shape[at]:
        raise CaptureError(f"{to.op}: scales are one, one for each place on axis {at}, or of blocks",
                           found=f"{value.type} for {list(map(str, shape))}")  # fmt: skip
    return to.emit("reshape", value, shape=tuple(d if j == at else 1 for j, d in enumerate(shape)))


@enters(TABLE, "DynamicQuantizeLinear")
def _(to: Importer) -> tuple[Value, Value, Value]:
    """To u8, by a scale that spans from the least to the greatest element, and 0."""
    x = to.value(0)
    axes, zero = tuple(range(x.type.rank)), to.constant(0, f32)
    low = to.emit("minimum", to.emit("min", x, axes=axes), zero)
    high = to.emit("maximum", to.emit("max", x, axes=axes), zero)
    span = to.emit("sub", high, low)
    flat = to.emit("eq", span, zero)
    scale = to.emit("div", to.emit("where", flat, to.constant(1, f32), span), to.constant(255, f32))
    point = to.emit("round", clipped(to, to.emit("sub", zero, to.emit("div", low, scale)), u8))
    point = to.emit("cast", point, dtype=u8)
    return rounded(to, to.emit("div", x, scale), point, u8), scale, point


# -- products of whole numbers --------------------------------------------------------------------------


@enters(TABLE, "MatMulInteger")
def _(to: Importer) -> Value:
    return integer_product(to, (0, 2), (1, 3))


def integer_product(to: Importer, left: tuple[int, int], right: tuple[int, int]) -> Value:
    """(a - its zero points) @ (b - its own) in i32; each side is (input, zero point's input)."""
    a, b = (as_type(to, to.value(i), i32) for i, _ in (left, right))
    if to.has(left[1]):
        a = to.emit("sub", a, as_type(to, _by_row(to, left[1]), i32))
    if to.has(right[1]):
        b = to.emit("sub", b, as_type(to, to.value(right[1]), i32))
    return to.emit("matmul", a, b)


def _by_row(to: Importer, i: int) -> Value:
    """One number for each row of the left side as a column; a single one as it is."""
    value = to.value(i)
    if value.type.rank != 1 or value.type.shape == (1,):
        return value
    return to.emit("reshape", value, shape=(*value.type.shape, 1))


@enters(TABLE, "QLinearMatMul")
def _(to: Importer) -> Value:
    """Inputs: a, its scale, its zero; b, its scale, its zero; the result's scale and zero."""
    sums = to.emit("cast", integer_product(to, (0, 2), (3, 5)), dtype=f32)
    scale = to.emit("div", to.emit("mul", _by_row(to, 1), to.value(4)), _by_row(to, 6))
    return rounded(to, to.emit("mul", sums, as_type(to, scale, f32)), _by_row(to, 7), to.term(7).dtype)


@enters(TABLE, "ConvInteger")
def _(to: Importer) -> Value:
    return to.emit("cast", _integer_conv(to, (0, 2), (1, 3)), dtype=i32)


@enters(TABLE, "QLinearConv")
def _(to: Importer) -> Value:
    """Inputs: x, its scale, its zero; the weight, its scale, its zero; the result's scale and zero; an i32 bias."""
    sums = _integer_conv(to, (0, 2), (3, 5))
    if to.has(8):
        sums = to.emit("add", sums, as_type(to, _by_output(to, 8, sums.type.rank - 2), sums.type.dtype))
    scale = to.emit("div", to.emit("mul", _by_output(to, 1, 0), _by_output(to, 4, sums.type.rank - 2)),
                    _by_output(to, 6, 0))  # fmt: skip
    ratio = to.emit("mul", sums, as_type(to, scale, sums.type.dtype))
    return rounded(to, ratio, _by_output(to, 7, 0), to.term(7).dtype)


def _by_output(to: Importer, i: int, places: int) -> Value:
    """One number, or one for each output channel beside `places` axes of space."""
    value = to.value(i)
    if value.type.shape in ((), (1,)):
        return to.emit("reshape", value, shape=())
    return to.emit("reshape", value, shape=(*value.type.shape, *[1] * places))


def _integer_conv(to: Importer, left: tuple[int, int], right: tuple[int, int]) -> Value:
    """The sums as floats wide enough to hold each exactly; each side is (input, zero point's input)."""
    x, weight = to.value(left[0]), to.value(right[0])
    s = spaces.read(to, x, to.attr("kernel_shape", weight.type.shape[2:]))
    if s.kernel != weight.type.shape[2:]:
        raise CaptureError(f"{to.op}: a kernel_shape of {list(s.kernel)}, but the weight is {weight.type}")
    terms = dims.product(weight.type.shape[1:])
    wide = f32 if isinstance(terms, int) and terms * 2**16 <= 2**24 else f64
    x, weight = as_type(to, x, wide), as_type(to, weight, wide)
    if to.has(left[1]):
        x = to.emit("sub", x, as_type(to, _by_output(to, left[1], 0), wide))
    if to.has(right[1]):
        weight = to.emit("sub", weight, as_type(to, _by_output(to, right[1], weight.type.rank - 1), wide))
    return to.emit("conv", x, weight, strides=s.strides, before=s.before, after=s.after, dilations=s.dilations,
                   groups=to.attr("group", 1))  # fmt: skip
