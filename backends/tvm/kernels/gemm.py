"""Products with a weight that is packed in panels: x [m, k] · w [k, n], and what follows each number of it.

A panel is `width` columns, k after k: [k, width]. A tile of a few rows and one panel stays in registers for a block of
k. Loops, from outside: blocks of rows, groups of panels, blocks of k, the panels of the group, tiles of rows. While a
tile is at work, it asks for its part of the weights that come next; where there is but one tile of rows, for those of
its own panel a little ahead.

Where weights and x are pairs of bf16, one dot-product instruction takes a pair from each row and column where
otherwise a multiply-add takes a number: then everything that is said of k here is of such pairs, as 32-bit words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..dot import PAIRS, dot_pairs, to_bf16
from ..epilogue import FULL, Epilogue
from ..script import (
    Body,
    Expr,
    Registers,
    bind,
    div,
    i64,
    imports,
    kernel,
    least,
    load,
    loop,
    most,
    number,
    prefetch,
    rem,
    select,
    splat,
    store,
    when,
    widened,
)  # fmt: skip
from ..tiles import UNDER_WAY, Tiles

LINE = 16  # f32 in a cache line
PAIR = "pair"  # of bf16, in an int32
_WORDS = {"float32": "float32", "bfloat16": "uint16", PAIR: "int32"}


@dataclass(frozen=True)
class Shape:
    """One product and how it is cut. lanes: f32 in a vector. width: columns of a panel. held: the type of weights. out:
    that of the result; if it is not f32, sums stay aside until they are done."""

    k: int
    n: int
    lanes: int
    width: int
    tiles: Tiles
    held: str = "float32"
    out: str = "float32"

    @property
    def line(self) -> int:
        """Weights in a cache line."""
        return 2 * LINE if self.held == "bfloat16" else LINE

    @property
    def panels(self) -> int:
        return -(-self.n // self.width)

    @property
    def blocks(self) -> int:
        return -(-self.k // self.tiles.deep)

    @property
    def narrow(self) -> int:
        """Columns of the last panel where that is not full, else 0."""
        return self.n % self.width

    @property
    def scratch(self) -> int:
        """Bytes that a thread needs: the sums of the last panel, where that is not full, or those of a group."""
        panels = self.tiles.group if self.out != "float32" else 1 if self.narrow else 0
        return panels * self.tiles.row_block * self.width * 4


def gemm(name: str, *, shape: Shape, epilogue: Epilogue) -> Any:
    """Slots: x, w, y, then the epilogue's arrays, then scratch memory where the shape needs some, then m and the
    distance between rows of x, in elements."""
    others, own = len(epilogue.arrays), shape.scratch > 0

    def write(b: Body) -> None:
        more = [b.array(3 + i) for i in range(others)]
        m, x_row = b.size(3 + others + own), b.size(4 + others + own)
        scratch = bind(b.size(3 + others) + b.thread * shape.scratch) if own else None
        product = _Product(shape, epilogue, b, more, x_row, scratch)
        blocks = bind(div(m + (shape.tiles.row_block - 1), shape.tiles.row_block))

        def every() -> None:
            with loop(0, blocks) as i:
                first, end = bind(div(i * m, blocks)), bind(div((i + 1) * m, blocks))
                product.rows(first, bind(end - first))

        if shape.held == PAIR:
            with imports(PAIRS):
                every()
        else:
            every()

    return kernel(name, 5 + others + own, write)


@dataclass(frozen=True)
class _Place:
    """A tile: rows from `row` on of one panel, from `k` to `k_end`; where its sums lie, `step` apart; what it asks for
    meanwhile, from `ahead` on, `stride` more with each k."""

    panel: Expr
    row: Expr
    k: Expr
    k_end: Expr
    sums: Any
    step: Expr
    ahead: Expr
    stride: Expr


class _Product:
    """The loops of one kernel."""

    def __init__(self, shape: Shape, epilogue: Epilogue, b: Body, more: list[Any], x_row: Expr, scratch: Any) -> None:
        self.shape, self.epilogue, self.b, self.more = shape, epilogue, b, more
        pair = shape.held == PAIR
        self.x = b.array(0, "int32", 2) if pair else b.array(0)
        self.w = b.array(1, _WORDS[shape.held], 1 + pair)
        self.y, self.x_row, self.scratch = b.numbers(2, shape.out, to_bf16 if pair else None), x_row, scratch

    def rows(self, first: Expr, rows: Expr) -> None:
        """A block of rows. This thread's part of its tiles lies in neighbouring panels; the first and the last of them
        it may share with other threads."""
        s, t = self.shape, self.shape.tiles
        tiles = bind(div(rows + (t.rows - 1), t.rows))
        low, high = self.b.share(bind(tiles * s.panels))
        start, end = bind(div(low, tiles)), bind(div(high + (tiles - 1), tiles))
        # A single tile reads each weight once, so blocks of k would only break its stream.
        deep = bind(select(tiles > 1, i64(t.deep), i64(s.k))) if s.blocks > 1 else i64(s.k)
        with loop(0, div(end - start + (t.group - 1), t.group)) as i:
            left = bind(start + i * t.group)
            right = bind(least(left + t.group, end))
            with loop(0, bind(div(deep + (s.k - 1), deep)) if s.blocks > 1 else 1) as block:
                k = bind(block * deep)
                k_end = bind(least(k + deep, i64(s.k)))
                with loop(left, right) as panel:
                    here = bind(panel * tiles)
                    span = bind(most(low - here, i64(0))), bind(least(high - here, tiles))
                    after = self._after(panel, left, right, k_end, block, deep)
                    self._panel(panel, first, rows, tiles, span, (k, k_end), after)

    def _after(self, panel: Expr, left: Expr, right: Expr, k_end: Expr, block: Expr, deep: Expr) -> Expr:
        """Where the weights begin that come next."""
        s = self.shape
        whole = s.k * s.width
        if s.blocks == 1:
            return bind((panel + 1) * whole)
        same = (panel + 1) * whole + block * deep * s.width
        below = left * whole + k_end * s.width
        return bind(select(panel + 1 < right, same, select(k_end < s.k, below, right * whole)))

    def _panel(
        self, panel: Expr, first: Expr, rows: Expr, tiles: Expr, span: tuple[Expr, Expr], k: tuple[Expr, Expr],
        after: Expr,
    ) -> None:  # fmt: skip
        """The tiles of a panel from one to another, in a block of k."""
        s = self.shape
        count = bind(span[1] - span[0])
        stride = bind(select(tiles > 1, div(count + (s.width - 1), count), i64(s.width)))
        with loop(*span) as tile:
            begin, end = bind(div(tile * rows, tiles)), bind(div((tile + 1) * rows, tiles))
            own = panel * (s.k * s.width) + (k[0] * s.width + s.tiles.ahead)
            ahead = bind(select(tiles > 1, after + div((tile - span[0]) * (k[1] - k[0]) * s.width, count), own))
            sums, step = self._sums(panel, bind(first + begin), begin)
            place = _Place(panel, bind(first + begin), *k, sums, step, ahead, stride)
            number_of = bind(end - begin)
            self._ask(number_of, place)
            self._of(number_of, place, s.tiles.rows)
            self._finish(number_of, place)

    def _ask(self, count: Expr, place: _Place) -> None:
        """Asks for what a tile's end reads and writes, which lies in a cache further away, or in none."""
        s = self.shape
        arrays = [a for a, how in zip(self.more, self.epilogue.arrays, strict=True) if how == FULL]
        with loop(0, count) as r:
            at = bind((place.row + r) * s.n + place.panel * s.width)
            for line in range(0, s.width, LINE):
                if s.out == "float32":
                    prefetch(place.sums, r * place.step + line, writes=True)
                elif line % (2 * LINE) == 0:
                    prefetch(self.y.array, at + line, writes=True)
                for array in arrays:
                    prefetch(array, at + line)

    def _sums(self, panel: Expr, row: Expr, local: Expr) -> tuple[Any, Expr]:
        """(where a tile's sums lie, how far apart its rows are): in y, or aside in a panel that is not full."""
        s = self.shape
        if s.out != "float32":
            place = bind(rem(panel, s.tiles.group) * s.tiles.row_block + local)
            return self.b.at(self.scratch + place * (s.width * 4)), i64(s.width)
        at = self.b.size(2) + (row * s.n + panel * s.width) * 4
        if self.scratch is None:
            return self.b.at(at), i64(s.n)
        full = panel < s.panels - 1
        aside = self.scratch + local * (s.width * 4)
        return self.b.at(select(full, at, aside)), bind(select(full, i64(s.n), i64(s.width)))

    def _of(self, count: Expr, place: _Place, rows: int) -> None:
        """A tile of `count` rows, `rows` at most."""
        if rows == 1:
            self._few(place, 1)
        else:
            when(count == rows, lambda: self._few(place, rows), lambda: self._of(count, place, rows - 1))

    def _few(self, place: _Place, rows: int) -> None:
        s = self.shape
        vectors = s.width // s.lanes
        turns = max(1, UNDER_WAY // (rows * vectors))
        each = rows * vectors
        sums = Registers(turns * each, s.lanes)
        sums.fill(number(0.0, s.lanes))
        if s.blocks > 1:
            when(place.k > 0, lambda: self._resume(sums, place, rows))
        base = bind(place.panel * (s.k * s.width))
        starts = [bind((place.row + r) * self.x_row) for r in range(rows)]
        full = bind(div(place.k_end - place.k, turns))
        with loop(0, full) as i:
            for turn in range(turns):
                self._step(sums, turn * each, base, bind(place.k + i * turns + turn), starts, place)
        if turns > 1:
            with loop(place.k + full * turns, place.k_end) as k:
                self._step(sums, 0, base, k, starts, place)
        for i in range(each, turns * each):
            sums[i % each] = sums[i % each] + sums[i]
        for r in range(rows):
            for v in range(vectors):
                store(place.sums, r * place.step + v * s.lanes, sums[r * vectors + v], s.lanes)

    def _resume(self, sums: Registers, place: _Place, rows: int) -> None:
        """The sums as the block of k before left them."""
        vectors = self.shape.width // self.shape.lanes
        for i in range(rows * vectors):
            at = (i // vectors) * place.step + (i % vectors) * self.shape.lanes
            sums[i] = load(place.sums, at, self.shape.lanes)

    def _step(self, sums: Registers, at: int, base: Expr, k: Expr, starts: list[Expr], place: _Place) -> None:
        """One k of a tile."""
        s = self.shape
        vectors = s.width // s.lanes
        for line in range(0, s.width, s.line):
            prefetch(self.w, place.ahead + (k - place.k) * place.stride + line)
        columns = [bind(self._weights(base + k * s.width + v * s.lanes)) for v in range(vectors)]
        for r, start in enumerate(starts):
            value = bind(splat(load(self.x, start + k), s.lanes))
            for v in range(vectors):
                i = at + r * vectors + v
                if s.held == PAIR:
                    sums[i] = dot_pairs(sums[i], value, columns[v])
                else:
                    sums[i] = sums[i] + value * columns[v]

    def _weights(self, at: Expr) -> Expr:
        """A vector of weights, in f32 or pairs; a bf16 alone is the upper half of an f32."""
        s = self.shape
        held = load(self.w, at, s.lanes)
        return widened(held) if s.held == "bfloat16" else held

    def _finish(self, count: Expr, place: _Place) -> None:
        """What follows a tile's sums, which lie in the first cache still."""
        s = self.shape
        aside = s.out != "float32"
        plain = self.epilogue == Epilogue() and not aside
        if plain and not s.narrow:
            return

        def full() -> None:
            if not plain:
                self._rest(count, place, s.width, None if aside else place.sums)

        def last() -> None:
            self._rest(count, place, s.narrow, None)

        def finish() -> None:
            when(place.panel < s.panels - 1, full, last) if s.narrow else full()

        when(place.k_end == s.k, finish) if s.blocks > 1 else finish()

    def _rest(self, count: Expr, place: _Place, width: int, into: Any) -> None:
        s = self.shape
        column = bind(place.panel * s.width)
        with loop(0, count) as r:
            row = bind(place.row + r)

            def put(at: Expr | int, lanes: int) -> None:
                total = bind(load(place.sums, r * place.step + at, lanes))
                value = self.epilogue.write(total, self.more, row, bind(column + at), s.n, lanes)
                if into is None:
                    self.y.store(row * s.n + (column + at), value, lanes)
                else:
                    store(into, r * place.step + at, value, lanes)

            for v in range(width // s.lanes):
                put(v * s.lanes, s.lanes)
            if width % s.lanes:
                with loop(width - width % s.lanes, width) as at:
                    put(at, 1)
