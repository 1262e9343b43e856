"""Element-wise kernels over any axes: copies, casts, chains of ops, with broadcasting and strides.

Axes are given at run time: sizes, and how far apart each array's elements lie along each axis. Only whether the last
axis is contiguous (1), repeated (0) or neither (-1) is fixed, for vectors need it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..script import Body, Expr, Numbers, Registers, bind, div, i64, kernel, least, loop, most, rem, splat, when
from ..steps import Chain

CONTIGUOUS, REPEATED, APART = 1, 0, -1


def elementwise(name: str, *, chain: Chain, out: str, rank: int, last: tuple[int, ...], lanes: int) -> Any:
    """Slots: the arrays, y, the sizes of `rank` axes, then for each array and y a stride per axis.

    last: of each array and y, how its last axis lies; `lanes` are used where none is APART.
    """
    arrays = len(chain.dtypes)
    wide = lanes if APART not in last and last[-1] == CONTIGUOUS else 1

    def write(b: Body) -> None:
        given = [b.numbers(i, d) for i, d in enumerate(chain.dtypes)]
        y = b.numbers(arrays, out)
        sizes = [b.size(arrays + 1 + i) for i in range(rank)]
        at = arrays + 1 + rank
        strides = [[b.size(at + i * rank + axis) for axis in range(rank)] for i in range(arrays + 1)]
        rows: Expr = i64(1)
        for size in sizes[:-1]:
            rows = rows * size
        length = sizes[-1]
        # Work is cut into pieces of rows, or of one row where there are few.
        pieces = bind(div(length + (wide - 1), wide))
        low, high = b.share(bind(rows * pieces))
        pieces = bind(most(pieces, i64(1)))  # of an empty array there are none
        first_row, last_row = bind(div(low, pieces)), bind(div(high + (pieces - 1), pieces))
        rows_of = _Rows(sizes[:-1], [s[:-1] for s in strides], first_row)
        with loop(first_row, last_row) as row:
            put = _put(chain, [*given, y], rows_of.starts(), [s[-1] for s in strides], last)
            begin = bind(most(low - row * pieces, i64(0)))
            end = bind(least(high - row * pieces, pieces))
            whole = bind(div(length, wide))
            with loop(begin, least(end, whole)) as i:
                put(bind(i * wide), wide)
            if wide > 1:
                when(end > whole, lambda: _single(whole * wide, length, put))
            rows_of.next()

    return kernel(name, arrays + 1 + rank + rank * (arrays + 1), write)


def _put(
    chain: Chain, arrays: Sequence[Numbers], starts: Sequence[Expr], steps: Sequence[Expr], last: Sequence[int]
) -> Callable[[Expr, int], None]:
    """Computes so many elements of a row from a column on. starts: of the row in each array, the last of them y."""

    def put(column: Expr, width: int) -> None:
        places = [_place(start, column, how, step) for start, how, step in zip(starts, last, steps, strict=True)]
        values = [
            splat(array.load(place), width) if how == REPEATED else array.load(place, width)
            for array, place, how in zip(arrays[:-1], places[:-1], last[:-1], strict=True)
        ]
        arrays[-1].store(places[-1], chain.evaluate(values, width), width)

    return put


class _Rows:
    """Where a row begins in each array: found by division for the first, then counted on."""

    def __init__(self, sizes: Sequence[Expr], strides: Sequence[Sequence[Expr]], first: Expr) -> None:
        self._sizes, self._strides = sizes, strides
        self._starts = Registers(len(strides), 1, "int64")
        self._starts.fill(i64(0))
        self._places = Registers(max(1, len(sizes)), 1, "int64")
        left = first
        for axis in reversed(range(len(sizes))):
            size = bind(most(sizes[axis], i64(1)))
            self._places[axis] = rem(left, size)
            left = bind(div(left, size))
            self._move(axis, self._places[axis])

    def _move(self, axis: int, count: Expr) -> None:
        for i, stride in enumerate(self._strides):
            self._starts[i] = self._starts[i] + count * stride[axis]

    def starts(self) -> list[Expr]:
        return [bind(self._starts[i]) for i in range(len(self._strides))]

    def next(self) -> None:
        self._step(len(self._sizes) - 1)

    def _step(self, axis: int) -> None:
        """One further along an axis; at its end, back to its beginning and one further along that before."""
        if axis < 0:
            return
        self._places[axis] = self._places[axis] + i64(1)
        self._move(axis, i64(1))

        def wrap() -> None:
            self._move(axis, i64(0) - self._sizes[axis])
            self._places[axis] = i64(0)
            self._step(axis - 1)

        when(self._places[axis] >= self._sizes[axis], wrap)


def _single(first: Expr, length: Expr, put: Callable[[Expr, int], None]) -> None:
    with loop(first, length) as column:
        put(column, 1)


def _place(start: Expr, column: Expr, last: int, step: Expr) -> Expr:
    if last == CONTIGUOUS:
        return start + column
    return start if last == REPEATED else start + column * step
