"""Attention of many queries: a few rows of them at a time over keys that are packed in panels.

Work is cut by batch, key head and tile: some queries of one head. A thread goes through the keys of a key head block by
block. Of a block it turns the keys into panels [keys / width, d, width] and copies the values, both into memory of its
own; then, for each of its tiles, it computes the scores of the block, which never leave the first cache, their
exponentials, and adds their products with the values to what the blocks before gave.
Sources: Milakov and Gimelshein 2018, "Online normalizer calculation for softmax"; Dao et al. 2022, "FlashAttention".
"""

from __future__ import annotations

from typing import Any

from ..script import (
    Body,
    Expr,
    Registers,
    bind,
    both,
    div,
    i64,
    kept,
    kernel,
    least,
    load,
    loop,
    most,
    negated,
    number,
    rem,
    select,
    splat,
    store,
    when,
)  # fmt: skip
from ..vectors import below, exp2, fold, load_some, transposed
from .attention_one import one_query
from .attention_rows import LOWEST, NEVER, Form, Given, Rows, put_row, row_of


def scratch_of(form: Form) -> tuple[int, ...]:
    """Where parts of the scratch memory begin, in bytes: keys, values, scores, the mask, and the rows' state."""
    sizes = [form.block * form.d, form.block * form.values, form.rows * _apart(form), form.block]
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + -(-size * 4 // 64) * 64)
    return tuple(starts)


def _apart(form: Form) -> int:
    """From row to row of scores: more than a block, or rows would fall on the same places of a cache."""
    return form.block + form.lanes


def attention(name: str, *, form: Form) -> Any:
    """Slots: `Form.slots`. The last axes of all arrays are contiguous. Where the form says so, a single query is left
    to `one_query`, and `attention_parts` must follow."""

    def write(b: Body) -> None:
        of = _Attention(form, b)
        if form.alone:
            when(of.s > 1, lambda: of.all(b), lambda: one_query(of, b))
        else:
            of.all(b)

    return kernel(name, len(form.slots), write)


class _Attention(Given):
    def __init__(self, form: Form, b: Body) -> None:
        super().__init__(form, b)
        self.keys, self.values, self.scores, self.open, self.state = (
            b.scratch(form.slots["scratch"], self.sizes["bytes"], at) for at in scratch_of(form)
        )  # fmt: skip

    # -- what belongs to whom ------------------------------------------------------------------------

    def all(self, b: Body) -> None:
        """Where there are fewer queries than a tile has rows, those of all heads of a group share tiles."""
        f = self.form
        few = self.s < f.rows
        span = kept(select(few, self.s * f.group, self.s))
        tiles = bind(div(span + (f.rows - 1), f.rows))
        each = bind(tiles * kept(select(few, i64(1), i64(f.group))))
        low, high = b.share(bind(self.b * f.heads * each))
        with loop(div(low, each), div(high + (each - 1), each)) as pair:
            batch, head = bind(div(pair, f.heads)), bind(rem(pair, f.heads))
            begin, end = bind(most(low - pair * each, i64(0))), bind(least(high - pair * each, each))
            self._pair(batch, head, span, tiles, begin, end)

    def _pair(self, batch: Expr, head: Expr, span: Expr, tiles: Expr, begin: Expr, end: Expr) -> None:
        """The keys of one head, for tiles begin..end - 1 of the queries' heads that it has."""
        f, place = self.form, self.place(batch)
        first, last = self.seen(place, i64(0))[0], self.seen(place, self.s - 1)[1]
        blocks = bind(most(div(last + (f.block - 1), f.block), div(first, f.block) + 1))
        with loop(div(first, f.block), blocks) as block:
            start = bind(block * f.block)
            count = kept(most(least(last - start, i64(f.block)), i64(0)))
            when(count > 0, lambda: self._pack(batch, head, start, count))
            with loop(begin, end) as unit:
                of_group, tile = bind(div(unit, tiles)), bind(rem(unit, tiles))
                if f.causal:  # light and heavy tiles in turn, so that equal numbers of tiles are about equal work
                    half = bind(div(tile, 2))
                    tile = kept(select(rem(tile, 2) > 0, tiles - 1 - half, half))
                rows = self._rows(bind(head * f.group + of_group), bind(tile * f.rows), span)
                _Tile(self, batch, *rows, place, start).all(block)

    def _rows(self, head: Expr, first: Expr, span: Expr) -> tuple[list[Expr], list[Expr]]:
        """The head and the query of each row of a tile. Rows that are missing at the end repeat the last."""
        over = kept(div(first, self.s))
        heads, queries = [kept(head + over)], [kept(first - over * self.s)]
        for r in range(1, self.form.rows):
            there, wraps = first + r < span, queries[-1] + 1 >= self.s
            heads.append(kept(select(both(there, wraps), heads[-1] + 1, heads[-1])))
            queries.append(kept(select(there, select(wraps, i64(0), queries[-1] + 1), queries[-1])))
        return heads, queries

    # -- packing -------------------------------------------------------------------------------------

    def _pack(self, batch: Expr, head: Expr, start: Expr, count: Expr) -> None:
        """`count` keys and values from `start` on."""
        f = self.form
        keys, values = (self.at(n, b=batch, g=head, t=start) for n in ("k", "v"))
        with loop(0, div(count + (f.lanes - 1), f.lanes)) as part:
            self._pack_keys(keys, bind(part * f.lanes), count)
        with loop(0, count) as key:
            row = bind(values + key * self.sizes["v.t"])
            for column in range(0, f.e, f.lanes):
                value = row_of(self.arrays["v"], row, column, f.e, f.lanes)
                store(self.values, bind(key * f.values) + column, value, f.lanes)
        if f.mask == "keys":
            row = self.at("mask", b=batch)
            with loop(0, div(count + (f.width - 1), f.width) * 2) as part:
                key = bind(part * f.lanes)
                given = load_some(self.arrays["mask"], row + start + key, below(key, count, f.lanes), "uint8")
                allowed = given != number(0, f.lanes, "uint8")
                store(self.open, key, select(allowed, number(0.0, f.lanes), number(NEVER, f.lanes)), f.lanes)

    def _pack_keys(self, keys: Expr, first: Expr, count: Expr) -> None:
        """As many keys as a vector has lanes, scaled; what is missing at the end repeats the last."""
        f = self.form
        rows = [bind(keys + least(first + i, count - 1) * self.sizes["k.t"]) for i in range(f.lanes)]
        panel = bind(div(first, f.width) * (f.d * f.width) + rem(first, f.width))
        for column in range(0, f.d, f.lanes):
            square = [bind(row_of(self.arrays["k"], row, column, f.d, f.lanes)) for row in rows]
            for i, vector in enumerate(transposed(square)[: f.d - column]):
                store(self.keys, panel + (column + i) * f.width, vector * number(f.factor, f.lanes), f.lanes)


class _Tile(Rows):
    """Some queries. Rows that repeat another write what it does."""

    def __init__(
        self, of: _Attention, batch: Expr, heads: list[Expr], queries: list[Expr], place: Expr, start: Expr
    ) -> None:
        open = of.open if of.form.mask == "keys" else None
        super().__init__(of, batch, heads, queries, place, of.scores, _apart(of.form), start, open)
        self.own = of
        self.states = [bind((rem(h, of.form.group) * of.s + i) * 2) for h, i in zip(heads, queries, strict=True)]
        # Of all rows: the first key that any sees, and that all do; the end of those that all see, and that any does.
        self.low, self.all_low = (_over([low for low, _ in self.seen], best) for best in (least, most))
        self.all_high, self.high = (_over([high for _, high in self.seen], best) for best in (least, most))
        self.factors = Registers(self.count, 1)

    def all(self, block: Expr) -> None:
        """What this block of keys adds, if it has any that the tile sees."""
        size = self.form.block
        opens = kept(div(self.low, size))
        closes = kept(most(div(self.high - 1, size), opens))
        when(both(opens <= block, block <= closes), lambda: self._block(bind(block <= opens), bind(closes <= block)))

    def _block(self, opens: Expr, closes: Expr) -> None:
        f = self.form
        low = kept(most(self.low - self.start, i64(0)))
        high = kept(most(least(self.high - self.start, i64(f.block)), low))
        self._top(self._scores(div(low, f.width), div(high + (f.width - 1), f.width)), opens)
        self.powers(div(low, f.lanes), div(high + (f.lanes - 1), f.lanes))
        self._keep(closes)
        for column in range(0, f.values, f.width):
            vectors = min(f.width, f.values - column) // f.lanes
            sums = self.weighed(self.own.values, (i64(0), i64(f.values), f.values), column, vectors, low, high)
            self._give(sums, column, vectors, opens)

    def _scores(self, low: Expr, high: Expr) -> Registers:
        """Of panels low..high - 1, into memory; the largest of each lane."""
        f = self.form
        maxima = Registers(f.rows, f.lanes)
        maxima.fill(number(LOWEST, f.lanes))
        vectors = f.width // f.lanes
        with loop(low, high) as panel:
            sums = Registers(f.rows * vectors, f.lanes)
            sums.fill(number(0.0, f.lanes))
            keys = bind(panel * (f.d * f.width))
            with loop(0, f.d) as k:
                columns = [bind(load(self.own.keys, keys + k * f.width + v * f.lanes, f.lanes)) for v in range(vectors)]
                for r, row in enumerate(self.q):
                    value = bind(splat(load(self.of.arrays["q"], row + k), f.lanes))
                    for v in range(vectors):
                        sums[r * vectors + v] = sums[r * vectors + v] + value * columns[v]
            key = bind(self.start + panel * f.width)
            inside = both(key >= self.all_low, key + f.width <= self.all_high)

            def finish(edge: bool) -> None:
                for r, v in _each(f.rows, vectors):
                    self.put(sums[r * vectors + v], maxima, r, bind(key + v * f.lanes), edge)

            when(inside, lambda: finish(False), lambda: finish(True))
        return maxima

    # -- softmax, block after block ------------------------------------------------------------------

    def _top(self, maxima: Registers, opens: Expr) -> None:
        """Each row's largest score so far, the sum of powers before this block, and by what the rest shrinks."""
        for r in range(self.count):
            self.tops[r] = fold(maxima[r], most)

        def fresh() -> None:
            for r in range(self.count):
                self.factors[r] = self.totals[r] = number(0.0)
                if self.form.sinks:
                    self.tops[r] = most(self.tops[r], self.sink(r))
                    self.totals[r] = exp2(self.sink(r) - self.tops[r])

        def more() -> None:
            for r, state in enumerate(self.states):
                before = bind(load(self.own.state, state))
                self.tops[r] = most(self.tops[r], before)
                self.factors[r] = exp2(before - self.tops[r])
                self.totals[r] = load(self.own.state, state + 1) * self.factors[r]

        when(opens, fresh, more)

    def _keep(self, closes: Expr) -> None:
        """What the next block must know; of the last block, the sums become what the values are multiplied by."""

        def ends() -> None:
            for r in range(self.count):
                total = self.totals[r]
                self.totals[r] = number(1.0) / select(total > number(0.0), total, number(1.0))

        def goes_on() -> None:
            for r, state in enumerate(self.states):
                store(self.own.state, state, self.tops[r])
                store(self.own.state, state + 1, self.totals[r])
                self.totals[r] = number(1.0)

        when(closes, ends, goes_on)

    def _give(self, sums: Registers, column: int, vectors: int, opens: Expr) -> None:
        """Some columns of the answer, added to what the blocks before gave."""
        f, y = self.form, self.of.arrays["y"]

        def before() -> None:
            # All are read before any is written: rows that repeat another write in its place.
            for r, v in _each(self.count, vectors):
                old = row_of(y, self.y[r], column + v * f.lanes, f.e, f.lanes)
                sums[r * vectors + v] = sums[r * vectors + v] + old * splat(self.factors[r], f.lanes)

        when(negated(opens), before)
        for r, v in _each(self.count, vectors):
            value = sums[r * vectors + v] * splat(self.totals[r], f.lanes)
            put_row(y, self.y[r], column + v * f.lanes, f.e, value, f.lanes)


def _over(values: list[Expr], best: Any) -> Expr:
    found = values[0]
    for value in values[1:]:
        found = kept(best(found, value))
    return found


def _each(rows: int, vectors: int) -> list[tuple[int, int]]:
    return [(r, v) for r in range(rows) for v in range(vectors)]
