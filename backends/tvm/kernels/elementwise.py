"""Element-wise kernels over any axes: copies, casts, chains of ops, with broadcasting and strides.

Axes are given at run time: sizes, and how far apart each array's elements lie along each axis. Only whether the last
axis is contiguous (1), repeated (0) or neither (-1) is fixed, for vectors need it.
"""

from __future__ import annotations

from typing import Any

from ..script import Body, Expr, bind, div, i64, kernel, least, loop, most, rem, splat, when
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

        def piece(row: Expr, first: Expr) -> None:
            starts, left = [i64(0)] * (arrays + 1), row
            for axis in reversed(range(rank - 1)):
                index = bind(rem(left, sizes[axis]))
                left = bind(div(left, sizes[axis]))
                starts = [s + index * strides[i][axis] for i, s in enumerate(starts)]
            starts = [bind(s) for s in starts]
            step = [s[-1] for s in strides]

            def put(column: Expr, width: int) -> None:
                values = []
                for i, array in enumerate(given):
                    place = _place(starts[i], column, last[i], step[i])
                    one = last[i] == REPEATED
                    values.append(splat(array.load(place), width) if one else array.load(place, width))
                y.store(_place(starts[-1], column, last[-1], step[-1]), chain.evaluate(values, width), width)

            if wide == 1:
                put(first, 1)
            else:
                when(first + wide <= length, lambda: put(first, wide), lambda: _single(first, length, put))

        _split(low, high, pieces, wide, piece)

    return kernel(name, arrays + 1 + rank + rank * (arrays + 1), write)


def _split(low: Expr, high: Expr, pieces: Expr, wide: int, piece: Any) -> None:
    """Pieces low..high, row by row: one division a row, not one a piece."""
    pieces = bind(most(pieces, i64(1)))  # of an empty array there are none
    first_row, last_row = bind(div(low, pieces)), bind(div(high + (pieces - 1), pieces))
    with loop(first_row, last_row) as row:
        begin = bind(most(low - row * pieces, i64(0)))
        end = bind(least(high - row * pieces, pieces))
        with loop(begin, end) as i:
            piece(row, bind(i * wide))


def _single(first: Expr, length: Expr, put: Any) -> None:
    with loop(first, length) as column:
        put(column, 1)


def _place(start: Expr, column: Expr, last: int, step: Expr) -> Expr:
    if last == CONTIGUOUS:
        return start + column
    return start if last == REPEATED else start + column * step
