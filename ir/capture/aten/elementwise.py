"""Element-wise ATen ops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...dtypes import boolean, f32
from .table import enters

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_torch import Translator

TABLE: dict[str, Any] = {}

_UNARY = {
    "neg": "neg", "abs": "abs", "exp": "exp", "log": "log", "sqrt": "sqrt", "rsqrt": "rsqrt", "tanh": "tanh",
    "reciprocal": "reciprocal", "erf": "erf", "sigmoid": "sigmoid", "relu": "relu", "sin": "sin", "cos": "cos",
    "floor": "floor", "ceil": "ceil", "round": "round", "sign": "sign", "silu": "silu", "isnan": "isnan",
}  # fmt: skip
_BINARY = {
    "mul": "mul", "multiply": "mul", "div": "div", "divide": "div", "true_divide": "div", "maximum": "maximum",
    "minimum": "minimum", "pow": "pow", "remainder": "mod",
}  # fmt: skip
_COMPARE = {"eq": "eq", "ne": "ne", "lt": "lt", "le": "le", "gt": "gt", "ge": "ge"}
_LOGICAL = {
    "logical_and": "and", "logical_or": "or", "logical_xor": "xor", "bitwise_and": "and", "bitwise_or": "or",
    "bitwise_xor": "xor", "__and__": "and", "__or__": "or", "__xor__": "xor",
}  # fmt: skip


def _unary(op: str) -> Any:
    def translate(to: Translator) -> Value:
        out = to.type().dtype
        return to.emit(op, to.value(to.node.args[0], None if op == "isnan" else out))

    return translate


def _binary(op: str) -> Any:
    def translate(to: Translator) -> Value:
        out = to.type().dtype
        a, b = to.node.args[:2]
        return to.emit(op, to.value(a, out), to.value(b, out))

    return translate


def _compared(to: Translator) -> tuple[Value, Value]:
    """Both sides in the type torch compares them in."""
    import torch

    from ..from_torch import _dtype

    a, b = to.node.args[:2]
    metas = [x.meta["val"] if hasattr(x, "meta") else x for x in (a, b)]
    common = _dtype(torch.result_type(*metas))
    return to.value(a, common), to.value(b, common)


def _compare(op: str) -> Any:
    return lambda to: to.emit(op, *_compared(to))


def _logical(op: str) -> Any:
    def translate(to: Translator) -> Value:
        a, b = to.node.args[:2]
        return to.emit(op, to.value(a, boolean), to.value(b, boolean))

    return translate


for _name, _op in _UNARY.items():
    TABLE[f"aten.{_name}.default"] = _unary(_op)
for _name, _op in _BINARY.items():
    for _overload in ("Tensor", "Scalar", "default", "Tensor_Scalar", "Tensor_Tensor"):
        TABLE[f"aten.{_name}.{_overload}"] = _binary(_op)
for _name, _op in _COMPARE.items():
    for _overload in ("Tensor", "Scalar"):
        TABLE[f"aten.{_name}.{_overload}"] = _compare(_op)
for _name, _op in _LOGICAL.items():
    for _overload in ("Tensor", "Scalar", "default"):
        TABLE[f"aten.{_name}.{_overload}"] = _logical(_op)
TABLE["aten.max.other"] = _binary("maximum")
TABLE["aten.min.other"] = _binary("minimum")


@enters(TABLE, "add.Tensor", "add.Scalar", "sub.Tensor", "sub.Scalar", "rsub.Scalar", "rsub.Tensor")
def _(to: Translator) -> Value:
    """With torch's `alpha`, the factor of the second operand."""
    out = to.type().dtype
    a, b = to.node.args[:2]
    alpha = to.args("alpha")[0]
    left, right = to.value(a, out), to.value(b, out)
    name = str(to.node.target)
    if alpha not in (None, 1):
        scaled = to.value(alpha, out)
        left, right = (to.emit("mul", left, scaled), right) if "rsub" in name else (left, to.emit("mul", right, scaled))
    if "rsub" in name:
        return to.emit("sub", right, left)
    return to.emit("add" if ".add." in name else "sub", left, right)


@enters(TABLE, "div.Tensor_mode", "floor_divide.default")
def _(to: Translator) -> Value:
    """Division rounded towards minus infinity (or zero, as mode says), through floats for integers."""
    out = to.type().dtype
    mode = to.args("rounding_mode", rounding_mode="floor")[0] or "floor"
    work = out if out.is_float else f32
    a, b = to.node.args[:2]
    y = to.emit("div", to.value(a, work), to.value(b, work))
    if mode == "floor":
        y = to.emit("floor", y)
    elif mode == "trunc":
        y = to.emit("mul", to.emit("sign", y), to.emit("floor", to.emit("abs", y)))
    return y if out == work else to.emit("cast", y, dtype=out)


