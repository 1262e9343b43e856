"""Element-wise ops."""

from __future__ import annotations

from ...ir.dtypes import boolean
from ...ir.graph import Node
from .emit import Emit
from .lower import FAST, SINCE, STANDARD, Lowering, lowers

_SAME = {  # ours -> the ONNX operator of the same meaning
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "pow": "Pow", "maximum": "Max", "minimum": "Min",
    "eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual",
    "and": "And", "or": "Or", "xor": "Xor", "not": "Not",
    "neg": "Neg", "abs": "Abs", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "reciprocal": "Reciprocal",
    "tanh": "Tanh", "erf": "Erf", "sigmoid": "Sigmoid", "relu": "Relu", "sin": "Sin", "cos": "Cos",
    "floor": "Floor", "ceil": "Ceil", "round": "Round", "sign": "Sign", "isnan": "IsNaN", "where": "Where",
    "tan": "Tan", "asin": "Asin", "acos": "Acos", "atan": "Atan", "sinh": "Sinh", "cosh": "Cosh",
    "asinh": "Asinh", "acosh": "Acosh", "atanh": "Atanh",
}  # fmt: skip


def _same(op_type: str) -> Lowering:
    return lambda to, node: to(op_type, *node.inputs)


for _name, _op_type in _SAME.items():
    lowers(STANDARD, _name)(_same(_op_type))


for _name, _op_type in (("bit_and", "BitwiseAnd"), ("bit_or", "BitwiseOr"), ("bit_xor", "BitwiseXor")):
    lowers(SINCE[18], _name)(_same(_op_type))


@lowers(STANDARD, "ne")
def _ne(to: Emit, node: Node) -> str:
    return to("Not", to("Equal", *node.inputs))


@lowers(STANDARD, "mod")
def _mod(to: Emit, node: Node) -> str:
    """ONNX has it for whole numbers only; of floats it has the remainder with the sign of a, which is exact."""
    a, b = node.inputs
    dtype = node.output.type.dtype
    if dtype.is_int:
        return to("Mod", a, b)
    rest, zero = to("Mod", a, b, fmod=1), to.scalar(0, dtype)
    turned = to("Xor", to("Less", rest, zero), to("Less", b, zero))
    nothing = to("Equal", rest, zero)
    return to("Where", to("And", turned, to("Not", nothing)), to("Add", rest, b), rest)


@lowers(STANDARD, "rsqrt")
def _rsqrt(to: Emit, node: Node) -> str:
    return to("Reciprocal", to("Sqrt", node.inputs[0]))


@lowers(STANDARD, "silu")
def _silu(to: Emit, node: Node) -> str:
    return to("Mul", node.inputs[0], to("Sigmoid", node.inputs[0]))


@lowers(FAST, "silu")
def _silu_fast(to: Emit, node: Node) -> str:
    return to.ms("QuickGelu", node.inputs[0], alpha=1.0)


@lowers(STANDARD, "gelu")
def _gelu(to: Emit, node: Node) -> str:
    x, dtype = node.inputs[0], node.output.type.dtype
    half = to("Mul", x, to.scalar(0.5, dtype))
    if node.attrs["approximate"] == "none":
        bent = to("Erf", to("Mul", x, to.scalar(0.5**0.5, dtype)))
    else:
        cube = to("Mul", to("Mul", to("Mul", x, x), x), to.scalar(0.044715, dtype))
        bent = to("Tanh", to("Mul", to("Add", x, cube), to.scalar(0.7978845608028654, dtype)))
    return to("Mul", half, to("Add", bent, to.scalar(1.0, dtype)))


@lowers(SINCE[20], "gelu")
def _gelu_20(to: Emit, node: Node) -> str:
    return to("Gelu", node.inputs[0], approximate=node.attrs["approximate"], since=20)


@lowers(FAST, "gelu")
def _gelu_fast(to: Emit, node: Node) -> str:
    return to.ms("Gelu" if node.attrs["approximate"] == "none" else "FastGelu", node.inputs[0])


@lowers(STANDARD, "cast")
def _cast(to: Emit, node: Node) -> str:
    x = node.inputs[0]
    assert x is not None
    source, target = x.type.dtype, node.attrs["dtype"]
    if source == target:
        return to.name(x)
    if target == boolean and source.bits < 16:
        return to("Not", to("Equal", x, to.scalar(0, source)))
    return to.cast(x, target)
