"""Products with a weight that is packed in panels: x [m, k] · w [k, n], and what follows each number of it.

A panel is `width` columns, k after k: [k, width]. A tile of up to ROWS rows and one panel stays in registers for all
of a block of k. Loops, from outside: blocks of rows that stay in the second cache, blocks of k, this thread's panels,
tiles of rows.
Source of the order of loops: Goto and van de Geijn 2008, "Anatomy of High-Performance Matrix Multiplication".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..epilogue import Epilogue
from ..script import Body, Expr, Registers, bind, div, i64, kernel, least, load, loop, number, rem, splat, store, when


@dataclass(frozen=True)
class Shape:
    """How one product is cut for a chip.

    lanes: f32 in a vector. width: columns of a panel. rows: of a tile. row_block, k_block: what stays in a cache.
    """

    k: int
    n: int
    lanes: int
    width: int
    rows: int
    row_block: int
    k_block: int

    @property
    def panels(self) -> int:
        return -(-self.n // self.width)


def gemm(name: str, *, shape: Shape, epilogue: Epilogue) -> Any:
    """Slots: x, w, y, then the epilogue's arrays, then m and the distance between rows of x, in elements."""
    others = len(epilogue.arrays)

    def write(b: Body) -> None:
        x, w, y = b.array(0), b.array(1), b.array(2)
        more = [b.array(3 + i) for i in range(others)]
        m, x_row = b.size(3 + others), b.size(4 + others)
        low, high = b.share(i64(shape.panels))
        tile = _Tile(shape, epilogue, x, w, y, more, x_row)
        when(m < shape.rows, lambda: _thin(tile, m, low, high), lambda: _wide(tile, m, low, high))

    return kernel(name, 5 + others, write)


def _thin(tile: _Tile, m: Expr, low: Expr, high: Expr) -> None:
    """Fewer rows than a tile has: every weight is read once, in one stream for each panel."""
    with loop(low, high) as panel:
        tile.rest(panel, i64(0), m, _Span(0, tile.shape.k))


def _wide(tile: _Tile, m: Expr, low: Expr, high: Expr) -> None:
    s = tile.shape
    with loop(0, div(m + (s.row_block - 1), s.row_block)) as block:
        first = bind(block * s.row_block)
        end = bind(least(first + s.row_block, m))
        blocks = -(-s.k // s.k_block)
        spans = [_Span(i * s.k_block, min(s.k, (i + 1) * s.k_block), i == 0, i == blocks - 1) for i in range(blocks)]
        for span in spans:
            with loop(low, high) as panel:
                tile.all(panel, first, end, span)


@dataclass(frozen=True)
class _Span:
    """A block of k; whether it is the first of all, and the last."""

    start: int
    end: int
    opens: bool = True
    closes: bool = True


class _Tile:
    """The innermost part: a few rows times a panel."""

    def __init__(self, shape: Shape, epilogue: Epilogue, x: Any, w: Any, y: Any, more: list[Any], x_row: Expr) -> None:
        self.shape, self.epilogue, self.more = shape, epilogue, more
        self.x, self.w, self.y, self.x_row = x, w, y, x_row

    def all(self, panel: Expr, first: Expr, end: Expr, span: _Span) -> None:
        """The rows from `first` to `end`, times a panel's block of k."""
        size = self.shape.rows
        full = bind(div(end - first, size))
        with loop(0, full) as i:
            self._few(panel, bind(first + i * size), size, span)
        self.rest(panel, bind(first + full * size), bind(rem(end - first, size)), span)

    def rest(self, panel: Expr, row: Expr, count: Expr, span: _Span) -> None:
        """Fewer rows than a tile has."""

        def of(rows: int) -> Callable[[], None]:
            return lambda: self._few(panel, row, rows, span)

        for rows in range(1, self.shape.rows):
            when(count == rows, of(rows))

    def _few(self, panel: Expr, row: Expr, rows: int, span: _Span) -> None:
        s = self.shape
        vectors = s.width // s.lanes
        sums = Registers(rows * vectors, s.lanes)
        sums.fill(number(0.0, s.lanes))
        base, starts = bind(panel * (s.k * s.width)), [bind((row + r) * self.x_row) for r in range(rows)]
        with loop(span.start, span.end) as k:
            columns = [bind(load(self.w, base + k * s.width + v * s.lanes, s.lanes)) for v in range(vectors)]
            for r in range(rows):
                value = bind(splat(load(self.x, starts[r] + k), s.lanes))
                for v in range(vectors):
                    sums[r * vectors + v] = sums[r * vectors + v] + value * columns[v]
        if s.n % s.width == 0:
            self._store(sums, panel, row, rows, s.width, span)
        else:
            when(
                panel < s.panels - 1, lambda: self._store(sums, panel, row, rows, s.width, span),
                lambda: self._store(sums, panel, row, rows, s.n % s.width, span),
            )  # fmt: skip

    def _store(self, sums: Registers, panel: Expr, row: Expr, rows: int, width: int, span: _Span) -> None:
        """The first `width` columns of a tile: whole vectors, and what is left of one by its numbers."""
        s = self.shape
        vectors = s.width // s.lanes
        for r in range(rows):
            for v in range(width // s.lanes):
                self._put(sums[r * vectors + v], row + r, panel * s.width + v * s.lanes, s.lanes, span)
            whole = width // s.lanes
            for lane in range(width % s.lanes):
                total = sums.lane(r * vectors + whole, lane)
                self._put(total, row + r, panel * s.width + (whole * s.lanes + lane), 1, span)

    def _put(self, total: Expr, row: Expr, column: Expr, lanes: int, span: _Span) -> None:
        column = bind(column)
        at = bind(row * self.shape.n + column)
        total = bind(total if span.opens else total + load(self.y, at, lanes))
        if span.closes:
            total = self.epilogue.write(total, self.more, row, column, self.shape.n, lanes)
        store(self.y, at, total, lanes)
