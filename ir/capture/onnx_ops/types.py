"""ONNX ops that change the element type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...diagnostics import CaptureError
from ...dtypes import DTYPES, DType, f32, i32, u8
from .table import enters

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_onnx import Importer

TABLE: dict[str, Any] = {}

_E8M0 = DTYPES["f8e8m0"]
_SATURATED = ("f8e4m3", "f8e5m2", "f8e4m3fnuz", "f8e5m2fnuz")


@enters(TABLE, "Cast")
def _(to: Importer) -> Value:
    return converted(to, to.value(0), to.dtype(to.attr("to")))


@enters(TABLE, "CastLike")
def _(to: Importer) -> Value:
    return converted(to, to.value(0), to.term(1).dtype)


@enters(TABLE, "BitCast")
def _(to: Importer) -> Value:
    x = to.value(0)
    return to.emit("bitcast", x, source=x.type.dtype, target=to.dtype(to.attr("to")))


def converted(to: Importer, x: Value, dtype: DType) -> Value:
    """x in another type as Cast does it: `saturate` (by default) keeps what is too large for 8 bits at their ends."""
    if x.type.dtype == dtype:
        return x
    if dtype == _E8M0:
        return _power_of_two(to, x)
    if dtype.name in _SATURATED and x.type.dtype.is_float and to.attr("saturate", 1):
        x = clipped(to, x, dtype)
    return to.emit("cast", x, dtype=dtype)


def clipped(to: Importer, x: Value, dtype: DType) -> Value:
    """x with what lies outside of the numbers of `dtype` at their ends."""
    low, high = (to.constant(end, x.type.dtype) for end in dtype.range)
    return to.emit("maximum", to.emit("minimum", x, high), low)


def _power_of_two(to: Importer, x: Value) -> Value:
    """f8e8m0 is the exponent's byte of an f32; the fraction rounds it up, down or to the nearest."""
    wide = x if x.type.dtype == f32 else to.emit("cast", x, dtype=f32)
    bits = to.emit("bitcast", wide, source=f32, target=i32)
    magnitude = to.emit("where", to.emit("lt", bits, to.constant(0, i32)),
                        to.emit("add", to.emit("add", bits, to.constant(2**31 - 1, i32)), to.constant(1, i32)),
                        bits)  # fmt: skip
    unit = to.constant(2**23, i32)
    exponent = to.emit("div", magnitude, unit)
    raised = to.emit("add", exponent, to.emit("cast", _rounds_up(to, to.emit("mod", magnitude, unit), exponent),
                                              dtype=i32))  # fmt: skip
    if to.attr("saturate", 1):
        raised = to.emit("minimum", raised, to.constant(254, i32))
    special = to.emit("eq", exponent, to.constant(255, i32))
    code = to.emit("where", special, to.constant(255, i32), raised)
    return to.emit("bitcast", to.emit("cast", code, dtype=u8), source=u8, target=_E8M0)


def _rounds_up(to: Importer, fraction: Value, exponent: Value) -> Value:
    """Whether the next power is taken; half way to it from the least exponent the lower one is."""
    mode, half = to.attr("round_mode", "up"), to.constant(2**22, i32)
    zero = to.constant(0, i32)
    if mode == "up":
        return to.emit("gt", fraction, zero)
    if mode == "down":
        return to.emit("lt", fraction, zero)
    if mode != "nearest":
        raise CaptureError(f"{to.op}: round_mode is up, down or nearest, got {mode!r}")
    tie = to.emit("and", to.emit("eq", fraction, half), to.emit("gt", exponent, zero))
    return to.emit("or", to.emit("gt", fraction, half), tie)
