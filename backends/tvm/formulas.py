"""Formulas of compares, logic, whole numbers, casts and the functions of C's library.

A bool is a byte, 0 or 1. Source of the forms of nan: IEEE 754; TVM's own `!=` says no to nan, its `max` and `min` give
their second argument.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tvm import tirx

from . import vector_math as vm
from .script import Expr, bf16_bits, bind, cast, element_of, kept, lanes_of, number, vector_of

Formula = Callable[..., Expr]
FORMULAS: dict[str, Formula] = {}


def _formula(*names: str) -> Callable[[Formula], Formula]:
    def enter(function: Formula) -> Formula:
        FORMULAS.update(dict.fromkeys(names, function))
        return function

    return enter


def _byte(condition: Expr) -> Expr:
    """0 or 1 for each lane of a condition."""
    return tirx.Cast(vector_of("uint8", lanes_of(condition)), condition)


def _is_float(x: Expr) -> bool:
    return element_of(x).startswith("float")


def _is_signed(x: Expr) -> bool:
    return not element_of(x).startswith("uint")


# -- compares and logic -----------------------------------------------------------------------------------------

FORMULAS |= {
    "eq": lambda a, b: _byte(tirx.EQ(a, b)), "lt": lambda a, b: _byte(a < b), "le": lambda a, b: _byte(a <= b),
    "gt": lambda a, b: _byte(a > b), "ge": lambda a, b: _byte(a >= b), "isnan": lambda x: _byte(tirx.isnan(x)),
    "and": lambda a, b: a & b, "or": lambda a, b: a | b, "xor": lambda a, b: a ^ b,
    "bit_and": lambda a, b: a & b, "bit_or": lambda a, b: a | b, "bit_xor": lambda a, b: a ^ b,
    "not": lambda x: x ^ vm.constant(1, x),
}  # fmt: skip


@_formula("ne")
def _ne(a: Expr, b: Expr) -> Expr:
    equal = _byte(tirx.EQ(a, b))
    return equal ^ vm.constant(1, equal)


@_formula("where")
def _where(condition: Expr, a: Expr, b: Expr) -> Expr:
    return tirx.Select(tirx.NE(condition, vm.constant(0, condition)), a, b)


@_formula("sign")
def _sign(x: Expr) -> Expr:
    zero, one = (vm.constant(n, x) for n in (0, 1))
    below = tirx.Select(x < zero, vm.constant(-1, x), zero) if _is_signed(x) else zero
    return tirx.Select(x > zero, one, below)


# -- whole numbers ----------------------------------------------------------------------------------------------


@_formula("div")
def _div(a: Expr, b: Expr) -> Expr:
    """Of whole numbers, towards zero; by 0 it is 0, for a processor would stop there."""
    return tirx.div(a, b) if _is_float(a) else _whole_division(a, b)[0]


def _whole_division(a: Expr, b: Expr) -> tuple[Expr, Expr]:
    """Quotient towards zero, and what is left. A processor stops at a division by 0, and of the least number by -1."""
    a, b = bind(a), bind(b)
    zero, one = (vm.constant(n, a) for n in (0, 1))
    # By numbers, not by selections: TVM takes `Select(odd, x, a / Select(odd, 1, b))` for `Select(odd, x, a / b)`.
    none = cast(element_of(a), tirx.EQ(b, zero))
    if _is_signed(a):
        back = cast(element_of(a), tirx.EQ(b, vm.constant(-1, b)))
        plain = tirx.truncdiv(a, b * (one - none - back) + none + back)
        quotient = kept(plain * (one - none - back) - a * back)
    else:
        quotient = kept(tirx.truncdiv(a, b | none) * (none ^ one))
    return quotient, tirx.Select(tirx.EQ(b, zero), zero, a - quotient * b)


@_formula("mod")
def _mod(a: Expr, b: Expr) -> Expr:
    a, b = bind(a), bind(b)
    left = bind(vm.libm("fmod", a, b) if _is_float(a) else _whole_division(a, b)[1])
    if not _is_signed(a):
        return left
    zero = vm.constant(0, a)
    other_sign = tirx.Or(tirx.And(left < zero, b > zero), tirx.And(left > zero, b < zero))
    return tirx.Select(other_sign, left + b, left)


@_formula("pow")
def _pow(a: Expr, b: Expr) -> Expr:
    a = bind(a)
    if not _is_float(a):
        return _whole_power(a, bind(b))
    known = b.value if isinstance(b, tirx.Broadcast) else b
    if isinstance(known, tirx.FloatImm) and known.value in _POWERS:
        return _POWERS[known.value](a)
    return vm.libm("pow", a, b)


_POWERS: dict[float, Formula] = {
    1.0: lambda x: x, 2.0: lambda x: x * x, 3.0: lambda x: x * x * x, 0.5: tirx.sqrt,
    -1.0: lambda x: vm.constant(1.0, x) / x, -0.5: lambda x: vm.constant(1.0, x) / tirx.sqrt(x),
}  # fmt: skip
_BITS = 7  # of an exponent: 2^128 is beyond every whole number, and of 0, 1 and -1 only the lowest bit counts


def _whole_power(a: Expr, b: Expr) -> Expr:
    """By squaring; of a negative exponent 1 / a^|b| rounded towards zero."""
    zero, one = (vm.constant(n, a) for n in (0, 1))
    size = bind(tirx.max(b, zero))
    total, square = one, kept(a)  # a number that TVM knows, it would square beyond its type
    for i in range(_BITS):
        bit = (size >> vm.constant(i, a)) & one
        total = bind(tirx.Select(tirx.NE(bit, zero), total * square, total))
        square = bind(square * square)
    if not _is_signed(b):
        return total
    less = vm.constant(-1, a)
    of_less = tirx.Select(tirx.NE(b & one, zero), less, one)
    inverse = tirx.Select(tirx.EQ(a, one), one, tirx.Select(tirx.EQ(a, less), of_less, zero))
    return tirx.Select(b < zero, inverse, total)


# -- casts ------------------------------------------------------------------------------------------------------


@_formula("cast")
def _cast(x: Expr, *, dtype: str) -> Expr:
    """To TVM's name of a type, or `bool`. Floats of 16 bits come as f32 that are rounded to them."""
    lanes = lanes_of(x)
    if dtype == "bool":
        return FORMULAS["ne"](x, vm.constant(0, x))
    if dtype not in ("float16", "bfloat16"):
        return tirx.Cast(vector_of(dtype, lanes), x)
    x = bind(tirx.Cast(vector_of("float32", lanes), x))
    if dtype == "float16":
        return tirx.Cast(vector_of("float32", lanes), tirx.Cast(vector_of("float16", lanes), x))
    return tirx.reinterpret(vector_of("float32", lanes), bf16_bits(x) & number(0xFFFF0000, lanes, "uint32"))


# -- functions of C's -------------------------------------------------------------------------------------------

FORMULAS |= {"log": tirx.log, "sin": tirx.sin, "cos": tirx.cos}
FORMULAS |= {name: partial(vm.libm, name) for name in ("tan", "sinh", "cosh", "asinh", "acosh", "atanh")}
FORMULAS |= {op: partial(vm.libm, op) for op in ("asin", "acos", "atan")}
