"""Element-wise ops, with numpy's broadcasting. Arithmetic and transcendental results count one FLOP each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from ..diagnostics import GraphError
from ..dims import Dim
from ..dtypes import DType, boolean
from ..op import Attr, Op, op
from ..tensor import TensorType
from .broadcast import broadcast
from .erf import erf as accurate_erf


class Elementwise(Op):
    """Base: how many FLOPs an element costs, and the common shape."""

    per_element: ClassVar[int] = 1

    def flops(self, out: TensorType, *types: Any, **attrs: Any) -> Dim:
        return self.per_element * out.elements

    def axes_for(self, *types: Any, **attrs: Any) -> str:
        return f"{', '.join(['*r'] * sum(t is not None for t in types))} -> *r"


class Unary(Elementwise):
    """One input; `function` is its meaning in numpy."""

    inputs = ("x",)
    axes = "*r -> *r"
    function: ClassVar[Callable[[np.ndarray], np.ndarray]]
    only_floats: ClassVar[bool] = False

    def infer(self, x: TensorType) -> TensorType:
        if self.only_floats and not x.dtype.is_float:
            raise GraphError(f"{self.name}: takes floating types", found=str(x))
        return x

    def reference(self, x: np.ndarray) -> np.ndarray:
        return type(self).function(x)


class Binary(Elementwise):
    """Two inputs of one dtype."""

    inputs = ("a", "b")
    axes = "*r, *r -> *r"
    function: ClassVar[Callable[[np.ndarray, np.ndarray], np.ndarray]]

    def infer(self, a: TensorType, b: TensorType) -> TensorType:
        if a.dtype != b.dtype:
            raise GraphError(f"{self.name}: both sides need one dtype", found=f"{a} and {b}")
        return TensorType(a.dtype, broadcast(self.name, a.shape, b.shape))

    def reference(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return type(self).function(a, b)


class Compare(Binary):
    """Two inputs of one dtype, a boolean result; compares count no FLOPs."""

    per_element = 0

    def infer(self, a: TensorType, b: TensorType) -> TensorType:
        return super().infer(a, b).with_dtype(boolean)


class Logical(Binary):
    """Two booleans, one boolean."""

    per_element = 0
    commutes = True

    def infer(self, a: TensorType, b: TensorType) -> TensorType:
        if a.dtype != boolean:
            raise GraphError(f"{self.name}: takes booleans", found=f"{a} and {b}")
        return super().infer(a, b)


def _wide(function: Callable[..., np.ndarray]) -> Any:
    """Computes in f64, so that the reference's own rounding does not count; the caller casts back."""
    return staticmethod(lambda *xs: function(*(x.astype(np.float64) for x in xs)))


@op
class add(Binary):
    """a + b."""

    commutes = True
    function = staticmethod(np.add)


@op
class sub(Binary):
    """a - b."""

    function = staticmethod(np.subtract)


@op
class mul(Binary):
    """a · b."""

    commutes = True
    function = staticmethod(np.multiply)


@op
class div(Binary):
    """a / b; integers are divided towards minus infinity."""

    function = staticmethod(lambda a, b: np.divide(a, b) if a.dtype.kind not in "iu" else np.floor_divide(a, b))


@op
class mod(Binary):
    """The rest of a / b, with the sign of b."""

    function = staticmethod(np.mod)


@op
class pow(Binary):  # noqa: A001
    """a to the power of b."""

    function = staticmethod(np.power)


@op
class maximum(Binary):
    """The larger of a and b; NaN if either is. Counts no FLOPs, being a compare."""

    commutes = True
    per_element = 0
    function = staticmethod(np.maximum)


@op
class minimum(Binary):
    """The smaller of a and b; NaN if either is. Counts no FLOPs, being a compare."""

    commutes = True
    per_element = 0
    function = staticmethod(np.minimum)


@op
class eq(Compare):
    """a == b."""

    commutes = True
    function = staticmethod(np.equal)


@op
class ne(Compare):
    """a != b."""

    commutes = True
    function = staticmethod(np.not_equal)


@op
class lt(Compare):
    """a < b."""

    function = staticmethod(np.less)


@op
class le(Compare):
    """a <= b."""

    function = staticmethod(np.less_equal)


@op
class gt(Compare):
    """a > b."""

    function = staticmethod(np.greater)


@op
class ge(Compare):
    """a >= b."""

    function = staticmethod(np.greater_equal)


@op
class and_(Logical):
    """a and b."""

    function = staticmethod(np.logical_and)


@op
class or_(Logical):
    """a or b."""

    function = staticmethod(np.logical_or)


@op
class xor(Logical):
    """a or b, not both."""

    function = staticmethod(np.logical_xor)


@op
class not_(Unary):
    """not x, for booleans."""

    per_element = 0
    function = staticmethod(np.logical_not)

    def infer(self, x: TensorType) -> TensorType:
        if x.dtype != boolean:
            raise GraphError("not: takes booleans", found=str(x))
        return x


@op
class neg(Unary):
    """-x."""

    function = staticmethod(np.negative)


@op
class abs(Unary):  # noqa: A001
    """|x|. Counts no FLOPs, being a move of the sign bit."""

    per_element = 0
    function = staticmethod(np.abs)


@op
class sign(Unary):
    """-1, 0 or 1. Counts no FLOPs."""

    per_element = 0
    function = staticmethod(np.sign)


@op
class floor(Unary):
    """The largest whole number at most x."""

    function = staticmethod(np.floor)


@op
class ceil(Unary):
    """The smallest whole number at least x."""

    function = staticmethod(np.ceil)


@op
class round(Unary):  # noqa: A001
    """The nearest whole number, halves to even."""

    function = staticmethod(np.rint)


