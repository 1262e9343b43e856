"""ONNX ops that work element by element: arithmetic, compares, selection. Activations stand in activation.py."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from ...diagnostics import CaptureError
from .table import enters, scalar

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_onnx import Importer

TABLE: dict[str, Any] = {}

_UNARY = {
    "Abs": "abs", "Acos": "acos", "Acosh": "acosh", "Asin": "asin", "Asinh": "asinh", "Atan": "atan",
    "Atanh": "atanh", "Ceil": "ceil", "Cos": "cos", "Cosh": "cosh", "Erf": "erf", "Exp": "exp", "Floor": "floor",
    "IsNaN": "isnan", "Log": "log", "Neg": "neg", "Not": "not", "Reciprocal": "reciprocal", "Relu": "relu",
    "Round": "round", "Sigmoid": "sigmoid", "Sign": "sign", "Sin": "sin", "Sinh": "sinh", "Sqrt": "sqrt",
    "Tan": "tan", "Tanh": "tanh",
}  # fmt: skip
_BINARY = {
    "Add": "add", "And": "and", "BitwiseAnd": "bit_and", "BitwiseOr": "bit_or", "BitwiseXor": "bit_xor",
    "Div": "div", "Equal": "eq", "Greater": "gt", "GreaterOrEqual": "ge", "Less": "lt", "LessOrEqual": "le",
    "Mul": "mul", "Or": "or", "Sub": "sub", "Xor": "xor",
}  # fmt: skip
_FOLDED = {"Max": "maximum", "Min": "minimum", "Sum": "add"}


@enters(TABLE, *_UNARY)
def _(to: Importer) -> Value:
    return to.emit(_UNARY[to.op], to.value(0))


@enters(TABLE, *_BINARY)
def _(to: Importer) -> Value:
    return to.emit(_BINARY[to.op], to.value(0), to.value(1))


@enters(TABLE, *_FOLDED)
def _(to: Importer) -> Value:
    """Any number of inputs; one alone is passed on."""
    return _folded(to, _FOLDED[to.op])


def _folded(to: Importer, op: str) -> Value:
    total = to.value(0)
    for i in range(1, to.count):
        total = to.emit(op, total, to.value(i))
    return total


@enters(TABLE, "Mean")
def _(to: Importer) -> Value:
    total = _folded(to, "add")
    return to.emit("div", total, scalar(to, to.count, total))


@enters(TABLE, "Pow")
def _(to: Importer) -> Value:
    """The result is of the base's type; a float exponent of an integer base is computed in its own."""
    base, exponent = to.value(0), to.value(1)
    if base.type.dtype == exponent.type.dtype:
        return to.emit("pow", base, exponent)
    wide = exponent.type.dtype if exponent.type.dtype.is_float and not base.type.dtype.is_float else base.type.dtype
    raised = to.emit("pow", *(v if v.type.dtype == wide else to.emit("cast", v, dtype=wide) for v in (base, exponent)))
    return raised if wide == base.type.dtype else to.emit("cast", raised, dtype=base.type.dtype)


@enters(TABLE, "Mod")
def _(to: Importer) -> Value:
    """fmod gives the remainder the sign of the dividend, else it has that of the divisor."""
    a, b = to.value(0), to.value(1)
    if not to.attr("fmod", 0):
        return to.emit("mod", a, b)
    if a.type.dtype.kind == "uint":
        return to.emit("mod", a, b)
    if a.type.dtype.is_int:
        return to.emit("sub", a, to.emit("mul", to.emit("div", a, b), b))
    rest = to.emit("mod", to.emit("abs", a), to.emit("abs", b))
    return to.emit("where", to.emit("lt", a, scalar(to, 0, a)), to.emit("neg", rest), rest)


@enters(TABLE, "Clip")
def _(to: Importer) -> Value:
    """Bounds are inputs since opset 11; the upper one wins where they cross."""
    x = to.value(0)
    for i, op in ((1, "maximum"), (2, "minimum")):
        if to.has(i):
            x = to.emit(op, x, to.value(i))
    return x


@enters(TABLE, "Where")
def _(to: Importer) -> Value:
    return to.emit("where", to.value(0), to.value(1), to.value(2))


@enters(TABLE, "IsInf")
def _(to: Importer) -> Value:
    x = to.value(0)
    positive, negative = to.attr("detect_positive", 1), to.attr("detect_negative", 1)
    if not positive and not negative:
        return to.emit("expand", scalar(to, 0, x, "bool"), shape=x.type.shape)
    if positive and negative:
        x = to.emit("abs", x)
    return to.emit("eq", x, scalar(to, inf if positive else -inf, x))


@enters(TABLE, "BitwiseNot")
def _(to: Importer) -> Value:
    """-x - 1 of a signed number, the distance from the greatest of one without a sign."""
    x = to.value(0)
    if x.type.dtype.kind == "uint":
        return to.emit("sub", to.emit("sub", scalar(to, 0, x), scalar(to, 1, x)), x)
    return to.emit("sub", to.emit("neg", x), scalar(to, 1, x))


@enters(TABLE, "BitShift")
def _(to: Importer) -> Value:
    """A product with, or the floor of a quotient by, a power of two; what is shifted out leaves 0, or the sign."""
    x, by, direction = to.value(0), to.value(1), to.attr("direction")
    if not x.type.dtype.is_int or by.type.dtype != x.type.dtype:
        raise CaptureError(f"BitShift takes two inputs of one whole type, got {x.type.dtype} and {by.type.dtype}")
    if direction not in ("LEFT", "RIGHT"):
        raise CaptureError(f"BitShift goes LEFT or RIGHT, got {direction!r}")
    signed = x.type.dtype.kind == "int" and direction == "RIGHT"
    width = scalar(to, x.type.dtype.bits - signed, x)
    power = to.emit("pow", scalar(to, 2, x), to.emit("mod", by, width))
    if direction == "LEFT":
        moved = to.emit("mul", x, power)
    else:
        moved = to.emit("div", to.emit("sub", x, to.emit("mod", x, power)), power)
    zero = scalar(to, 0, x)
    gone = zero
    if signed:
        gone = to.emit("where", to.emit("lt", x, zero), scalar(to, -1, x), zero)
    if by.type.dtype.kind == "int":
        moved = to.emit("where", to.emit("ge", by, zero), moved, gone)
    return to.emit("where", to.emit("lt", by, width), moved, gone)
