"""Functions of f32 vectors, written as polynomials: what LLVM would call for each lane by itself.

All take and give vectors (or scalars) of f32; `lanes` is read off the argument. Of f64, C's own functions are called.
"""

from __future__ import annotations

from tvm import tirx

from .script import Expr, bind, element_of, lanes_of, number, per_lane

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


def _double(x: Expr) -> bool:
    return element_of(x) == "float64"


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
    if _double(x):
        return libm("exp", x)
    x = tirx.min(constant(_EXP_HIGH, x), tirx.max(constant(_EXP_LOW, x), x))
    n = tirx.nearbyint(x * constant(LOG2E, x))
    r = (x - n * constant(LN2_HIGH, x)) - n * constant(LN2_LOW, x)
    y = polynomial(r, 1 / 2520, 1 / 360, 1 / 60, 1 / 12, 1 / 3, 1.0, 2.0, 2.0)
    bits = (tirx.Cast(_as(x, "int32"), n) + number(126, lanes_of(x), "int32")) << number(23, lanes_of(x), "int32")
    return y * tirx.reinterpret(_as(x, "float32"), bits)


def sigmoid(x: Expr) -> Expr:
    one = constant(1.0, x)
    return one / (one + exp(constant(0.0, x) - x))


# Of s = x^2, from its lowest power on: x · P(s) / Q(s), fitted to the function on 0 < x < LAST by least squares
# reweighted until the greatest relative error no longer fell (2.5e-8 for erf, 4e-10 for tanh). Beyond LAST it is 1.
_TANH_LAST = 8.0
_TANH_P = (1.0, 0.13726202, 0.003926625, 2.9204864e-05, 3.3571624e-08, -1.45474474e-11)
_TANH_Q = (1.0, 0.47059536, 0.027458414, 0.00040421222, 1.3723536e-06)
_ERF_LAST = 4.0
_ERF_P = (1.1283791, 0.1935351, 0.053100377, 0.003882903, 0.00028455377, 1.9868303e-06)
_ERF_Q = (1.0, 0.5048486, 0.115345836, 0.01520637, 0.00118546, 3.7420035e-05)


def _quotient(x: Expr, last: float, over: tuple[float, ...], under: tuple[float, ...]) -> Expr:
    """x · P(x^2) / Q(x^2), 1 and -1 where x is beyond `last`."""
    square, one = bind(x * x), constant(1.0, x)
    inside = x * polynomial(square, *over[::-1]) / polynomial(square, *under[::-1])
    left = tirx.Select(x < constant(-last, x), constant(-1.0, x), inside)
    return tirx.Select(x > constant(last, x), one, left)


def tanh(x: Expr) -> Expr:
    """Within 3e-7 of it, relatively."""
    return libm("tanh", x) if _double(x) else _quotient(x, _TANH_LAST, _TANH_P, _TANH_Q)


def erf(x: Expr) -> Expr:
    """Within 3e-7 of it, relatively."""
    return libm("erf", x) if _double(x) else _quotient(x, _ERF_LAST, _ERF_P, _ERF_Q)


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