@op
class exp(Unary):
    """e to the power of x."""

    only_floats = True
    function = _wide(np.exp)


@op
class log(Unary):
    """The natural logarithm."""

    only_floats = True
    function = _wide(np.log)


@op
class sqrt(Unary):
    """The square root."""

    only_floats = True
    function = _wide(np.sqrt)


@op
class rsqrt(Unary):
    """1 / sqrt(x)."""

    only_floats = True
    function = _wide(lambda x: 1.0 / np.sqrt(x))

    def decompose(self, b: Any, x: Any) -> Any:
        return b.emit("div", b.constant(1.0, x.type.dtype), b.emit("sqrt", x))


@op
class reciprocal(Unary):
    """1 / x."""

    only_floats = True
    function = _wide(lambda x: 1.0 / x)

    def decompose(self, b: Any, x: Any) -> Any:
        return b.emit("div", b.constant(1.0, x.type.dtype), x)


@op
class tanh(Unary):
    """The hyperbolic tangent."""

    only_floats = True
    function = _wide(np.tanh)


@op
class sin(Unary):
    """The sine, of radians."""

    only_floats = True
    function = _wide(np.sin)


@op
class cos(Unary):
    """The cosine, of radians."""

    only_floats = True
    function = _wide(np.cos)


@op
class erf(Unary):
    """The error function."""

    only_floats = True
    function = _wide(accurate_erf)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


@op
class sigmoid(Unary):
    """1 / (1 + exp(-x))."""

    only_floats = True
    function = _wide(_sigmoid)

    def decompose(self, b: Any, x: Any) -> Any:
        one = b.constant(1.0, x.type.dtype)
        return b.emit("div", one, b.emit("add", one, b.emit("exp", b.emit("neg", x))))


@op
class silu(Unary):
    """x · sigmoid(x). Flops: 2 per element (sigmoid, product).

    Source: Elfwing, Uchibe and Doya 2017, "Sigmoid-Weighted Linear Units".
    """

    only_floats = True
    per_element = 2
    function = _wide(lambda x: x * _sigmoid(x))

    def decompose(self, b: Any, x: Any) -> Any:
        return b.emit("mul", x, b.emit("sigmoid", x))


@op
class relu(Unary):
    """max(x, 0). Counts no FLOPs, being a compare."""

    per_element = 0
    function = staticmethod(lambda x: np.maximum(x, np.zeros((), x.dtype)))

    def decompose(self, b: Any, x: Any) -> Any:
        return b.emit("maximum", x, b.constant(0.0, x.type.dtype))


@op
class isnan(Unary):
    """Whether x is not a number."""

    per_element = 0
    only_floats = True
    function = staticmethod(np.isnan)

    def infer(self, x: TensorType) -> TensorType:
        return super().infer(x).with_dtype(boolean)


@op
class gelu(Elementwise):
    """x · Φ(x), Φ the normal distribution; `approximate="tanh"` takes 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))).

    Flops: exact 4 per element (scale, erf, sum, product; halving folded); tanh 8 per element.
    Source: Hendrycks and Gimpel 2016, "Gaussian Error Linear Units".
    """

    inputs = ("x",)
    attrs = {"approximate": Attr(str, "none")}
    axes = "*r -> *r"

    def infer(self, x: TensorType, *, approximate: str) -> TensorType:
        if approximate not in ("none", "tanh"):
            raise GraphError(f"gelu: approximate is none or tanh, got {approximate!r}")
        if not x.dtype.is_float:
            raise GraphError("gelu: takes floating types", found=str(x))
        return x

    def flops(self, out: TensorType, x: TensorType, *, approximate: str) -> Dim:
        return (4 if approximate == "none" else 8) * out.elements

    def reference(self, x: np.ndarray, *, approximate: str) -> np.ndarray:
        x = x.astype(np.float64)
        if approximate == "none":
            return 0.5 * x * (1.0 + accurate_erf(x / np.sqrt(2.0)))
        return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))

    def decompose(self, b: Any, x: Any, *, approximate: str) -> Any:
        def number(value: float) -> Any:
            return b.constant(value, x.type.dtype)

        if approximate == "none":
            inner = b.emit("erf", b.emit("mul", x, number(0.5**0.5)))
        else:
            cube = b.emit("mul", b.emit("mul", x, x), x)
            inner = b.emit("add", x, b.emit("mul", cube, number(0.044715)))
            inner = b.emit("tanh", b.emit("mul", inner, number(float(np.sqrt(2.0 / np.pi)))))
        return b.emit("mul", b.emit("mul", x, number(0.5)), b.emit("add", inner, number(1.0)))


@op
class cast(Elementwise):
    """The same values in another dtype; floats to integers are cut towards zero, to bool is x != 0."""

    inputs = ("x",)
    attrs = {"dtype": DType}
    axes = "*r -> *r"
    per_element = 0

    def infer(self, x: TensorType, *, dtype: DType) -> TensorType:
        return x.with_dtype(dtype)

    def reference(self, x: np.ndarray, *, dtype: DType) -> np.ndarray:
        return x.astype(dtype.numpy)


@op
class where(Elementwise):
    """a where the condition holds, b elsewhere."""

    inputs = ("condition", "a", "b")
    axes = "*r, *r, *r -> *r"
    per_element = 0

    def infer(self, condition: TensorType, a: TensorType, b: TensorType) -> TensorType:
        if condition.dtype != boolean or a.dtype != b.dtype:
            raise GraphError("where: takes a boolean and two of one dtype", found=f"{condition}, {a}, {b}")
        return TensorType(a.dtype, broadcast("where", condition.shape, a.shape, b.shape))

    def reference(self, condition: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.where(condition, a, b)
