"""Reductions of one axis: of the last, by vectors along it; of another, by vectors of its neighbours.

An array is [outer, n, inner], and the middle axis goes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import vector_math as vm
from ..script import (
    Body,
    Expr,
    Numbers,
    Registers,
    bind,
    cast,
    div,
    each,
    either,
    element_of,
    i64,
    is_nan,
    kernel,
    least,
    load,
    loop,
    most,
    negated,
    number,
    rem,
    splat,
    store,
    when,
)  # fmt: skip
from .norm import SUMS, across

Combine = Callable[[Expr, Expr], Expr]
COMBINE: dict[str, Combine] = {
    "sum": lambda a, b: a + b, "mean": lambda a, b: a + b, "prod": lambda a, b: a * b, "max": vm.most,
    "min": vm.least, "any": most, "all": least,
}  # fmt: skip


def first_of(kind: str, dtype: str) -> float:
    """What a reduction begins with, of the type that it is computed in."""
    if kind in ("max", "min"):
        sign = -1 if kind == "max" else 1
        if dtype.startswith("float"):
            return sign * float("inf")
        unsigned, bits = dtype.startswith("uint"), int(dtype.lstrip("uint"))
        high = 2 ** (bits - (not unsigned)) - 1
        return high if kind == "min" else 0 if unsigned else -high - 1
    return {"sum": 0, "mean": 0, "prod": 1, "any": 0, "all": 1}[kind]


def reduce(name: str, *, kind: str, dtype: str, last: bool, lanes: int) -> Any:
    """Slots: x, y, outer, n, inner (1 where `last`). kind: an op's name."""

    def write(b: Body) -> None:
        x, y = b.numbers(0, dtype), b.numbers(1, dtype)
        outer, n, inner = b.size(2), b.size(3), b.size(4)
        line = _Line(kind, x, y, n, lanes)
        if last:
            low, high = b.share(outer)
            with loop(low, high) as row:
                line.along(row)
            return
        pieces = bind(div(inner + (lanes - 1), lanes))
        low, high = b.share(outer * pieces)
        with loop(low, high) as item:
            row, first = bind(div(item, pieces)), bind(rem(item, pieces) * lanes)
            when(
                first + lanes <= inner, lambda: line.across(row, inner, first, lanes),
                lambda: _singly(first, least(first + lanes, inner), lambda at: line.across(row, inner, at, 1)),
            )  # fmt: skip

    return kernel(name, 5, write)


def _singly(first: Expr, end: Expr, do: Callable[[Expr], None]) -> None:
    with loop(first, end) as at:
        do(at)


class _Line:
    """What one reduction reads and writes."""

    def __init__(self, kind: str, x: Numbers, y: Numbers, n: Expr, lanes: int) -> None:
        self.kind, self.x, self.y, self.n, self.lanes = kind, x, y, n, lanes
        self.dtype = x.wide
        self.combine = COMBINE[kind]
        self.first = first_of(kind, self.dtype)

    def _registers(self, count: int, lanes: int) -> Registers:
        made = Registers(count, lanes, self.dtype)
        made.fill(number(self.first, lanes, self.dtype))
        return made

    def _put(self, at: Expr, total: Expr, lanes: int) -> None:
        if self.kind == "mean":
            total = total / splat(cast(self.dtype, self.n), lanes)
        self.y.store(at, total, lanes)

    def along(self, row: Expr) -> None:
        """The last axis: partial results of each lane."""
        lanes, combine, base = self.lanes, self.combine, bind(row * self.n)
        partial, rest = self._registers(SUMS, lanes), self._registers(1, 1)
        block = SUMS * lanes
        blocks = bind(div(self.n, block))
        with loop(0, blocks) as i:
            for s in range(SUMS):
                partial[s] = combine(partial[s], bind(self.x.load(base + (i * block + s * lanes), lanes)))
        whole = bind(div(self.n, lanes))
        with loop(blocks * SUMS, whole) as i:
            partial[0] = combine(partial[0], bind(self.x.load(base + i * lanes, lanes)))
        with loop(whole * lanes, self.n) as i:
            rest[0] = combine(rest[0], bind(self.x.load(base + i)))
        for s in range(1, SUMS):
            partial[0] = combine(bind(partial[0]), bind(partial[s]))
        self._put(row, combine(bind(across(partial, lanes, combine)), bind(rest[0])), 1)

    def across(self, row: Expr, inner: Expr, at: Expr, lanes: int) -> None:
        """Some neighbours, each by itself."""
        total = self._registers(1, lanes)
        base = bind(row * self.n * inner + at)
        with loop(0, self.n) as i:
            total[0] = self.combine(bind(total[0]), bind(self.x.load(base + i * inner, lanes)))
        self._put(row * inner + at, bind(total[0]), lanes)


