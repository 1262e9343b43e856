"""Attention of many queries: a few rows of them at a time over keys that are packed in panels.

Work is cut by batch, key head and tile: some queries of one head. A thread goes through the keys of a key head block by
block. Of a block it turns the keys into panels [keys / width, d, width] and copies the values, both into memory of its
own; then, for each of its tiles, it computes the scores of the block, which never leave the first cache, their
exponentials, and adds their products with the values to what the blocks before gave.
Scores are scaled by log2(e) more, so that their exponentials are powers of 2.
Sources: Milakov and Gimelshein 2018, "Online normalizer calculation for softmax"; Dao et al. 2022, "FlashAttention".
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
    cast,
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
from ..vector_math import LOG2E, tanh
from ..vectors import below, exp2, fold, load_some, store_some, transposed

LOWEST = -1e30  # what the largest score of a row is at least, so that a row of -inf alone has powers of 0
NEVER = float("-inf")


@dataclass(frozen=True)
class Form:
    """What a model fixes of an attention, and how it is cut for a chip.

    d, e: size of a key and of a value. heads: key heads; group: queries' heads for each. scale, causal, window,
    softcap: as of the op. mask: "", "keys" [b, t] or "full" [b, h, s, t]. position: its element type, or "".
    lanes: f32 in a vector. rows: queries of a tile. block: keys of a block, a multiple of the panels' width.
    """

    d: int
    e: int
    heads: int
    group: int
    scale: float
    causal: bool
    window: int
    softcap: float
    mask: str
    bias: bool
    sinks: bool
    position: str
    lanes: int
    rows: int
    block: int

    @property
    def width(self) -> int:
        """Keys of a panel."""
        return 2 * self.lanes

    @property
    def values(self) -> int:
        """Of a value's row as it is copied: whole vectors."""
        return -(-self.e // self.lanes) * self.lanes

    @property
    def scores(self) -> int:
        """From row to row of scores: more than a block, or rows would fall on the same places of a cache."""
        return self.block + self.lanes

    @property
    def scratch(self) -> tuple[int, ...]:
        """Where parts of the scratch memory begin, in bytes: keys, values, scores, the mask, and the rows' state."""
        sizes = [self.block * self.d, self.block * self.values, self.rows * self.scores, self.block]
        starts = [0]
        for size in sizes:
            starts.append(starts[-1] + -(-size * 4 // 64) * 64)
        return tuple(starts)

    @property
    def optional(self) -> tuple[str, ...]:
        """The inputs that it takes beside q, k and v, in their order."""
        given = {"mask": self.mask, "bias": self.bias, "sinks": self.sinks, "position": self.position}
        return tuple(n for n, is_given in given.items() if is_given)

    @property
    def slots(self) -> dict[str, int]:
        """The table: arrays, scratch memory, sizes, and distances in elements between steps along axes."""
        names = ["q", "k", "v", "y", *self.optional, "scratch", "bytes", "b", "s", "t"]
        for array, axes in (("q", "bsh"), ("k", "btg"), ("v", "btg"), ("y", "bsh"), ("mask", "bhs"), ("bias", "bhs")):
            if array in names:
                names += [f"{array}.{axis}" for axis in axes]
        return {n: i for i, n in enumerate(names)}


def attention(name: str, *, form: Form) -> Any:
    """Slots: `Form.slots`. The last axes of all arrays are contiguous."""
    return kernel(name, len(form.slots), lambda b: _Attention(form, b).all(b))


class _Attention:
    def __init__(self, form: Form, b: Body) -> None:
        self.form, slots = form, form.slots
        kinds = {"mask": "uint8", "position": form.position}
        self.arrays = {
            n: b.array(slots[n], kinds.get(n, "float32")) for n in ("q", "k", "v", "y", *form.optional)
        }  # fmt: skip
        self.sizes = {n: b.size(i) for n, i in slots.items() if n not in self.arrays and n != "scratch"}
        starts = form.scratch
        self.keys, self.values, self.scores, self.open, self.state = (
            b.scratch(slots["scratch"], self.sizes["bytes"], at) for at in starts
        )  # fmt: skip
        self.s, self.t = self.sizes["s"], self.sizes["t"]

    def at(self, array: str, **places: Expr) -> Expr:
        """An array's element at these places of its axes."""
        total: Expr = i64(0)
        for axis, place in places.items():
            total = total + place * self.sizes[f"{array}.{axis}"]
        return bind(total)

    # -- what belongs to whom ------------------------------------------------------------------------

    def all(self, b: Body) -> None:
        f = self.form
        tiles = bind(div(self.s + (f.rows - 1), f.rows))
        each = bind(tiles * f.group)
        low, high = b.share(bind(self.sizes["b"] * f.heads * each))
        with loop(div(low, each), div(high + (each - 1), each)) as pair:
            batch, head = bind(div(pair, f.heads)), bind(rem(pair, f.heads))
            begin, end = bind(most(low - pair * each, i64(0))), bind(least(high - pair * each, each))
            place = cast("int64", load(self.arrays["position"], batch)) if f.position else self.t - self.s
            self._pair(batch, head, bind(place), tiles, begin, end)

    def _pair(self, batch: Expr, head: Expr, place: Expr, tiles: Expr, begin: Expr, end: Expr) -> None:
        """The keys of one head, for tiles begin..end - 1 of the queries' heads that it has."""
        f = self.form
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
                _Tile(self, batch, head, of_group, place, bind(tile * f.rows), start).all(block)

    def seen(self, place: Expr, query: Expr) -> tuple[Expr, Expr]:
        """The keys that a query sees by causality and window: from the first, before the second."""
        f, at = self.form, bind(place + query)
        low = least(most(at - (f.window - 1), i64(0)), self.t - 1) if f.window else i64(0)
        high = self.t
        if f.causal:
            high = most(least(at + 1, high), i64(0))
        elif f.window:
            high = most(least(at + f.window, high), i64(0))
        return kept(low), kept(high)

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
                value = _row(self.arrays["v"], row, column, f.e, f.lanes)
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
        scale = f.scale / f.softcap if f.softcap else f.scale * LOG2E
        rows = [bind(keys + least(first + i, count - 1) * self.sizes["k.t"]) for i in range(f.lanes)]
        panel = bind(div(first, f.width) * (f.d * f.width) + rem(first, f.width))
        for column in range(0, f.d, f.lanes):
            square = [bind(_row(self.arrays["k"], row, column, f.d, f.lanes)) for row in rows]
            for i, vector in enumerate(transposed(square)[: f.d - column]):
                store(self.keys, panel + (column + i) * f.width, vector * number(scale, f.lanes), f.lanes)


def _row(array: Any, row: Expr, column: int, size: int, lanes: int) -> Expr:
    """A vector from a row, with 0 beyond its end."""
    if column + lanes <= size:
        return load(array, row + column, lanes)
    return load_some(array, row + column, below(i64(column), i64(size), lanes))


class _Tile:
    """Some queries of one head. Rows that are missing at the end repeat the last query, and write what it does."""

    def __init__(
        self, of: _Attention, batch: Expr, head: Expr, of_group: Expr, place: Expr, first: Expr, start: Expr
    ) -> None:
        self.of, self.form, self.start, f = of, of.form, start, of.form
        head = bind(head * f.group + of_group)
        self.head = head
        self.queries = [kept(least(first + r, of.s - 1)) for r in range(f.rows)]
        self.q = [of.at("q", b=batch, s=i, h=head) for i in self.queries]
        self.y = [of.at("y", b=batch, s=i, h=head) for i in self.queries]
        self.states = [bind((of_group * of.s + i) * 2) for i in self.queries]
        self.beside: dict[str, list[Expr]] = {
            n: [of.at(n, b=batch, s=i, h=head) for i in self.queries]
            for n in ("mask", "bias") if n in f.optional and f.mask != "keys" or n == "bias" and f.bias
        }  # fmt: skip
        self.seen = [of.seen(place, i) for i in self.queries]
        # Of all rows: the first key that any sees, and that all do; the end of those that all see, and that any does.
        self.low, self.all_low = self.seen[0][0], self.seen[-1][0]
        self.all_high, self.high = self.seen[0][1], self.seen[-1][1]
        self.tops, self.totals, self.factors = (Registers(f.rows, 1) for _ in range(3))

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
        maxima = self._scores(div(low, f.width), div(high + (f.width - 1), f.width))
        self._top(maxima, opens)
        self._powers(div(low, f.lanes), div(high + (f.lanes - 1), f.lanes))
        self._keep(closes)
        for column in range(0, f.values, f.width):
            self._values(column, min(f.width, f.values - column) // f.lanes, low, high, opens, closes)

    # -- scores --------------------------------------------------------------------------------------

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
                columns = [bind(load(self.of.keys, keys + k * f.width + v * f.lanes, f.lanes)) for v in range(vectors)]
                for r, row in enumerate(self.q):
                    value = bind(splat(load(self.of.arrays["q"], row + k), f.lanes))
                    for v in range(vectors):
                        sums[r * vectors + v] = sums[r * vectors + v] + value * columns[v]
            place = bind(panel * f.width)
            key = bind(self.start + place)
            inside = both(key >= self.all_low, key + f.width <= self.all_high)
            when(inside, lambda: self._finish(sums, maxima, place, key, False),
                 lambda: self._finish(sums, maxima, place, key, True))  # fmt: skip
        return maxima

    def _finish(self, sums: Registers, maxima: Registers, place: Expr, key: Expr, edge: bool) -> None:
        f = self.form
        vectors = f.width // f.lanes
        for r in range(f.rows):
            for v in range(vectors):
                at, here = bind(place + v * f.lanes), bind(key + v * f.lanes)
                score = bind(self._score(sums[r * vectors + v], r, at, here, edge))
                maxima[r] = most(maxima[r], score)
                store(self.of.scores, at + r * f.scores, score, f.lanes)

    def _score(self, score: Expr, r: int, place: Expr, key: Expr, edge: bool) -> Expr:
        """Of row r at `lanes` keys. edge: whether some of the keys may not be seen, or not be there."""
        f = self.form
        never = number(NEVER, f.lanes)
        if f.softcap:
            score = tanh(score) * number(f.softcap * LOG2E, f.lanes)
        if f.bias:
            score = score + self._beside("bias", "float32", r, key, edge) * number(LOG2E, f.lanes)
        if f.mask == "keys":
            score = score + load(self.of.open, place, f.lanes)
        if f.mask == "full":
            score = select(self._beside("mask", "uint8", r, key, edge) != number(0, f.lanes, "uint8"), score, never)
        if edge:
            low, high = self.seen[r]
            score = select(below(key, high, f.lanes), score, never)
            if f.window:
                score = select(below(key, low, f.lanes), never, score)
        return score

    def _beside(self, name: str, dtype: str, r: int, key: Expr, edge: bool) -> Expr:
        array, at = self.of.arrays[name], self.beside[name][r] + key
        if not edge:
            return load(array, at, self.form.lanes)
        return load_some(array, at, below(key, self.of.t, self.form.lanes), dtype)

    # -- softmax -------------------------------------------------------------------------------------

    def _top(self, maxima: Registers, opens: Expr) -> None:
        """Each row's largest score so far, the sum of powers before this block, and by what the rest shrinks."""
        f = self.form
        for r in range(f.rows):
            self.tops[r] = fold(maxima[r], most)

        def fresh() -> None:
            sink = bind(load(self.of.arrays["sinks"], self.head) * number(LOG2E)) if f.sinks else None
            for r in range(f.rows):
                self.factors[r] = self.totals[r] = number(0.0)
                if sink is not None:
                    self.tops[r] = most(self.tops[r], sink)
                    self.totals[r] = exp2(sink - self.tops[r])

        def more() -> None:
            for r, state in enumerate(self.states):
                before = bind(load(self.of.state, state))
                self.tops[r] = most(self.tops[r], before)
                self.factors[r] = exp2(before - self.tops[r])
                self.totals[r] = load(self.of.state, state + 1) * self.factors[r]

        when(opens, fresh, more)

    def _powers(self, low: Expr, high: Expr) -> None:
        """Scores become powers, and are added up."""
        f = self.form
        sums = Registers(f.rows, f.lanes)
        sums.fill(number(0.0, f.lanes))
        tops = [bind(splat(self.tops[r], f.lanes)) for r in range(f.rows)]
        with loop(low, high) as i:
            for r in range(f.rows):
                at = bind(i * f.lanes + r * f.scores)
                power = bind(exp2(load(self.of.scores, at, f.lanes) - tops[r]))
                sums[r] = sums[r] + power
                store(self.of.scores, at, power, f.lanes)
        for r in range(f.rows):
            self.totals[r] = self.totals[r] + fold(sums[r], lambda a, b: a + b)

    def _keep(self, closes: Expr) -> None:
        """What the next block must know; of the last block, the sums become what the values are multiplied by."""

        def ends() -> None:
            for r in range(self.form.rows):
                total = self.totals[r]
                self.totals[r] = number(1.0) / select(total > number(0.0), total, number(1.0))

        def goes_on() -> None:
            for r, state in enumerate(self.states):
                store(self.of.state, state, self.tops[r])
                store(self.of.state, state + 1, self.totals[r])
                self.totals[r] = number(1.0)

        when(closes, ends, goes_on)

    # -- values --------------------------------------------------------------------------------------

    def _values(self, column: int, vectors: int, low: Expr, high: Expr, opens: Expr, closes: Expr) -> None:
        """The products with some columns of the values."""
        f = self.form
        sums = Registers(f.rows * vectors, f.lanes)
        sums.fill(number(0.0, f.lanes))
        with loop(low, high) as key:
            row = bind(key * f.values + column)
            values = [bind(load(self.of.values, row + v * f.lanes, f.lanes)) for v in range(vectors)]
            for r in range(f.rows):
                power = bind(splat(load(self.of.scores, key + r * f.scores), f.lanes))
                for v in range(vectors):
                    sums[r * vectors + v] = sums[r * vectors + v] + power * values[v]
        y = self.of.arrays["y"]

        def before() -> None:
            # All are read before any is written: rows that repeat another write in its place.
            for r, v in _each(f.rows, vectors):
                old = _row(y, self.y[r], column + v * f.lanes, f.e, f.lanes)
                sums[r * vectors + v] = sums[r * vectors + v] + old * splat(self.factors[r], f.lanes)

        when(negated(opens), before)
        for r, v in _each(f.rows, vectors):
            value, at = sums[r * vectors + v] * splat(self.totals[r], f.lanes), column + v * f.lanes
            if at + f.lanes <= f.e:
                store(y, self.y[r] + at, value, f.lanes)
            else:
                store_some(y, self.y[r] + at, value, below(i64(at), i64(f.e), f.lanes))


def _each(rows: int, vectors: int) -> list[tuple[int, int]]:
    return [(r, v) for r in range(rows) for v in range(vectors)]
