"""Layers of experts: pairs of a token and an expert in the experts' order, two products of all experts' panels, and the
weighted sum of what each token's experts give.

What the threads share is one line of panels, expert after expert, in which a panel counts for as many rows as its
expert has (and never for less than what reading it takes): each thread takes an equal part, so its panels lie one after
another in memory, and nobody waits for the expert that most tokens chose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..script import (
    Body,
    Expr,
    Registers,
    bind,
    both,
    div,
    i64,
    kernel,
    least,
    load,
    loop,
    most,
    number,
    prefetch,
    select,
    splat,
    store,
    when,
    widened,
)  # fmt: skip
from ..tiles import UNDER_WAY, Tiles
from ..vectors import below, store_some
from .activation import activated
from .gemm import LINE
from .index import Indices

PIECE = 4  # vectors of a token's sum that one thread takes at a time


def expert_order(name: str, *, experts: int, least_rows: int, ids: str) -> Any:
    """Pairs by expert. Pair p is choice p % k of token p // k; its slot is its place in the experts' order.

    Slots: indices [pairs], pair of each slot, slot of each pair, first slot of each expert and the end, what a panel of
    the experts before counts for, report, this call's number, pairs. All i64 but the indices.
    An expert that nobody chose counts for nothing, another for `least_rows` rows at least.
    """

    def write(b: Body) -> None:
        pair_of, slot_of, first, cost = (b.array(i, "int64") for i in range(1, 5))
        index = Indices(b.array(0, ids), i64(experts), b.array(5, "int64"), b.size(6))
        pairs = b.size(7)

        def order() -> None:
            with loop(0, experts + 1) as e:
                store(first, e, i64(0))
            with loop(0, pairs) as p:
                at = bind(index(p) + 1)
                store(first, at, load(first, at) + 1)
            with loop(0, experts) as e:
                start = bind(load(first, e))
                store(cost, e, start)  # for now the next free slot
                store(first, e + 1, load(first, e + 1) + start)
            with loop(0, pairs) as p:
                e = bind(index(p))
                slot = bind(load(cost, e))
                store(cost, e, slot + 1)
                store(pair_of, slot, p)
                store(slot_of, p, slot)
            store(cost, i64(0), i64(0))
            with loop(0, experts) as e:
                rows = bind(load(first, e + 1) - load(first, e))
                counted = select(rows > 0, most(rows, i64(least_rows)), i64(0))
                store(cost, e + 1, load(cost, e) + counted)

        when(b.thread < 1, order)

    return kernel(name, 8, write)


def expert_rows(name: str, *, k: int, d: int, row: int, lanes: int, dtype: str) -> Any:
    """The tokens' rows in the order of slots. Slots: x [tokens, d], pair of each slot, y [slots, row], slots."""

    def write(b: Body) -> None:
        x, pair_of, y, slots = b.array(0, dtype), b.array(1, "int64"), b.array(2, dtype), b.size(3)
        low, high = b.share(slots)
        with loop(low, high) as slot:
            source, target = bind(div(load(pair_of, slot), k) * d), bind(slot * row)
            with loop(0, d // lanes) as i:
                store(y, target + i * lanes, load(x, source + i * lanes, lanes), lanes)
            with loop(d - d % lanes, d) as i:
                store(y, target + i, load(x, source + i))

    return kernel(name, 4, write)


def expert_sums(name: str, *, k: int, d: int, row: int, lanes: int) -> Any:
    """Σ weights[t, i] · x[slot of (t, i)]. Slots: x [slots, row], slot of each pair, weights [tokens, k], y, tokens."""
    wide = PIECE * lanes
    pieces = -(-d // wide)

    def write(b: Body) -> None:
        x, slot_of, weights, y = b.array(0), b.array(1, "int64"), b.array(2), b.array(3)
        low, high = b.share(b.size(4) * pieces)

        def put(token: Expr, column: Expr | int, vectors: int) -> None:
            total = Registers(vectors, lanes)
            total.fill(number(0.0, lanes))
            with loop(0, k) as i:
                pair = bind(token * k + i)
                weight, at = bind(splat(load(weights, pair), lanes)), bind(load(slot_of, pair) * row + column)
                for v in range(vectors):
                    total[v] = total[v] + weight * load(x, at + v * lanes, lanes)
            for v in range(vectors):
                at, start = bind(token * d + column + v * lanes), column + v * lanes
                if isinstance(start, int) and start + lanes > d:
                    store_some(y, at, total[v], below(i64(start), i64(d), lanes))
                else:
                    store(y, at, total[v], lanes)

        with loop(low, high) as item:
            token, piece = bind(div(item, pieces)), bind(item - div(item, pieces) * pieces)
            last = (pieces - 1) * wide

            def rest(token: Expr = token, last: int = last) -> None:
                put(token, last, -(-(d - last) // lanes))

            when(piece < pieces - 1, lambda: put(token, bind(piece * wide), PIECE), rest)

    return kernel(name, 5, write)


@dataclass(frozen=True)
class Shape:
    """One of the two products. k, panels: of each expert's matrix. lanes: f32 in a vector. x_row, y_row: how far apart
    rows lie. held: the type of weights; bits, group: of quantised ones. activation: what follows, "" for nothing.
    gated: as in `to_expert_panels`."""

    experts: int
    k: int
    panels: int
    lanes: int
    width: int
    tiles: Tiles
    x_row: int
    y_row: int
    held: str = "float32"
    activation: str = ""
    gated: bool = False
    biased: bool = False
    bits: int = 0
    group: int = 0

    @property
    def blocks(self) -> int:
        return -(-self.k // self.tiles.deep)

    @property
    def scratch(self) -> int:
        """Bytes that a thread needs: the sums of a block of rows."""
        return self.tiles.row_block * self.width * 4

    @property
    def columns(self) -> int:
        """Numbers that a panel gives."""
        return self.width // 2 if self.gated else self.width


def expert_product(name: str, *, shape: Shape) -> Any:
    """x · w of each expert on its rows. Slots: x, panels, y, first slots, costs, biases in panels where there are some,
    scratch memory."""

    def write(b: Body) -> None:
        _Product(shape, b).all()

    return kernel(name, 6 + shape.biased, write)


@dataclass(frozen=True)
class _Place:
    """A tile: `rows` from slot `row` on, whose sums lie from `local` on; of a panel, counted through all experts; from
    `k` to `k_end`; what it asks for meanwhile, from `ahead` on, `stride` more with each k."""

    row: Expr
    local: Expr
    panel: Expr
    k: Expr
    k_end: Expr
    ahead: Expr
    stride: Expr


class Experts:
    """The loops that products of any kind of weights share."""

    def __init__(self, shape: Shape, b: Body, first: Any, cost: Any) -> None:
        self.shape, self.b, self.first, self.cost = shape, b, first, cost

    def all(self) -> None:
        """This thread's part of the panels of all experts."""
        s = self.shape
        low, high = self.b.share(load(self.cost, s.experts) * s.panels)
        with loop(0, s.experts) as e:
            before = bind(load(self.cost, e))
            each, start = bind(load(self.cost, e + 1) - before), bind(before * s.panels)
            end = bind(start + each * s.panels)

            def run(e: Expr = e, each: Expr = each, start: Expr = start) -> None:
                left = bind(least(most(div(low - start + each - 1, each), i64(0)), i64(s.panels)))
                right = bind(least(div(high - start + each - 1, each), i64(s.panels)))
                slot = bind(load(self.first, e))
                self.expert(bind(e * s.panels), left, right, slot, bind(load(self.first, e + 1) - slot))

            when(both(each > 0, low < end, start < high), run)

    def expert(self, base: Expr, left: Expr, right: Expr, slot: Expr, rows: Expr) -> None:
        """Panels from one to another of an expert whose first is `base`, on its rows, a block of them after another."""
        most_rows = self.shape.tiles.row_block
        blocks = bind(div(rows + (most_rows - 1), most_rows))
        with loop(0, blocks) as i:
            begin, end = bind(div(i * rows, blocks)), bind(div((i + 1) * rows, blocks))
            with loop(left, right) as panel:
                self.panel(bind(base + panel), panel, bind(slot + begin), bind(end - begin))

    def panel(self, panel: Expr, column: Expr, slot: Expr, rows: Expr) -> None:
        """One panel on a block of rows. column: its place in its expert."""
        raise NotImplementedError

    def finish(self, sums: Any, bias: Any, panel: Expr, column: Expr, row: Expr, count: Expr, y: Any) -> None:
        """What follows the sums of some rows, which lie in the first cache still."""
        s = self.shape
        vectors = s.width // s.lanes
        half = vectors // 2
        beside = bind(panel * s.width)
        with loop(0, count) as r:
            values = [load(sums, r * s.width + v * s.lanes, s.lanes) for v in range(vectors)]
            if bias is not None:
                values = [x + load(bias, beside + v * s.lanes, s.lanes) for v, x in enumerate(values)]
            values = [bind(x) for x in values]
            pairs = list(zip(values[:half], values[half:], strict=True)) if s.gated else [(x, None) for x in values]
            at = bind((row + r) * s.y_row + column * s.columns)
            for v, (x, up) in enumerate(pairs):
                store(y, at + v * s.lanes, activated(s.activation, x, up), s.lanes)


class _Product(Experts):
    """The product with weights that are floats."""

    def __init__(self, shape: Shape, b: Body) -> None:
        super().__init__(shape, b, b.array(3, "int64"), b.array(4, "int64"))
        self.x, self.y = b.array(0), b.array(2)
        self.w = b.array(1, "float32" if shape.held == "float32" else "uint16")
        self.line = LINE if shape.held == "float32" else 2 * LINE
        self.bias = b.array(5) if shape.biased else None
        self.sums = b.scratch(5 + shape.biased, i64(shape.scratch))

    def panel(self, panel: Expr, column: Expr, slot: Expr, rows: Expr) -> None:
        s, t = self.shape, self.shape.tiles
        tiles = bind(div(rows + (t.rows - 1), t.rows))
        # A single tile reads each weight once, so blocks of k would only break its stream.
        deep = bind(select(tiles > 1, i64(t.deep), i64(s.k))) if s.blocks > 1 else i64(s.k)
        stride = bind(select(tiles > 1, div(tiles + (s.width - 1), tiles), i64(s.width)))
        with loop(0, bind(div(deep + (s.k - 1), deep)) if s.blocks > 1 else 1) as block:
            k = bind(block * deep)
            k_end = bind(least(k + deep, i64(s.k)))
            base = bind(panel * (s.k * s.width))
            with loop(0, tiles) as tile:
                begin, end = bind(div(tile * rows, tiles)), bind(div((tile + 1) * rows, tiles))
                after = base + k_end * s.width + div(tile * (k_end - k) * s.width, tiles)
                ahead = bind(select(tiles > 1, after, base + k * s.width + t.ahead))
                place = _Place(bind(slot + begin), bind(begin * s.width), panel, k, k_end, ahead, stride)
                count = bind(end - begin)
                self._of(count, place, t.rows)

                def finish(place: _Place = place, begin: Expr = begin, count: Expr = count) -> None:
                    sums = self.b.at(self.b.size(5 + s.biased) + self.b.thread * s.scratch + begin * (s.width * 4))
                    self.finish(sums, self.bias, place.panel, column, place.row, count, self.y)

                when(k_end == s.k, finish) if s.blocks > 1 else finish()

    def _of(self, count: Expr, place: _Place, rows: int) -> None:
        """A tile of `count` rows, `rows` at most."""
        if rows == 1:
            self._few(place, 1)
        else:
            when(count == rows, lambda: self._few(place, rows), lambda: self._of(count, place, rows - 1))

    def _few(self, place: _Place, rows: int) -> None:
        s = self.shape
        vectors = s.width // s.lanes
        each = rows * vectors
        turns = max(1, UNDER_WAY // each)
        sums = Registers(turns * each, s.lanes)
        sums.fill(number(0.0, s.lanes))
        if s.blocks > 1:
            when(place.k > 0, lambda: self._resume(sums, place, each))
        start = bind(place.row * s.x_row)
        base = bind(place.panel * (s.k * s.width))
        full = bind(div(place.k_end - place.k, turns))
        with loop(0, full) as i:
            for turn in range(turns):
                self._step(sums, turn * each, base, bind(place.k + i * turns + turn), start, place, rows)
        if turns > 1:
            with loop(place.k + full * turns, place.k_end) as k:
                self._step(sums, 0, base, k, start, place, rows)
        for i in range(each, turns * each):
            sums[i % each] = sums[i % each] + sums[i]
        for i in range(each):
            store(self.sums, place.local + i * s.lanes, sums[i], s.lanes)

    def _resume(self, sums: Registers, place: _Place, each: int) -> None:
        """The sums as the block of k before left them."""
        for i in range(each):
            sums[i] = load(self.sums, place.local + i * self.shape.lanes, self.shape.lanes)

    def _step(
        self, sums: Registers, at: int, base: Expr, k: Expr, start: Expr, place: _Place, rows: int
    ) -> None:  # fmt: skip
        """One k of a tile."""
        s = self.shape
        vectors = s.width // s.lanes
        for line in range(0, s.width, self.line):
            prefetch(self.w, place.ahead + (k - place.k) * place.stride + line)
        columns = [bind(self._weights(base + k * s.width + v * s.lanes)) for v in range(vectors)]
        for r in range(rows):
            value = bind(splat(load(self.x, start + k + r * s.x_row), s.lanes))
            for v in range(vectors):
                i = at + r * vectors + v
                sums[i] = sums[i] + value * columns[v]

    def _weights(self, at: Expr) -> Expr:
        """A vector of weights in f32, of which a bf16 is the upper half."""
        held = load(self.w, at, self.shape.lanes)
        return held if self.shape.held == "float32" else widened(held)
