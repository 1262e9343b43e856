"""Attention of many queries in f32: a block a tile of queries of one head, over the keys tile by tile. Scores never
leave the block: each thread computes a few of a tile, and adds what they weigh to its part of the result.

Sources: Milakov and Gimelshein 2018, "Online normalizer calculation for softmax"; Dao et al. 2022, "FlashAttention".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...script import Expr, Registers, bind, both, least, load, most, number, same, select, store, when
from ..block import Block, block_kernel, div32, guarded, i32, i64_of, loop32, over_lanes, rem32, sync
from .attention_form import LOWEST, Form, Given, Row, exp2, sink_of

SIDE = 16  # threads along queries, and along keys or columns
THREADS = SIDE * SIDE


@dataclass(frozen=True)
class Tile:
    """rows: queries, keys: of a tile."""

    rows: int
    keys: int

    def places(self, form: Form) -> tuple[int, ...]:
        """Where queries, keys, values and powers begin in shared memory, and where it ends; in f32."""
        ends, at = [0], 0
        for size in (self.rows * form.d, self.keys * (form.d + 1), self.keys * form.e, self.rows * (self.keys + 1)):
            at += size
            ends.append(at)
        return tuple(ends)


def tile_of(form: Form) -> Tile:
    """Less where rows are long, for all must fit into shared memory."""
    longest = max(form.d, form.e)
    return Tile(64, 32) if longest <= 128 else Tile(32, 32) if longest <= 256 else Tile(16, 16)


def attention(name: str, *, form: Form) -> Any:
    """Slots: `Form.slots()`. The last axes of all arrays are contiguous."""

    def write(b: Block) -> None:
        _Attention(form, b).all()

    shared = tile_of(form).places(form)[-1] * 4
    return block_kernel(len(form.slots()), write, block=THREADS, shared=shared)


class _Attention:
    def __init__(self, form: Form, b: Block) -> None:
        self.form, self.b, self.of, self.tile = form, b, Given(form, b), tile_of(form)
        self.room = b.asked(self.tile.places(form)[-1])
        self.q_at, self.k_at, self.v_at, self.p_at, _ = self.tile.places(form)
        self.down, self.right = bind(div32(b.lane, SIDE)), bind(rem32(b.lane, SIDE))
        self.own, self.columns = self.tile.rows // SIDE, -(-form.e // SIDE)  # rows and columns of a thread
        self.keys = self.tile.keys // SIDE
        tiles = bind(div32(self.of.s + (self.tile.rows - 1), self.tile.rows))
        heads = form.heads * form.group
        left = bind(div32(b.block, tiles))
        self.first = bind(rem32(b.block, tiles) * self.tile.rows)
        self.head, self.batch = bind(rem32(left, heads)), bind(div32(left, heads))
        self.place = self.of.place(self.batch)

    def all(self) -> None:
        last = bind(least(self.first + self.tile.rows, self.of.s) - 1)
        low, _ = self.of.seen(self.place, self.first)
        _, high = self.of.seen(self.place, last)
        queries = [bind(least(self.first + self._row(i), self.of.s - 1)) for i in range(self.own)]
        self.rows = [Row(self.of, self.batch, self.head, q, self.place) for q in queries]
        self.tops, self.totals = Registers(self.own, 1), Registers(self.own, 1)
        self.sums = Registers(self.own * self.columns, 1)
        self.sums.fill(number(0.0))
        self._begin()
        self._queries()
        with loop32(div32(low, self.tile.keys), div32(high + (self.tile.keys - 1), self.tile.keys)) as turn:
            start = bind(turn * self.tile.keys)
            sync()
            self._copy(self.k_at, "k", start, self.form.d, self.form.d + 1)
            self._copy(self.v_at, "v", start, self.form.e, self.form.e)
            sync()
            self._scores(start)
            sync()
            self._weigh()
        self._finish()

    def _row(self, i: int) -> Expr:
        """The tile's row that is this thread's i-th."""
        return self.down * self.own + i

    def _begin(self) -> None:
        for i in range(self.own):
            if self.form.sinks:
                self.tops[i] = most(sink_of(self.of, self.head), number(LOWEST))
                self.totals[i] = select(same(self.right, i32(0)), number(1.0), number(0.0))
            else:
                self.tops[i], self.totals[i] = number(LOWEST), number(0.0)

    def _queries(self) -> None:
        d = self.form.d
        for i in range(-(-self.tile.rows * d // THREADS)):
            at = bind(self.b.lane + i * THREADS)
            row, column = bind(div32(at, d)), bind(rem32(at, d))
            source = self.of.at("q", b=self.batch, s=self.first + row, h=self.head) + i64_of(column)
            inside = both(at < self.tile.rows * d, self.first + row < self.of.s)
            value = guarded(inside, self.of.arrays["q"].load(source) * number(self.form.factor), number(0.0))
            when(at < self.tile.rows * d, lambda at=at, value=value: store(  # type: ignore[misc]
                self.room, self.q_at + at, value))  # fmt: skip

    def _copy(self, to: int, name: str, start: Expr, size: int, apart: int) -> None:
        """A tile of keys or values; 0 beyond the last."""
        group = bind(div32(self.head, self.form.group))
        with loop32(0, -(-self.tile.keys * size // THREADS)) as turn:
            at = bind(self.b.lane + turn * THREADS)
            row, column = bind(div32(at, size)), bind(rem32(at, size))
            source = self.of.at(name, b=self.batch, t=start + row, g=group) + i64_of(column)
            value = guarded(start + row < self.of.t, self.of.arrays[name].load(source), number(0.0))
            when(at < self.tile.keys * size, lambda: store(self.room, to + row * apart + column, value))

    def _scores(self, start: Expr) -> None:
        d, scores = self.form.d, Registers(self.own * self.keys, 1)
        scores.fill(number(0.0))
        with loop32(0, d) as c:
            rows = [bind(load(self.room, self.q_at + self._row(i) * d + c)) for i in range(self.own)]
            keys = [bind(load(self.room, self.k_at + self._key(j) * (d + 1) + c)) for j in range(self.keys)]
            for i in range(self.own):
                for j in range(self.keys):
                    at = i * self.keys + j
                    scores[at] = scores[at] + rows[i] * keys[j]
        for i, row in enumerate(self.rows):
            here = [self.keys * i + j for j in range(self.keys)]
            for j, at in enumerate(here):
                scores[at] = row.score(scores[at], bind(start + self._key(j)))
            top = scores[here[0]]
            for at in here[1:]:
                top = most(top, scores[at])
            top = bind(most(self.tops[i], over_lanes(top, most, SIDE)))
            fade = bind(exp2(self.tops[i] - top))
            self.tops[i] = top
            self.totals[i] = self.totals[i] * fade
            for c in range(self.columns):
                self.sums[i * self.columns + c] = self.sums[i * self.columns + c] * fade
            for j, at in enumerate(here):
                power = bind(exp2(scores[at] - top))
                self.totals[i] = self.totals[i] + power
                store(self.room, self.p_at + self._row(i) * (self.tile.keys + 1) + self._key(j), power)

    def _key(self, j: int) -> Expr:
        """The tile's key that is this thread's j-th."""
        return self.right + j * SIDE

    def _weigh(self) -> None:
        with loop32(0, self.tile.keys) as key:
            powers = [
                bind(load(self.room, self.p_at + self._row(i) * (self.tile.keys + 1) + key)) for i in range(self.own)
            ]
            for c in range(self.columns):
                column = self.right + c * SIDE
                value = load(self.room, self.v_at + key * self.form.e + column)
                inside = (c + 1) * SIDE <= self.form.e
                value = bind(value if inside else guarded(column < self.form.e, value, number(0.0)))
                for i in range(self.own):
                    at = i * self.columns + c
                    self.sums[at] = self.sums[at] + powers[i] * value

    def _finish(self) -> None:
        for i in range(self.own):
            total = over_lanes(self.totals[i], lambda p, q: p + q, SIDE)
            share = bind(select(total > number(0.0), number(1.0) / total, number(0.0)))
            query = bind(self.first + self._row(i))
            for c in range(self.columns):
                column = bind(self.right + c * SIDE)
                at = self.of.at("y", b=self.batch, s=query, h=self.head) + i64_of(column)
                value = self.sums[i * self.columns + c] * share
                put = lambda at=at, value=value: self.of.arrays["y"].store(at, value)  # noqa: E731
                when(both(query < self.of.s, column < self.form.e), put)
