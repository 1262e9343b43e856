"""Attention of one query of each head, as a token that is generated has it: bound by reading the keys and values.

Work is cut by batch and key head, and where those are too few for the threads by keys. Queries that share a key head
go through its keys together, which are read where they lie, as many at a time as a vector has lanes. What parts of the
keys gave is put together by a second kernel.
Source: Dao et al. 2023, "Flash-Decoding for long-context inference".
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
    number,
    rem,
    select,
    splat,
    store,
    when,
)
from ..vectors import exp2, fold, summed
from .attention_rows import LOWEST, Form, Given, Rows, put_row, row_of

MOST_PARTS = 256  # more than there are heads: how many pieces keys are cut in, all in all
ROWS = 8  # queries that go through keys together, at most


def part_of(form: Form) -> int:
    """Numbers that are kept of one query in one part of the keys: weighed values, the top, the total."""
    return form.values + form.lanes


def _parts(of: Given, b: Body) -> Expr:
    """Into how many the keys of each head are cut: one where heads go round, else four pieces a thread."""
    pairs = bind(of.b * of.form.heads)
    wanted = div(b.threads * 4 + (pairs - 1), pairs)
    most_parts = div(i64(MOST_PARTS), pairs) + 1
    return kept(select(rem(pairs, b.threads) > 0, least(wanted, most_parts), i64(1)))


def attention_one(name: str, *, form: Form) -> Any:
    """Of one query, and never more. Slots: `Form.slots`."""
    return kernel(name, len(form.slots), lambda b: one_query(Given(form, b), b))


def one_query(of: Given, b: Body) -> None:
    """Where the keys are in several parts, what `attention_parts` makes the answer of."""
    f = of.form
    parts = _parts(of, b)
    scores = b.scratch(f.slots["scratch"], of.sizes["bytes"])
    stride = bind(div(of.t + 31, 16) * 16)
    low, high = b.share(bind(of.b * f.heads * parts))
    with loop(low, high) as unit:
        part, pair = bind(rem(unit, parts)), bind(div(unit, parts))
        batch, head = bind(div(pair, f.heads)), bind(rem(pair, f.heads))
        place = of.place(batch)
        begin, end = of.seen(place, i64(0))
        start = bind(div(begin, f.lanes) * f.lanes)
        each = bind(div(div(end - start + (parts - 1), parts) + (f.lanes - 1), f.lanes) * f.lanes)
        first = kept(least(start + part * each, end))
        heads = [bind(head * f.group + r) for r in range(f.group)]
        keys, values = (of.at(n, b=batch, g=head) for n in ("k", "v"))
        rows = Rows(of, batch, heads, [i64(0)] * f.group, place, scores, stride, first)
        _Part(rows, keys, values, first, kept(least(first + each, end)), part, parts, unit).all()


class _Part:
    """Queries of one key head, over keys first..last - 1; `first` is where a vector of keys begins."""

    def __init__(
        self, rows: Rows, keys: Expr, values: Expr, first: Expr, last: Expr, part: Expr, parts: Expr, unit: Expr
    ) -> None:
        self.rows, self.of, self.form = rows, rows.of, rows.form
        self.keys, self.values, self.first, self.last = keys, values, first, last
        self.part, self.parts, self.unit = part, parts, unit

    def all(self) -> None:
        f, rows = self.form, self.rows
        maxima = self._scores()
        for r in range(rows.count):
            rows.tops[r] = fold(maxima[r], most)
            rows.totals[r] = number(0.0)
            if f.sinks:
                sink = kept(select(self.part > 0, number(LOWEST), rows.sink(r)))
                rows.tops[r] = most(rows.tops[r], sink)
                rows.totals[r] = exp2(sink - rows.tops[r])
        count = bind(self.last - self.first)
        rows.powers(i64(0), div(count + (f.lanes - 1), f.lanes))
        wide = f.lanes * max(2, 8 // rows.count)
        for column in range(0, f.values, wide):
            self._give(column, min(wide, f.values - column) // f.lanes, count)

    def _scores(self) -> Registers:
        f = self.form
        maxima = Registers(self.rows.count, f.lanes)
        maxima.fill(number(LOWEST, f.lanes))
        low, high = self.rows.seen[0]
        with loop(0, div(self.last - self.first + (f.lanes - 1), f.lanes)) as i:
            key = bind(self.first + i * f.lanes)
            inside = both(key >= low, key + f.lanes <= self.last)
            when(inside, lambda: self._few(key, maxima, False), lambda: self._few(key, maxima, True))
        return maxima

    def _few(self, key: Expr, maxima: Registers, edge: bool) -> None:
        """As many keys as a vector has lanes; at the end of what is seen the last is repeated."""
        f, apart = self.form, self.of.sizes["k.t"]
        places = [least(key + i, self.last - 1) if edge else key + i for i in range(f.lanes)]
        keys = [bind(self.keys + p * apart) for p in places]
        for r in range(self.rows.count):
            sums = Registers(f.lanes, f.lanes)
            sums.fill(number(0.0, f.lanes))

            def add(column: Expr | int, size: int, r: int = r, sums: Registers = sums) -> None:
                query = bind(_vector(self.of.arrays["q"], self.rows.q[r], column, size, f.lanes))
                for i, row in enumerate(keys):
                    sums[i] = sums[i] + _vector(self.of.arrays["k"], row, column, size, f.lanes) * query

            with loop(0, f.d // f.lanes) as c:
                add(bind(c * f.lanes), f.lanes)
            if f.d % f.lanes:
                add(f.d // f.lanes * f.lanes, f.d % f.lanes)
            total = summed([sums[i] for i in range(f.lanes)])
            self.rows.put(bind(total * number(f.factor, f.lanes)), maxima, r, key, edge)

    def _give(self, column: int, vectors: int, count: Expr) -> None:
        """Some columns: of the answer where the keys are in one part, else of what the part gives."""
        f, rows, of = self.form, self.rows, self.of
        first = bind(self.values + self.first * of.sizes["v.t"])
        sums = rows.weighed(of.arrays["v"], (first, of.sizes["v.t"], f.e), column, vectors, i64(0), count)
        numbers = [(r, v) for r in range(rows.count) for v in range(vectors)]

        def answer() -> None:
            for r, v in numbers:
                total = rows.totals[r]
                share = bind(number(1.0) / select(total > number(0.0), total, number(1.0)))
                value = sums[r * vectors + v] * splat(share, f.lanes)
                put_row(of.arrays["y"], rows.y[r], column + v * f.lanes, f.e, value, f.lanes)

        def part() -> None:
            for r, v in numbers:
                at = bind((self.unit * f.group + r) * part_of(f))
                store(of.arrays["parts"], at + (column + v * f.lanes), sums[r * vectors + v], f.lanes)
                if column == 0 and v == 0:
                    store(of.arrays["parts"], at + f.values, rows.tops[r])
                    store(of.arrays["parts"], at + (f.values + 1), rows.totals[r])

        when(self.parts < 2, answer, part)


def _vector(array: Any, row: Expr, column: Expr | int, size: int, lanes: int) -> Expr:
    """A vector at a column, of which `size` numbers are there."""
    return row_of(array, bind(row + column), 0, size, lanes)


def attention_parts(name: str, *, form: Form) -> Any:
    """Puts together what the parts of the keys gave. Slots: `Form.slots`."""

    def write(b: Body) -> None:
        of = Given(form, b)
        parts = _parts(of, b)

        def every() -> None:
            heads = form.heads * form.group
            low, high = b.share(bind(of.b * heads))
            with loop(low, high) as row:
                pair, r = bind(div(row, form.group)), bind(rem(row, form.group))
                y = of.at("y", b=bind(div(row, heads)), h=bind(rem(row, heads)))
                _together(of, bind((pair * parts * form.group + r) * part_of(form)), y, parts)

        when(both(of.s < 2, parts > 1), every)

    return kernel(name, len(form.slots), write)


def _together(of: Given, first: Expr, y: Expr, parts: Expr) -> None:
    f, array = of.form, of.arrays["parts"]
    apart = f.group * part_of(f)
    top, total = Registers(1, 1), Registers(1, 1)
    top[0], total[0] = number(LOWEST), number(0.0)
    with loop(0, parts) as i:
        top[0] = most(top[0], load(array, first + i * apart + f.values))
    vectors = f.values // f.lanes
    sums = Registers(vectors, f.lanes)
    sums.fill(number(0.0, f.lanes))
    with loop(0, parts) as i:
        at = bind(first + i * apart)
        weight = kept(exp2(load(array, at + f.values) - top[0]))
        total[0] = total[0] + load(array, at + (f.values + 1)) * weight
        for v in range(vectors):
            sums[v] = sums[v] + load(array, at + v * f.lanes, f.lanes) * splat(weight, f.lanes)
    share = kept(number(1.0) / select(total[0] > number(0.0), total[0], number(1.0)))
    for v in range(vectors):
        put_row(of.arrays["y"], y, v * f.lanes, f.e, sums[v] * splat(share, f.lanes), f.lanes)