def cumsum(name: str, *, dtype: str) -> Any:
    """Running sums, floats' in f64. Slots: x, y, outer, n, inner."""
    held = "float64" if dtype.startswith(("float", "bfloat")) else dtype

    def write(b: Body) -> None:
        x, y = b.numbers(0, dtype), b.numbers(1, dtype)
        outer, n, inner = b.size(2), b.size(3), b.size(4)
        low, high = b.share(outer * inner)
        with loop(low, high) as line:
            base = bind(div(line, inner) * n * inner + rem(line, inner))
            total = Registers(1, 1, held)
            total[0] = number(0, 1, held)
            with loop(0, n) as i:
                at = bind(base + i * inner)
                total[0] = total[0] + cast(held, x.load(at))
                y.store(at, cast(x.wide, total[0]))

    return kernel(name, 5, write)


def argmax(name: str, *, dtype: str) -> Any:
    """The place of the greatest, the first of equals; of nan where there is one. Slots: x, y, outer, n, inner."""

    def write(b: Body) -> None:
        x, y = b.numbers(0, dtype), b.array(1, "int64")
        outer, n, inner = b.size(2), b.size(3), b.size(4)
        low, high = b.share(outer * inner)
        with loop(low, high) as line:
            base = bind(div(line, inner) * n * inner + rem(line, inner))
            best, place = Registers(1, 1, x.wide), Registers(1, 1, "int64")
            best[0], place[0] = x.load(base), i64(0)
            with loop(1, n) as i:
                value = bind(x.load(base + i * inner))

                def take(value: Expr = value, i: Expr = i) -> None:
                    best[0], place[0] = value, i

                when(_beats(value, best[0]), take)
            store(y, line, place[0])

    return kernel(name, 5, write)


def _beats(value: Expr, other: Expr) -> Expr:
    """Whether a number is greater; nan counts as the greatest of all."""
    if not element_of(value).startswith("float"):
        return value > other
    return either(value > other, each(is_nan(value), negated(is_nan(other))))


def topk(name: str, *, dtype: str, largest: bool) -> Any:
    """The k greatest (or least) in order, the first of equals first. Slots: x, values, places, outer, n, inner, k."""

    def write(b: Body) -> None:
        x, values, places = b.numbers(0, dtype), b.numbers(1, dtype), b.array(2, "int64")
        outer, n, inner, k = b.size(3), b.size(4), b.size(5), b.size(6)
        low, high = b.share(outer * inner)
        with loop(low, high) as line:
            row, column = bind(div(line, inner)), bind(rem(line, inner))
            base, kept = bind(row * n * inner + column), bind(row * k * inner + column)
            with loop(0, k) as j:
                store(places, kept + j * inner, i64(-1))
            with loop(0, n) as i:
                value = bind(x.load(base + i * inner))
                carried = Registers(1, 1, x.wide), Registers(1, 1, "int64")

                def insert(value: Expr = value, i: Expr = i, carried: Any = carried, kept: Expr = kept) -> None:
                    carried[0][0], carried[1][0] = value, i
                    with loop(0, k) as j:
                        _swap(carried, values, places, bind(kept + j * inner), largest)

                at = bind(kept + (k - 1) * inner)
                when(_before(value, i, values, places, at, largest), insert)

    return kernel(name, 7, write)


def _before(value: Expr, place: Expr, values: Numbers, places: Any, at: Expr, largest: bool) -> Expr:
    """Whether a number stands before the one that is kept at `at`, or none is."""
    kept, of = bind(values.load(at)), bind(load(places, at))
    first = _beats(value, kept) if largest else _beats(kept, value)
    behind = _beats(kept, value) if largest else _beats(value, kept)
    return bind(either(of < 0, either(first, each(negated(behind), place < of))))


def _swap(carried: Any, values: Numbers, places: Any, at: Expr, largest: bool) -> None:
    """Puts what is carried where it stands before what is kept, which is carried on then."""
    value, place = bind(carried[0][0]), bind(carried[1][0])

    def change() -> None:
        kept, of = bind(values.load(at)), bind(load(places, at))
        values.store(at, value)
        store(places, at, place)
        carried[0][0], carried[1][0] = kept, of

    when(each(place >= 0, _before(value, place, values, places, at, largest)), change)
