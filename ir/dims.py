"""Symbolic sizes: integer polynomials over atoms, kept in one normal form so that equality is identity.

An atom is a named symbol, or floordiv / mod / min / max of two dims. A `Dim` is an `int` wherever no
symbol is left, so that `Symbol("s") - Symbol("s") == 0` is plain integer equality.
"""

from __future__ import annotations

import ast
import keyword
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Union

Dim = Union[int, "Expr"]
Bindings = Mapping[str, int]
Interval = tuple[int | None, int | None]  # None is unbounded
End = tuple[int, int]  # (-1, 0) and (1, 0) are the infinities, (0, n) is n; they compare in this order


@dataclass(frozen=True, slots=True)
class Range:
    """The sizes a symbol may take: low <= size <= high; `high` None is unbounded."""

    low: int = 1
    high: int | None = None

    def __str__(self) -> str:
        return f"{self.low}..{'' if self.high is None else self.high}"

    def __contains__(self, size: int) -> bool:
        return self.low <= size and (self.high is None or size <= self.high)


Ranges = Mapping[str, Range]


@dataclass(frozen=True, slots=True)
class Atom:
    """A symbol (`fn` is "", `name` set) or a two-place function of dims (`fn`, `left`, `right`)."""

    name: str = ""
    fn: str = ""
    left: Dim = 0
    right: Dim = 0

    @property
    def key(self) -> tuple[str, ...]:
        return (self.fn, self.name, str(self.left), str(self.right))

    def __str__(self) -> str:
        if not self.fn:
            return self.name
        if self.fn in _INFIX:  # bracketed as a whole: it may stand in a product, or behind a minus
            return f"({_operand(self.left)}{_INFIX[self.fn]}{_operand(self.right)})"
        return f"{self.fn}({self.left}, {self.right})"


def _operand(dim: Dim) -> str:
    if isinstance(dim, int):
        bare = dim >= 0
    else:
        ((mono, coeff), *more) = dim.terms
        bare = not more and coeff == 1 and len(mono) == 1 and mono[0][1] == 1
    return str(dim) if bare else f"({dim})"


_INFIX = {"floordiv": "//", "mod": "%"}
Monomial = tuple[tuple[Atom, int], ...]


@dataclass(frozen=True, slots=True)
class Expr:
    """A polynomial that is not a constant. Made by arithmetic and `symbol`, never by hand."""

    terms: tuple[tuple[Monomial, int], ...]

    def __add__(self, other: Dim) -> Dim:
        return _from_terms([*self.terms, *_terms(other)])

    def __sub__(self, other: Dim) -> Dim:
        return self + _scale(other, -1)

    def __rsub__(self, other: Dim) -> Dim:
        return _from_terms([*_terms(other), *_terms(_scale(self, -1))])

    def __mul__(self, other: Dim) -> Dim:
        return _from_terms(
            [(_times(m, n), c * d) for m, c in self.terms for n, d in _terms(other)]
        )

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return mod(self, other)

    def __rmod__(self, other: Dim) -> Dim:
        return mod(other, self)

    def __neg__(self) -> Dim:
        return _scale(self, -1)

    __radd__ = __add__
    __rmul__ = __mul__

    def __str__(self) -> str:
        text = ""
        for mono, coeff in self.terms:
            factors = [str(a) if p == 1 else "*".join([str(a)] * p) for a, p in mono]
            if abs(coeff) != 1 or not factors:
                factors.insert(0, str(abs(coeff)))
            sign = "-" if coeff < 0 else "+" if text else ""
            text += sign + "*".join(factors)
        return text

    __repr__ = __str__


def symbol(name: str) -> Expr:
    """The dim that is one named symbol. Raises: ValueError on a name that `parse` would not read as one."""
    if not (name.isascii() and name.isidentifier()) or keyword.iskeyword(name):
        raise ValueError(f"a symbol's name is a plain identifier, got {name!r}")
    return Expr(((((Atom(name=name), 1),), 1),))


def floordiv(left: Dim, right: Dim) -> Dim:
    """left // right, with what divides exactly taken out: (4*s + 3) // 4 is s."""
    if right == 0:
        raise ZeroDivisionError(f"{left} // 0")
    if isinstance(left, int) and isinstance(right, int):
        return left // right
    exact, rest = _divide(left, right)
    if isinstance(rest, int) and isinstance(right, int):
        return exact + rest // right
    if rest == 0:
        return exact
    return exact + _apply("floordiv", rest, right)


