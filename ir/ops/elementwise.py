"""Arithmetic on each element alone, with numpy's broadcasting.

Each arithmetic or transcendental result counts one FLOP; compares, selections, logic and casts count none.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from ..diagnostics import GraphError
from ..dims import Dim
from ..dtypes import DType
from ..op import Attr, Op, op
from ..tensor import TensorType
from .broadcast import broadcast
from .checks import ANY, FLOATS, NUMBERS, of_kind, same_dtype
from .erf import erf as _erf


class Unary(Op):
    """Base of ops on one input. `fn` is its meaning in numpy, `cost` the FLOPs of one element."""

    inputs = ("x",)
    axes = "*r -> *r"
    takes: ClassVar[tuple[str, ...]] = FLOATS
    cost: ClassVar[int] = 1
    fn: ClassVar[Any]

    def infer(self, *types: Any, **attrs: Any) -> TensorType:
        (x,) = types
        of_kind(self.name, "x", x, self.takes)
        return self.result(x)

    def result(self, x: TensorType) -> TensorType:
        return x

    def flops(self, out: TensorType, *types: Any, **attrs: Any) -> Dim:
        return self.cost * out.elements

    def reference(self, *arrays: Any, **attrs: Any) -> np.ndarray:
        return np.asarray(type(self).fn(*arrays))


class Binary(Op):
    """Base of arithmetic on two inputs of one element type."""

    inputs = ("a", "b")
    axes = "*r, *r -> *r"
    takes: ClassVar[tuple[str, ...]] = NUMBERS
    cost: ClassVar[int] = 1
    fn: ClassVar[Any]

    def infer(self, a: TensorType, b: TensorType) -> TensorType:
        same_dtype(self.name, a, b)
        of_kind(self.name, "each side", a, self.takes)
        return TensorType(a.dtype, broadcast(self.name, a.shape, b.shape))

    def flops(self, out: TensorType, *types: Any, **attrs: Any) -> Dim:
        return self.cost * out.elements

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray(type(self).fn(a, b))


@op
class add(Binary):
    """a + b."""

    commutes = True
    fn = np.add


@op
class sub(Binary):
    """a - b."""

    fn = np.subtract


@op
class mul(Binary):
    """a · b."""

    commutes = True
    fn = np.multiply


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if np.issubdtype(a.dtype, np.integer):
        down = np.floor_divide(a, b)
        return down + ((down * b != a) & ((a < 0) != (b < 0))).astype(a.dtype)
    return np.divide(a, b)


@op
class div(Binary):
    """a / b; of integers, the quotient rounded towards zero."""

    fn = staticmethod(_divide)


def _power(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if not np.issubdtype(b.dtype, np.signedinteger):
        return np.power(a, b)
    inverse = np.where(a == 1, 1, np.where(a == -1, np.where(b % 2 == 0, 1, -1), 0)).astype(a.dtype)
    return np.where(b < 0, inverse, np.power(a, np.maximum(b, 0)))


@op
class pow_(Binary):
    """a to the power b; of whole numbers and a negative b, the quotient 1 / a^|b| rounded towards zero, 0 for a = 0."""

    fn = staticmethod(_power)


@op
class maximum(Binary):
    """The greater of a and b; nan where either is."""

    commutes = True
    cost = 0
    fn = np.maximum


@op
class minimum(Binary):
    """The lesser of a and b; nan where either is."""

    commutes = True
    cost = 0
    fn = np.minimum


@op
class mod(Binary):
    """a - floor(a / b) · b: the remainder with the sign of b."""

    fn = np.mod


@op
class neg(Unary):
    """-x."""

    takes = ("float", "int")
    fn = np.negative


@op
class abs_(Unary):
    """|x|."""

    takes = NUMBERS
    fn = np.abs


@op
class exp(Unary):
    """e to the power x."""

    fn = np.exp


@op
class log(Unary):
    """The natural logarithm."""

    fn = np.log


@op
class sqrt(Unary):
    """The square root."""

    fn = np.sqrt


@op
class rsqrt(Unary):
    """1 / sqrt(x). Counts one FLOP."""

    fn = staticmethod(lambda x: 1 / np.sqrt(x))

    def decompose(self, b: Any, x: Any) -> Any:
        return b.emit("reciprocal", b.emit("sqrt", x))


@op
class reciprocal(Unary):
    """1 / x."""

    fn = staticmethod(lambda x: 1 / x)

    def decompose(self, b: Any, x: Any) -> Any:
        return b.emit("div", b.constant(1.0, x.type.dtype), x)


@op
class tanh(Unary):
    """The hyperbolic tangent."""

    fn = np.tanh


@op
class erf(Unary):
    """The error function."""

    fn = staticmethod(_erf)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    wide = np.asarray(x, np.float64)
    e = np.exp(-np.abs(wide))
    return np.where(wide >= 0, 1.0, e) / (1 + e)


@op
class sigmoid(Unary):
    """1 / (1 + exp(-x)). Counts one FLOP."""

    fn = staticmethod(_sigmoid)

    def decompose(self, b: Any, x: Any) -> Any:
        one = b.constant(1.0, x.type.dtype)
        return b.emit("div", one, b.emit("add", one, b.emit("exp", b.emit("neg", x))))


@op
class relu(Unary):
    """The greater of x and 0."""

    takes = NUMBERS
    cost = 0
    fn = staticmethod(lambda x: np.maximum(x, x.dtype.type(0)))

    def decompose(self, b: Any, x: Any) -> Any:
        return b.emit("maximum", x, b.constant(0.0, x.type.dtype))


@op
class sin(Unary):
    """The sine."""

    fn = np.sin


@op
class cos(Unary):
    """The cosine."""

    fn = np.cos


@op
class floor(Unary):
    """The greatest whole number not above x."""

    fn = np.floor


@op
class ceil(Unary):
    """The least whole number not below x."""

    fn = np.ceil


@op
class round_(Unary):
    """The nearest whole number; halves go to the even one."""

    fn = np.rint


@op
class sign(Unary):
    """-1, 0 or 1; of nan it is not defined. A compare: no FLOPs."""

    takes = NUMBERS
    cost = 0
    fn = np.sign


_TANH_SLOPE, _TANH_CUBE = 0.7978845608028654, 0.044715  # sqrt(2 / π), and the fit's constant


@op
class gelu(Unary):
    """x · Φ(x), Φ the normal distribution's; or its fit by a tanh.

    approximate: "none" for x/2 · (1 + erf(x/√2)), "tanh" for x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³))).
    Flops: 5 per element with erf, 8 with tanh, counted as `decompose` writes it.
    Source: Hendrycks and Gimpel 2016, "Gaussian Error Linear Units".
    """

    attrs = {"approximate": Attr(str, "none")}

    def infer(self, x: TensorType, *, approximate: str) -> TensorType:
        if approximate not in ("none", "tanh"):
            raise GraphError(f"gelu: approximate is 'none' or 'tanh', got {approximate!r}")
        return super().infer(x)

    def flops(self, out: TensorType, *types: Any, approximate: str) -> Dim:
        return (5 if approximate == "none" else 8) * out.elements

    def reference(self, x: np.ndarray, *, approximate: str) -> np.ndarray:
        wide = x.astype(np.float64)
        if approximate == "none":
            return wide / 2 * (1 + _erf(wide / np.sqrt(2)))
        return wide / 2 * (1 + np.tanh(_TANH_SLOPE * (wide + _TANH_CUBE * wide**3)))

    def decompose(self, b: Any, x: Any, *, approximate: str) -> Any:
        def const(value: float) -> Any:
            return b.constant(value, x.type.dtype)

        if approximate == "none":
            bent = b.emit("erf", b.emit("mul", x, const(0.5**0.5)))
        else:
            cubic = b.emit("mul", b.emit("mul", x, x), const(_TANH_SLOPE * _TANH_CUBE))
            bent = b.emit("tanh", b.emit("mul", x, b.emit("add", cubic, const(_TANH_SLOPE))))
        return b.emit("mul", b.emit("mul", x, const(0.5)), b.emit("add", bent, const(1.0)))


@op
class silu(Unary):
    """x · sigmoid(x).

    Flops: 2 per element.
    Source: Elfwing, Uchibe and Doya 2017, "Sigmoid-Weighted Linear Units".
    """

    cost = 2
    fn = staticmethod(lambda x: x * _sigmoid(x))

    def decompose(self, b: Any, x: Any) -> Any:
        return b.emit("mul", x, b.emit("sigmoid", x))


@op
class cast(Unary):
    """x in another element type; floats become integers by truncation, numbers booleans by x != 0."""

    attrs = {"dtype": DType}
    takes = ANY
    cost = 0

    def infer(self, x: TensorType, *, dtype: DType) -> TensorType:
        return x.with_dtype(dtype)

    def reference(self, x: np.ndarray, *, dtype: DType) -> np.ndarray:
        return x.astype(dtype.numpy)
