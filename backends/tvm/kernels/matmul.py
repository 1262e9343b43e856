"""Products of two activations, batched, however they lie: a [m, k] · b [k, n] for each place of the batch.

A panel is `width` columns of b. It is read where it lies when its rows are contiguous, else it is copied first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..script import (
    Body,
    Expr,
    Registers,
    bind,
    div,
    i64,
    kernel,
    least,
    load,
    loop,
    number,
    rem,
    splat,
    store,
    when,
)  # fmt: skip


@dataclass(frozen=True)
class Tile:
    """rows x width numbers that stay in registers, width being two vectors."""

    lanes: int
    dtype: str = "float32"

    @property
    def rows(self) -> int:
        return 8 if self.lanes == 16 else 4

    @property
    def width(self) -> int:
        return 2 * self.lanes

    @property
    def bytes(self) -> int:
        """Of one number."""
        return int(self.dtype.lstrip("abcdefghijklmnopqrstuvwxyz")) // 8

    @property
    def scratch(self) -> int:
        """Numbers of scratch memory beside those of a panel."""
        return self.rows * self.width


def matmul(name: str, *, tile: Tile, rank: int, contiguous: bool) -> Any:
    """Slots: a, b, y, scratch, then m, k, n, a's distances between rows and columns, b's, then for each axis of the
    batch its size, and a's and b's distances along it. y is dense. contiguous: b's columns are neighbours."""
    slots = 11 + 3 * rank

    def write(b: Body) -> None:
        m, k, n = b.size(4), b.size(5), b.size(6)
        a_row, a_column, b_row, b_column = (b.size(7 + i) for i in range(4))
        axes = [[b.size(11 + 3 * i + j) for j in range(3)] for i in range(rank)]
        count: Expr = i64(1)
        for size, _, _ in axes:
            count = count * size
        panels = bind(div(n + (tile.width - 1), tile.width))
        x, w, y = (b.array(i, tile.dtype) for i in range(3))
        scratch = b.scratch(3, (k * tile.width + tile.scratch) * tile.bytes, dtype=tile.dtype)
        low, high = b.share(count * panels)
        with loop(low, high) as item:
            place, first = bind(div(item, panels)), bind(rem(item, panels) * tile.width)
            a_at, b_at = _places(place, axes)
            columns = bind(least(n - first, i64(tile.width)))
            target, steps = bind(place * m * n + first), (a_at, a_row, a_column)
            one = _Panel(tile, x, y, scratch, k, steps, target, n, columns)
            start = bind(b_at + first * b_column)

            def packed(one: _Panel = one, start: Expr = start) -> None:
                _pack(tile, w, start, (b_row, b_column), scratch, k, columns, contiguous)
                one.all(scratch, i64(0), i64(tile.width), m)

            if contiguous:
                when(columns == tile.width, lambda: one.all(w, start, b_row, m), packed)
            else:
                packed()

    return kernel(name, slots, write)


def _places(place: Expr, axes: list[list[Expr]]) -> tuple[Expr, Expr]:
    """Where a and b of one place of the batch begin."""
    a_at, b_at, left = i64(0), i64(0), place
    for size, a_step, b_step in reversed(axes):
        index = bind(rem(left, size))
        left = bind(div(left, size))
        a_at, b_at = a_at + index * a_step, b_at + index * b_step
    return bind(a_at), bind(b_at)


def _pack(
    tile: Tile, w: Any, start: Expr, steps: tuple[Expr, Expr], into: Any, k: Expr, columns: Expr,
    rows_first: bool,
) -> None:  # fmt: skip
    """Copies a panel, with zeros for the columns that it lacks."""
    row_step, column_step = steps

    def copy(row: Expr, column: Expr) -> None:
        store(into, row * tile.width + column, load(w, start + row * row_step + column * column_step))

    def clear() -> None:
        with loop(0, k) as row, loop(columns, tile.width) as column:
            store(into, row * tile.width + column, number(0, 1, tile.dtype))

    if rows_first:
        with loop(0, k) as row, loop(0, columns) as column:
            copy(row, column)
    else:
        with loop(0, columns) as column, loop(0, k) as row:
            copy(row, column)
    when(columns < tile.width, clear)


class _Panel:
    """All rows of a, times one panel."""

    def __init__(
        self, tile: Tile, x: Any, y: Any, scratch: Any, k: Expr, a: tuple[Expr, Expr, Expr],
        target: Expr, n: Expr, columns: Expr,
    ) -> None:  # fmt: skip
        self.tile, self.x, self.y, self.k = tile, x, y, k
        self.scratch, self.aside = scratch, bind(k * tile.width)
        self.at, self.row_step, self.column_step = a
        self.target, self.n, self.columns = target, n, columns

    def all(self, w: Any, start: Expr, step: Expr, m: Expr) -> None:
        """w: the panel's array, from `start` on, its rows `step` apart."""
        size = self.tile.rows
        full = bind(div(m, size))
        with loop(0, full) as i:
            self._few(w, start, step, bind(i * size), size)
        rest, row = bind(rem(m, size)), bind(full * size)

        def of(rows: int) -> Callable[[], None]:
            return lambda: self._few(w, start, step, row, rows)

        for rows in range(1, size):
            when(rest == rows, of(rows))

    def _few(self, w: Any, start: Expr, step: Expr, row: Expr, rows: int) -> None:
        lanes, dtype = self.tile.lanes, self.tile.dtype
        sums = Registers(rows * 2, lanes, dtype)
        sums.fill(number(0, lanes, dtype))
        starts = [bind(self.at + (row + r) * self.row_step) for r in range(rows)]
        with loop(0, self.k) as k:
            base = bind(start + k * step)
            columns = [bind(load(w, base + v * lanes, lanes)) for v in range(2)]
            for r in range(rows):
                value = bind(splat(load(self.x, starts[r] + k * self.column_step), lanes))
                for v in range(2):
                    sums[r * 2 + v] = sums[r * 2 + v] + value * columns[v]
        whole = self.columns == self.tile.width
        when(whole, lambda: self._store(sums, row, rows), lambda: self._store_part(sums, row, rows))

    def _store(self, sums: Registers, row: Expr, rows: int) -> None:
        lanes = self.tile.lanes
        for r in range(rows):
            at = bind(self.target + (row + r) * self.n)
            for v in range(2):
                store(self.y, at + v * lanes, sums[r * 2 + v], lanes)

    def _store_part(self, sums: Registers, row: Expr, rows: int) -> None:
        """By way of scratch memory, whose numbers can be taken one by one."""
        lanes, aside = self.tile.lanes, self.aside
        for r in range(rows):
            for v in range(2):
                store(self.scratch, aside + (r * self.tile.width + v * lanes), sums[r * 2 + v], lanes)
        with loop(0, rows) as r, loop(0, self.columns) as c:
            value = load(self.scratch, aside + r * self.tile.width + c)
            store(self.y, self.target + (row + r) * self.n + c, value)