@enters(TABLE, "gelu.default")
def _(to: Translator) -> Value:
    x, approximate = to.args("self", "approximate")
    return to.emit("gelu", to.value(x), approximate=approximate)


@enters(TABLE, "logical_not.default", "bitwise_not.default")
def _(to: Translator) -> Value:
    return to.emit("not", to.value(to.node.args[0], boolean))


@enters(TABLE, "clamp.default", "clamp_min.default", "clamp_max.default", "clamp.Tensor", "hardtanh.default")
def _(to: Translator) -> Value:
    out = to.type().dtype
    x = to.value(to.node.args[0], out)
    low, high = to.args("min", "max")
    if "hardtanh" in str(to.node.target):
        low, high = to.args("min_val", "max_val")
    if low is not None:
        x = to.emit("maximum", x, to.value(low, out))
    return x if high is None else to.emit("minimum", x, to.value(high, out))


@enters(TABLE, "where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")
def _(to: Translator) -> Value:
    out = to.type().dtype
    condition, a, b = to.node.args
    return to.emit("where", to.value(condition), to.value(a, out), to.value(b, out))


@enters(TABLE, "masked_fill.Scalar", "masked_fill.Tensor")
def _(to: Translator) -> Value:
    out = to.type().dtype
    x, mask, value = to.node.args
    return to.emit("where", to.value(mask), to.value(value, out), to.value(x, out))


@enters(TABLE, "log1p.default")
def _(to: Translator) -> Value:
    x = to.value(to.node.args[0])
    return to.emit("log", to.emit("add", x, to.value(1.0, x.type.dtype)))


@enters(TABLE, "expm1.default")
def _(to: Translator) -> Value:
    """exp(x) - 1; near 0, where that would lose the digits that count, 2 t / (1 - t) with t = tanh(x / 2)."""
    x = to.value(to.node.args[0])
    one, two = (to.value(n, x.type.dtype) for n in (1.0, 2.0))
    t = to.emit("tanh", to.emit("div", x, two))
    near = to.emit("div", to.emit("mul", t, two), to.emit("sub", one, t))
    far = to.emit("sub", to.emit("exp", x), one)
    return to.emit("where", to.emit("lt", to.emit("abs", x), one), near, far)


@enters(TABLE, "softplus.default")
def _(to: Translator) -> Value:
    """log(1 + exp(beta x)) / beta as max(x, 0) plus a part that cannot overflow; torch's threshold only rounds it."""
    arg, beta = to.args("self", "beta")
    x = to.value(arg)
    dtype = x.type.dtype
    scaled = x if beta == 1 else to.emit("mul", x, to.value(float(beta), dtype))
    small = to.emit("exp", to.emit("neg", to.emit("abs", scaled)))
    rest = to.emit("log", to.emit("add", small, to.value(1.0, dtype)))
    y = to.emit("add", to.emit("relu", scaled), rest)
    return y if beta == 1 else to.emit("div", y, to.value(float(beta), dtype))


@enters(TABLE, "hardswish.default", "hardsigmoid.default")
def _(to: Translator) -> Value:
    """x (or 1) · clamp(x + 3, 0, 6) / 6."""
    out = to.type().dtype
    x = to.value(to.node.args[0])
    part = to.emit("minimum", to.emit("relu", to.emit("add", x, to.value(3.0, out))), to.value(6.0, out))
    share = to.emit("div", part, to.value(6.0, out))
    return to.emit("mul", x, share) if "hardswish" in str(to.node.target) else share


@enters(TABLE, "square.default")
def _(to: Translator) -> Value:
    x = to.value(to.node.args[0])
    return to.emit("mul", x, x)


@enters(TABLE, "to.dtype", "to.device", "to.dtype_layout", "to.other", "_to_copy.default", "type_as.default")
def _(to: Translator) -> Value:
    """Changes of device and layout are none here: only the element type counts."""
    return to.value(to.node.args[0], to.type().dtype)


@enters(TABLE, "copy.default")
def _(to: Translator) -> Value:
    """The source's values under the target's shape and dtype."""
    out, value = to.type(), to.value(to.node.args[1], to.type().dtype)
    return value if value.type.shape == out.shape else to.emit("expand", value, shape=out.shape)


@enters(TABLE, "dropout.default", "contiguous.default", "clone.default", "alias.default", "detach.default",
        "lift_fresh_copy.default", "lift_fresh.default", "feature_dropout.default")  # fmt: skip
def _(to: Translator) -> Value:
    """What an inference graph keeps as it is. Dropout that is switched on was refused before."""
    from ...diagnostics import CaptureError

    name = str(to.node.target)
    if "dropout" in name and to.args("train")[0] and to.args("p")[0]:
        raise CaptureError("dropout is on", hint="call model.eval() before capturing")
    return to.value(to.node.args[0])
