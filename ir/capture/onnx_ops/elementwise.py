"""ONNX ops that work element by element."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .table import enters

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_onnx import Importer

TABLE: dict[str, Any] = {}

_UNARY = {
    "Abs": "abs", "Ceil": "ceil", "Cos": "cos", "Erf": "erf", "Exp": "exp", "Floor": "floor", "IsNaN": "isnan",
    "Log": "log", "Neg": "neg", "Not": "not", "Reciprocal": "reciprocal", "Relu": "relu", "Round": "round",
    "Sigmoid": "sigmoid", "Sign": "sign", "Sin": "sin", "Sqrt": "sqrt", "Tanh": "tanh",
}  # fmt: skip
_BINARY = {
    "Add": "add", "And": "and", "Equal": "eq", "Greater": "gt", "GreaterOrEqual": "ge", "Less": "lt",
    "LessOrEqual": "le", "Mul": "mul", "Or": "or", "Sub": "sub", "Xor": "xor",
}  # fmt: skip


@enters(TABLE, *_UNARY)
def _(to: Importer) -> Value:
    return to.emit(_UNARY[to.op], to.value(0))


@enters(TABLE, *_BINARY)
def _(to: Importer) -> Value:
    return to.emit(_BINARY[to.op], to.value(0), to.value(1))