def mod(left: Dim, right: Dim) -> Dim:
    """left % right, with what divides exactly taken out."""
    if right == 0:
        raise ZeroDivisionError(f"{left} % 0")
    if isinstance(left, int) and isinstance(right, int):
        return left % right
    _, rest = _divide(left, right)
    if isinstance(rest, int) and isinstance(right, int):
        return rest % right
    return 0 if rest == 0 else _apply("mod", rest, right)


def minimum(left: Dim, right: Dim) -> Dim:
    return _extreme("min", left, right)


def maximum(left: Dim, right: Dim) -> Dim:
    return _extreme("max", left, right)


def product(dims: Iterable[Dim]) -> Dim:
    total: Dim = 1
    for d in dims:
        total = total * d
    return total


def symbols(dim: Dim) -> frozenset[str]:
    """The names of all symbols in it."""
    if isinstance(dim, int):
        return frozenset()
    found: set[str] = set()
    for mono, _ in dim.terms:
        for atom, _ in mono:
            found |= (symbols(atom.left) | symbols(atom.right)) if atom.fn else {atom.name}
    return frozenset(found)


def substitute(dim: Dim, bindings: Mapping[str, Dim]) -> Dim:
    """The dim with some symbols replaced; those not named stay."""
    if isinstance(dim, int):
        return dim
    total: Dim = 0
    for mono, coeff in dim.terms:
        term: Dim = coeff
        for atom, power in mono:
            value = _substitute_atom(atom, bindings)
            for _ in range(power):
                term = term * value
        total = total + term
    return total


def evaluate(dim: Dim, bindings: Bindings) -> int:
    """The size under `bindings`. Raises: ValueError naming a symbol that has no size."""
    value = substitute(dim, bindings)
    if not isinstance(value, int):
        raise ValueError(f"no size is given for {', '.join(sorted(symbols(value)))} in {dim}")
    return value


def bounds(dim: Dim, ranges: Ranges) -> Interval:
    """(lowest, highest) value over the ranges, by interval arithmetic; None is unbounded."""
    if isinstance(dim, int):
        return dim, dim
    low: int | None = 0
    high: int | None = 0
    for mono, coeff in dim.terms:
        span: Interval = (1, 1)
        for atom, power in mono:
            for _ in range(power):
                span = _interval_product(span, _atom_bounds(atom, ranges))
        span = _interval_product(span, (coeff, coeff))
        low = None if low is None or span[0] is None else low + span[0]
        high = None if high is None or span[1] is None else high + span[1]
    return low, high


def at_most(left: Dim, right: Dim, ranges: Ranges) -> bool | None:
    """Whether left <= right for all sizes in range; None when the ranges cannot decide."""
    low, high = bounds(right - left if not isinstance(right, int) else -(left - right), ranges)
    if low is not None and low >= 0:
        return True
    if high is not None and high < 0:
        return False
    return None


def parse(text: str) -> Dim:
    """The inverse of `str`. Raises: ValueError."""
    try:
        return _from_ast(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError, ZeroDivisionError) as error:
        raise ValueError(f"not a size: {text!r}") from error


# -- how the normal form is kept ---------------------------------------------------------------------


def _terms(dim: Dim) -> tuple[tuple[Monomial, int], ...]:
    if isinstance(dim, int):
        return (((), int(dim)),) if dim else ()
    return dim.terms


def _from_terms(terms: Iterable[tuple[Monomial, int]]) -> Dim:
    total: dict[Monomial, int] = {}
    for mono, coeff in terms:
        total[mono] = total.get(mono, 0) + coeff
    kept = [(m, c) for m, c in total.items() if c]
    if not kept:
        return 0
    if len(kept) == 1 and not kept[0][0]:
        return kept[0][1]
    return Expr(tuple(sorted(kept, key=_order)))


def _order(term: tuple[Monomial, int]) -> tuple[int, list[tuple[str, ...]]]:
    mono = term[0]
    return (-sum(p for _, p in mono), [a.key for a, p in mono for _ in range(p)])


def _times(left: Monomial, right: Monomial) -> Monomial:
    powers: dict[Atom, int] = dict(left)
    for atom, power in right:
        powers[atom] = powers.get(atom, 0) + power
    return tuple(sorted(powers.items(), key=lambda item: item[0].key))


def _scale(dim: Dim, factor: int) -> Dim:
    return _from_terms([(m, c * factor) for m, c in _terms(dim)])


