"""What kernels of attention share: their table, which keys a query sees, scores and the powers of scores.

Scores are scaled by log2(e) more, so that their exponentials are powers of 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..script import Body, Expr, Registers, bind, cast, i64, kept, least, load, loop, most, number, select, splat, store
from ..vector_math import LOG2E, tanh
from ..vectors import below, exp2, fold, load_some, store_some

LOWEST = -1e30  # what the largest score of a row is at least, so that a row of -inf alone has powers of 0
NEVER = float("-inf")


@dataclass(frozen=True)
class Form:
    """What a model fixes of an attention, and how it is cut for a chip.

    d, e: size of a key and of a value. heads: key heads; group: queries' heads for each. scale, causal, window,
    softcap: as of the op. mask: "", "keys" [b, t] or "full" [b, h, s, t]. position: its element type, or "".
    lanes: f32 in a vector. rows: queries of a tile. block: keys of a block, a multiple of the panels' width.
    alone: whether a single query of each head is computed in a way of its own, by `attention_one`.
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
    alone: bool = False

    @property
    def width(self) -> int:
        """Keys of a panel."""
        return 2 * self.lanes

    @property
    def values(self) -> int:
        """Of a value's row as it is copied: whole vectors."""
        return -(-self.e // self.lanes) * self.lanes

    @property
    def factor(self) -> float:
        """What products of queries and keys are multiplied by, before the cap where there is one."""
        return self.scale / self.softcap if self.softcap else self.scale * LOG2E

    @property
    def optional(self) -> tuple[str, ...]:
        """The inputs that it takes beside q, k and v, in their order."""
        given = {"mask": self.mask, "bias": self.bias, "sinks": self.sinks, "position": self.position}
        return tuple(n for n, is_given in given.items() if is_given)

    @property
    def slots(self) -> dict[str, int]:
        """The table: arrays, scratch memory, sizes, and distances in elements between steps along axes."""
        parts = ["parts"] if self.alone else []
        names = ["q", "k", "v", "y", *self.optional, *parts, "scratch", "bytes", "b", "s", "t"]
        for array, axes in (("q", "bsh"), ("k", "btg"), ("v", "btg"), ("y", "bsh"), ("mask", "bsh"), ("bias", "bsh")):
            if array in names:
                names += [f"{array}.{axis}" for axis in axes]
        return {n: i for i, n in enumerate(names)}


class Given:
    """The table, read."""

    def __init__(self, form: Form, b: Body) -> None:
        self.form, slots = form, form.slots
        kinds = {"mask": "uint8", "position": form.position}
        held = ("q", "k", "v", "y", *form.optional, *(["parts"] if form.alone else []))
        self.arrays = {n: b.array(slots[n], kinds.get(n, "float32")) for n in held}
        self.sizes = {n: b.size(i) for n, i in slots.items() if n not in held and n != "scratch"}
        self.b, self.s, self.t = (self.sizes[n] for n in "bst")

    def at(self, array: str, **places: Expr) -> Expr:
        """An array's element at these places of its axes."""
        total: Expr = i64(0)
        for axis, place in places.items():
            total = total + place * self.sizes[f"{array}.{axis}"]
        return bind(total)

    def place(self, batch: Expr) -> Expr:
        """Of a row's first query among the keys."""
        if not self.form.position:
            return bind(self.t - self.s)
        return bind(cast("int64", load(self.arrays["position"], batch)))

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


class Rows:
    """Some queries of one row of the batch, each of a head of its own or not, and their scores in memory.

    scores: from `start` on of each query, `stride` apart. open: what the keys' mask adds, from `start` on; where it is
    not given, that mask is read as one of all scores is.
    """

    def __init__(
        self, of: Given, batch: Expr, heads: Sequence[Expr], queries: Sequence[Expr], place: Expr, scores: Any,
        stride: Expr | int, start: Expr, open: Any = None,
    ) -> None:  # fmt: skip
        self.of, self.form, f = of, of.form, of.form
        self.count, self.heads, self.queries = len(heads), heads, queries
        self.scores, self.stride, self.start, self.open = scores, stride, start, open
        beside = [n for n in f.optional if n == "bias" or (n == "mask" and open is None)]
        where = list(zip(heads, queries, strict=True))
        self.beside = {n: [of.at(n, b=batch, s=i, h=h) for h, i in where] for n in beside}
        self.q, self.y = ([of.at(n, b=batch, s=i, h=h) for h, i in where] for n in "qy")
        self.seen = [of.seen(place, i) for i in queries]
        self.tops, self.totals = Registers(self.count, 1), Registers(self.count, 1)

    def put(self, product: Expr, maxima: Registers, r: int, key: Expr, edge: bool) -> None:
        """Row r's score of `lanes` keys, given the product of query and keys, scaled by `Form.factor`."""
        place = bind(key - self.start)
        score = bind(self._score(product, r, place, key, edge))
        maxima[r] = most(maxima[r], score)
        store(self.scores, place + r * self.stride, score, self.form.lanes)

    def _score(self, score: Expr, r: int, place: Expr, key: Expr, edge: bool) -> Expr:
        """edge: whether some of the keys may not be seen, or not be there."""
        f = self.form
        never = number(NEVER, f.lanes)
        if f.softcap:
            score = tanh(score) * number(f.softcap * LOG2E, f.lanes)
        if f.bias:
            score = score + self._beside("bias", "float32", r, key, edge) * number(LOG2E, f.lanes)
        if self.open is not None:
            score = score + load(self.open, place, f.lanes)
        elif f.mask:
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

    def sink(self, r: int) -> Expr:
        """The score beside those of the keys."""
        return bind(load(self.of.arrays["sinks"], self.heads[r]) * number(LOG2E))

    def powers(self, low: Expr, high: Expr) -> None:
        """Scores low..high - 1, in vectors, become powers, and are added to the totals."""
        lanes = self.form.lanes
        sums = Registers(self.count, lanes)
        sums.fill(number(0.0, lanes))
        tops = [bind(splat(self.tops[r], lanes)) for r in range(self.count)]
        with loop(low, high) as i:
            for r in range(self.count):
                at = bind(i * lanes + r * self.stride)
                power = bind(exp2(load(self.scores, at, lanes) - tops[r]))
                sums[r] = sums[r] + power
                store(self.scores, at, power, lanes)
        for r in range(self.count):
            self.totals[r] = self.totals[r] + fold(sums[r], lambda a, b: a + b)

    def weighed(self, values: Any, rows: tuple[Expr, Expr, Expr], column: int, vectors: int, low: Expr,
                high: Expr) -> Registers:  # fmt: skip
        """The powers low..high - 1 times some columns of the values: vector v of row r is at r * vectors + v.

        rows: the values' row at `low`, how far it is to the next, and how many columns there are."""
        lanes = self.form.lanes
        first, apart, size = rows
        sums = Registers(self.count * vectors, lanes)
        sums.fill(number(0.0, lanes))
        with loop(low, high) as key:
            row = bind(first + key * apart)
            value = [bind(row_of(values, row, column + v * lanes, size, lanes)) for v in range(vectors)]
            for r in range(self.count):
                power = bind(splat(load(self.scores, key + r * self.stride), lanes))
                for v in range(vectors):
                    sums[r * vectors + v] = sums[r * vectors + v] + power * value[v]
        return sums


def row_of(array: Any, row: Expr, column: int, size: int, lanes: int) -> Expr:
    """A vector from a row, with 0 beyond its end."""
    if column + lanes <= size:
        return load(array, row + column, lanes)
    return load_some(array, row + column, below(i64(column), i64(size), lanes))


def put_row(array: Any, row: Expr, column: int, size: int, value: Expr, lanes: int) -> None:
    """Stores a vector into a row, up to its end."""
    if column + lanes <= size:
        store(array, row + column, value, lanes)
    else:
        store_some(array, row + column, value, below(i64(column), i64(size), lanes))
