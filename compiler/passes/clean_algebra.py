"""Rules of arithmetic and of masks that keep every number."""

from __future__ import annotations

import operator
from typing import Any

from ...ir.graph import Value
from ..pattern import Match, Rule, rule
from .clean_moves import unchanged


@rule(
    lambda p, x: p.either(
        p.add(x, p.const(0)), p.sub(x, p.const(0)), p.mul(x, p.const(1)), p.div(x, p.const(1)), p.pow(x, p.const(1))
    ),
    when=unchanged,
)
def drop_neutral(b: Any, m: Match) -> Value:
    """adding 0 and multiplying by 1 are dropped"""
    return m.x


@rule(lambda p, x: p.pow(x, p.const(2)), when=unchanged)
def square(b: Any, m: Match) -> Value:
    """a power of 2 is a product"""
    return b.emit("mul", m.x, m.x)


@rule(lambda p, x: p.pow(x, p.const(0.5)), when=unchanged)
def power_is_sqrt(b: Any, m: Match) -> Value:
    """a power of 0.5 is a square root"""
    return b.emit("sqrt", m.x)


@rule(
    lambda p, x: p.either(p.pow(x, p.const(-0.5)), p.div(p.const(1), p.sqrt(x)), p.reciprocal(p.sqrt(x))),
    when=unchanged,
)
def power_is_rsqrt(b: Any, m: Match) -> Value:
    """1 over a square root is one op"""
    return b.emit("rsqrt", m.x)


@rule(lambda p, x: p.either(p.neg(p.neg(x)), p.not_(p.not_(x))))
def drop_twice(b: Any, m: Match) -> Value:
    """what undoes itself is dropped"""
    return m.x


@rule(
    lambda p, x: p.either(p.and_(x, p.const(1)), p.or_(x, p.const(0)), p.and_(x, x), p.or_(x, x), p.xor(x, p.const(0))),
    when=unchanged,
)
def drop_neutral_mask(b: Any, m: Match) -> Value:
    """a mask joined with one that changes nothing is itself"""
    return m.x


@rule(lambda p, x, y: p.either(p.not_(p.eq(x, y)), p.not_(p.ne(x, y))))
def not_equal(b: Any, m: Match) -> Value:
    """not equal is one comparison"""
    (compared,) = (n for n in m.nodes if n is not m.root)
    return b.emit("ne" if compared.op.name == "eq" else "eq", m.x, m.y)


@rule(lambda p, mask, x, y: p.where(p.not_(mask), x, y))
def where_not(b: Any, m: Match) -> Value:
    """where(not mask, a, b) is where(mask, b, a)"""
    return b.emit("where", m.mask, m.y, m.x)


@rule(lambda p, mask, x: p.where(mask, x, x), when=unchanged)
def where_same(b: Any, m: Match) -> Value:
    """where(mask, a, a) is a"""
    return m.x


def _two_valued(p: Any, mask: Any, yes: Any, no: Any) -> Any:
    return p.either(p.where(mask, p.const(yes), p.const(no)), p.cast(mask))


COMPARE = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
}  # fmt: skip


def _outcome(m: Match) -> tuple[bool, bool] | None:
    """What a comparison gives where the mask holds and where it does not; None when that cannot be known."""
    if m.mask.type.dtype.kind != "bool" or m.mask.type.shape != m.root.output.type.shape:
        return None
    yes, no = (1.0, 0.0) if m.yes is None else (m.yes, m.no)
    test = COMPARE[m.root.op.name]
    swapped = m.number(m.root.inputs[0]) is not None
    pairs = ((m.number_, x) if swapped else (x, m.number_) for x in (yes, no))
    hold, fail = (bool(test(a, c)) for a, c in pairs)
    return hold, fail


def _is_mask(m: Match) -> str | None:
    outcome = _outcome(m)
    if outcome is None:
        return "what is compared is no mask of this shape"
    return None if outcome[0] != outcome[1] else "the comparison does not tell the two apart"


def _compared(op: str) -> Rule:
    def build(b: Any, m: Match) -> Value:
        """a comparison of a mask written as numbers is the mask"""
        outcome = _outcome(m)
        return m.mask if outcome == (True, False) else b.emit("not", m.mask)

    def draw(p: Any, mask: Any, yes: Any, no: Any, number_: Any) -> Any:
        numbers = _two_valued(p, mask, yes, no)
        return p.either(getattr(p, op)(numbers, p.const(number_)), getattr(p, op)(p.const(number_), numbers))

    return rule(draw, when=_is_mask)(build)


def _is_boolean(m: Match) -> str | None:
    if m.root.output.type.dtype.kind != "bool" or m.mask.type != m.root.output.type:
        return "it is no mask of this shape"
    return None if bool(m.yes) != bool(m.no) else "both sides are the same"


@rule(
    lambda p, mask, yes, no: p.either(
        p.cast(p.where(mask, p.const(yes), p.const(no))), p.where(mask, p.const(yes), p.const(no))
    ),
    when=_is_boolean,
)
def where_is_mask(b: Any, m: Match) -> Value:
    """where(mask, true, false) is the mask"""
    return m.mask if m.yes else b.emit("not", m.mask)


ALGEBRA: tuple[Rule, ...] = (
    drop_neutral, square, power_is_sqrt, power_is_rsqrt, drop_twice, drop_neutral_mask, not_equal, where_not,
    where_same, *map(_compared, COMPARE), where_is_mask,
)  # fmt: skip
