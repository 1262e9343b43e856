"""ONNX's numbers for element types, and its attributes as Python has them."""

from __future__ import annotations

from typing import Any

from ..diagnostics import CaptureError
from ..dtypes import DTYPES, DType
from .onnx_terms import Term

STANDARD = ("", "ai.onnx")
NUMBERS = {
    "f32": 1, "u8": 2, "i8": 3, "i16": 5, "i32": 6, "i64": 7, "bool": 9, "f16": 10, "f64": 11, "bf16": 16, "u4": 21,
    "i4": 22, "u16": 4, "u32": 12, "u64": 13, "f8e4m3": 17, "f8e4m3fnuz": 18, "f8e5m2": 19, "f8e5m2fnuz": 20,
    "f4e2m1": 23, "f8e8m0": 24, "u2": 25, "i2": 26,
}  # fmt: skip
_NAMES = {number: name for name, number in NUMBERS.items()}


def dtype(number: int) -> DType:
    """The DType of ONNX's number for it. Raises: CaptureError for one that no tensor of ours can hold."""
    from onnx import TensorProto

    if number not in _NAMES:
        known = TensorProto.DataType.Name(number) if number in TensorProto.DataType.values() else number
        raise CaptureError(f"tensors of {known} are not supported", hint=f"supported: {', '.join(_NAMES.values())}")
    return DTYPES[_NAMES[number]]


def type_proto(term: Term) -> Any:
    """The TypeProto of a term; a size that varies is a name."""
    from onnx import helper

    shape = [d if isinstance(d, int) else str(d) for d in term.shape]
    return helper.make_tensor_type_proto(NUMBERS[term.dtype.name], shape)


def attribute(proto: Any) -> Any:
    """An attribute's value: number, str, list, TensorProto, GraphProto."""
    from onnx import helper

    value = helper.get_attribute_value(proto)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, (list, tuple)) or hasattr(value, "extend"):
        return [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in value]
    return value
