"""Elements by index. An index outside of its axis is reported, and what is read instead means nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import vector_math as vm
from ..script import (
    Body,
    Expr,
    bind,
    cast,
    div,
    either,
    i64,
    kernel,
    least,
    load,
    loop,
    most,
    rem,
    steps_from,
    store,
    when,
)  # fmt: skip


def iota(name: str, *, dtype: str, step: int, lanes: int) -> Any:
    """start, start + step, ... Slots: y, count, start."""

    def write(b: Body) -> None:
        y, count, start = b.numbers(0, dtype), b.size(1), b.size(2)
        low, high = b.share(div(count + (lanes - 1), lanes))

        def put(at: Expr, width: int) -> None:
            value = bind(start + at * i64(step))
            y.store(at, cast(y.wide, steps_from(value, step, width)), width)

        with loop(low, high) as piece:
            at = bind(piece * lanes)
            when(at + lanes <= count, lambda: put(at, lanes), lambda: _singly(at, count, lambda i: put(i, 1)))

    return kernel(name, 3, write)


def _singly(first: Expr, end: Expr, do: Callable[[Expr], None]) -> None:
    with loop(first, end) as at:
        do(at)


class Indices:
    """Indices into an axis of `size`, and where one is reported that is outside: a word that is 0 while all is well."""

    def __init__(self, array: Any, size: Expr, report: Any, number: Expr) -> None:
        self._array, self._size, self._report, self._number = array, size, report, number

    def __call__(self, at: Expr) -> Expr:
        index = bind(cast("int64", load(self._array, at)))
        outside = either(index < 0, index >= self._size)
        when(outside, lambda: store(self._report, i64(0), self._number))
        return bind(most(least(index, self._size - 1), i64(0)))


def gather(name: str, *, dtype: str, ids: str, single: bool, lanes: int) -> Any:
    """x [outer, n, inner] at indices [count] of the middle axis; single: inner is 1.

    Slots: x, indices, y, report, this call's number, outer, n, count, inner.
    """

    def write(b: Body) -> None:
        x, y = b.array(0, dtype), b.array(2, dtype)
        outer, n, count, inner = (b.size(5 + i) for i in range(4))
        index = Indices(b.array(1, ids), n, b.array(3, "int64"), b.size(4))
        low, high = b.share(outer * count)
        with loop(low, high) as item:
            at = index(rem(item, count))
            source = bind(div(item, count) * n + at)
            if single:
                store(y, item, load(x, source))
            else:
                _copy(x, bind(source * inner), y, bind(item * inner), inner, lanes)

    return kernel(name, 9, write)


def _copy(x: Any, source: Expr, y: Any, target: Expr, count: Expr, lanes: int) -> None:
    whole = bind(div(count, lanes))
    with loop(0, whole) as i:
        store(y, target + i * lanes, load(x, source + i * lanes, lanes), lanes)
    with loop(whole * lanes, count) as i:
        store(y, target + i, load(x, source + i))


def panel_gather(name: str, *, dtype: str, ids: str, width: int, depth: int = 1) -> Any:
    """Columns of panels [p, k, width], or of deeper ones, of which dtype is one that holds as many numbers.

    Slots: panels, indices, y, report, this call's number, columns, count, k.
    """

    def write(b: Body) -> None:
        x, y = b.array(0, dtype, depth), b.array(2, dtype, depth)
        columns, count, k = (b.size(5 + i) for i in range(3))
        index = Indices(b.array(1, ids), columns, b.array(3, "int64"), b.size(4))
        low, high = b.share(count)
        with loop(low, high) as item:
            at = index(item)
            source = bind(div(at, width) * k * width + rem(at, width))
            with loop(0, k) as i:
                store(y, item * k + i, load(x, source + i * width))

    return kernel(name, 8, write)


def gather_elements(name: str, *, dtype: str, ids: str) -> Any:
    """y[o, i, r] = x[o, index[o, i, r], r]. Slots: x, indices, y, report, this call's number, outer, n, m, inner."""

    def write(b: Body) -> None:
        x, y = b.array(0, dtype), b.array(2, dtype)
        outer, n, m, inner = (b.size(5 + i) for i in range(4))
        index = Indices(b.array(1, ids), n, b.array(3, "int64"), b.size(4))
        low, high = b.share(outer * m * inner)
        with loop(low, high) as item:
            row = bind(div(item, m * inner))
            store(y, item, load(x, (row * n + index(item)) * inner + rem(item, inner)))

    return kernel(name, 9, write)


COMBINE: dict[str, Callable[[Expr, Expr], Expr]] = {
    "none": lambda old, new: new, "add": lambda old, new: old + new, "mul": lambda old, new: old * new,
    "max": vm.most, "min": vm.least,
}  # fmt: skip


def scatter_elements(name: str, *, dtype: str, ids: str, reduction: str) -> Any:
    """y[o, index[o, i, r], r] takes in updates[o, i, r]; y holds x already. A line is one thread's, for its order.

    Slots: indices, updates, y, report, this call's number, outer, n, m, inner.
    """

    def write(b: Body) -> None:
        updates, y = b.numbers(1, dtype), b.numbers(2, dtype)
        outer, n, m, inner = (b.size(5 + i) for i in range(4))
        index = Indices(b.array(0, ids), n, b.array(3, "int64"), b.size(4))
        low, high = b.share(outer * inner)
        with loop(low, high) as line:
            row, column = bind(div(line, inner)), bind(rem(line, inner))
            with loop(0, m) as i:
                source = bind((row * m + i) * inner + column)
                at = bind((row * n + index(source)) * inner + column)
                y.store(at, COMBINE[reduction](bind(y.load(at)), bind(updates.load(source))))

    return kernel(name, 9, write)
