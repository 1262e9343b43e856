"""Functions of f32 vectors, written as polynomials: what LLVM would call for each lane by itself.

All take and give vectors (or scalars) of f32; `lanes` is read off the argument.
"""

from __future__ import annotations

from tvm import tirx

from .script import Expr, element_of, lanes_of, number, per_lane

LOG2E = 1.4426950408889634
# ln 2 in two parts, the first short enough for its products with small integers to be exact.
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
_EXP_LOW, _EXP_HIGH = -87.4, 89.0


def _as(x: Expr, kind: str) -> str:
    lanes = lanes_of(x)
    return kind if lanes == 1 else f"{kind}x{lanes}"


def constant(value: float, like: Expr) -> Expr:
    """A number in each lane of another vector's type."""
    return number(value, lanes_of(like), element_of(like))


def polynomial(x: Expr, *coefficients: float) -> Expr:
    """By Horner's rule, the highest power first."""
    total = constant(coefficients[0], x)
    for c in coefficients[1:]:
        total = total * x + constant(c, x)
    return total


def exp(x: Expr) -> Expr:
    """2^n · e^r, n = round(x / ln 2), |r| <= ln 2 / 2; e^r by its Taylor polynomial of degree 7, 1e-8 off at most.

    The polynomial is of 2 e^r, and the power of n - 1: so the greatest numbers overflow where they should. Results
    under 2^-126 are 0. The bounds stand first in `max` and `min`, which give the second where one is nan.
    """
    x = tirx.min(constant(_EXP_HIGH, x), tirx.max(constant(_EXP_LOW, x), x))
    n = tirx.nearbyint(x * constant(LOG2E, x))
    r = (x - n * constant(LN2_HIGH, x)) - n * constant(LN2_LOW, x)
    y = polynomial(r, 1 / 2520, 1 / 360, 1 / 60, 1 / 12, 1 / 3, 1.0, 2.0, 2.0)
    bits = (tirx.Cast(_as(x, "int32"), n) + number(126, lanes_of(x), "int32")) << number(23, lanes_of(x), "int32")
    return y * tirx.reinterpret(_as(x, "float32"), bits)


def sigmoid(x: Expr) -> Expr:
    one = constant(1.0, x)
    return one / (one + exp(constant(0.0, x) - x))


def tanh(x: Expr) -> Expr:
    """Of large |x| by the exponential; of small ones by the Taylor polynomial, where 1 - 2 / (e^2x + 1) cancels."""
    one = constant(1.0, x)
    far = one - constant(2.0, x) / (exp(x * constant(2.0, x)) + one)
    square = x * x
    near = x + x * square * polynomial(square, 62 / 2835, -17 / 315, 2 / 15, -1 / 3)
    return tirx.Select(tirx.abs(x) < constant(0.25, x), near, far)


def erf(x: Expr) -> Expr:
    """Within 1.5e-7.

    Source: Abramowitz and Stegun 1964, "Handbook of Mathematical Functions", formula 7.1.26.
    """
    one, size = constant(1.0, x), tirx.abs(x)
    t = one / (one + constant(0.3275911, x) * size)
    p = t * polynomial(t, 1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)
    y = one - p * exp(constant(0.0, x) - size * size)
    return tirx.Select(x < constant(0.0, x), constant(0.0, x) - y, y)


def most(a: Expr, b: Expr) -> Expr:
    """The greater; nan where either is. `tirx.max` gives its second where one is nan."""
    greater = tirx.max(a, b)
    return tirx.Select(tirx.isnan(a), a, greater) if element_of(a).startswith("float") else greater


def least(a: Expr, b: Expr) -> Expr:
    """The lesser; nan where either is."""
    lesser = tirx.min(a, b)
    return tirx.Select(tirx.isnan(a), a, lesser) if element_of(a).startswith("float") else lesser


def libm(name: str, *args: Expr) -> Expr:
    """A function of C's on each lane by itself."""
    kind = element_of(args[0])
    full = name if kind == "float64" else f"{name}f"
    return per_lane(lambda *one: tirx.call_pure_extern(kind, full, *one), *args)