def _divide(left: Dim, right: Dim) -> tuple[Dim, Dim]:
    """(exact, rest) with left == exact * right + rest, taking out whole terms."""
    if left == right:
        return 1, 0
    divisor = _terms(right)
    if len(divisor) != 1:
        return 0, left
    (mono, coeff), powers = divisor[0], dict(divisor[0][0])
    exact: list[tuple[Monomial, int]] = []
    rest: list[tuple[Monomial, int]] = []
    for m, c in _terms(left):
        have = dict(m)
        if c % coeff == 0 and all(have.get(a, 0) >= p for a, p in powers.items()):
            left_over = {a: p - powers.get(a, 0) for a, p in have.items()}
            exact.append((tuple((a, p) for a, p in left_over.items() if p), c // coeff))
        elif not mono:  # an integer divisor: split the coefficient too
            exact.append((m, c // coeff))
            rest.append((m, c % coeff))
        else:
            rest.append((m, c))
    return _from_terms(exact), _from_terms(rest)


def _apply(fn: str, left: Dim, right: Dim) -> Expr:
    return Expr(((((Atom(fn=fn, left=left, right=right), 1),), 1),))


def _extreme(fn: str, left: Dim, right: Dim) -> Dim:
    difference = left - right if not isinstance(left, int) else -(right - left)
    if isinstance(difference, int):
        return left if (difference <= 0) == (fn == "min") else right
    first, second = sorted((left, right), key=str)
    return _apply(fn, first, second)


def _substitute_atom(atom: Atom, bindings: Mapping[str, Dim]) -> Dim:
    if not atom.fn:
        return bindings.get(atom.name, symbol(atom.name))
    left, right = substitute(atom.left, bindings), substitute(atom.right, bindings)
    return _FUNCTIONS[atom.fn](left, right)


def _interval_product(a: Interval, b: Interval) -> Interval:
    ends = [_end_product(x, y) for x in _signed(a) for y in _signed(b)]
    low, high = min(ends), max(ends)
    return None if low[0] < 0 else low[1], None if high[0] > 0 else high[1]


def _signed(span: Interval) -> tuple[End, End]:
    low, high = span
    return (-1, 0) if low is None else (0, low), (1, 0) if high is None else (0, high)


def _end_product(x: End, y: End) -> End:
    """0 · infinity is 0 here: the other end of the interval holds the rest."""
    if x == (0, 0) or y == (0, 0):
        return (0, 0)
    if x[0] == 0 and y[0] == 0:
        return (0, x[1] * y[1])
    positive = (x > (0, 0)) == (y > (0, 0))
    return (1, 0) if positive else (-1, 0)


def _atom_bounds(atom: Atom, ranges: Ranges) -> Interval:
    if not atom.fn:
        r = ranges.get(atom.name, Range(0))
        return r.low, r.high
    (a, b), (c, d) = bounds(atom.left, ranges), bounds(atom.right, ranges)
    if atom.fn == "min":
        return (None if a is None or c is None else min(a, c)), _least(b, d)
    if atom.fn == "max":
        low = max((x for x in (a, c) if x is not None), default=None)
        return low, (None if b is None or d is None else max(b, d))
    if c is None or c < 1:
        return None, None
    if atom.fn == "mod":
        return 0, _least(None if d is None else d - 1, b if a is not None and a >= 0 else None)
    low = None if a is None else a // c if a < 0 else 0 if d is None else a // d
    high = None if b is None else b // c if b >= 0 else -1 if d is None else b // d
    return low, high


def _least(*ends: int | None) -> int | None:
    """The least of the upper ends that are known."""
    return min((e for e in ends if e is not None), default=None)


_FUNCTIONS = {"floordiv": floordiv, "mod": mod, "min": minimum, "max": maximum}
_OPERATORS = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: floordiv,
    ast.Mod: mod,
}


def _from_ast(node: ast.expr) -> Dim:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return node.value
    if isinstance(node, ast.Name):
        return symbol(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _scale(_from_ast(node.operand), -1)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_from_ast(node.left), _from_ast(node.right))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) == 2:
        if node.func.id in ("min", "max"):
            return _FUNCTIONS[node.func.id](_from_ast(node.args[0]), _from_ast(node.args[1]))
    raise ValueError(f"not a size: {ast.unparse(node)}")


__all__ = [
    "Bindings", "Dim", "Expr", "Range", "Ranges", "at_most", "bounds", "evaluate", "floordiv", "maximum",
    "minimum", "mod", "parse", "prod", "product", "substitute", "symbol", "symbols",
]  # fmt: skip
