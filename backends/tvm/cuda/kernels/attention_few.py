"""Attention of one query of each head, as in generation: a block some keys of one key head, with the queries of all
heads that share it; what the blocks found is joined by a second kernel.

Source: Dao et al. 2023, "Flash-Decoding for long-context inference".
"""

from __future__ import annotations

from typing import Any

from ...script import Expr, Registers, bind, i64, load, most, number, same, select, store, when
from ..block import WARP, Block, block_kernel, div32, guarded, i32, i64_of, loop32, over_lanes, rem32, sync
from .attention_form import LOWEST, Form, Given, Row, exp2, sink_of

KEYS, THREADS, TOGETHER = 64, 128, 8  # keys of a block; its threads, and those of them that multiply one key
MOST_ROWS = 16  # heads that share a key head: sums of more do not fit into registers
BESIDE = 2  # numbers after a part's sums: the greatest score, and the total of powers
PARTS = "parts"


def fits(form: Form) -> bool:
    return form.group <= MOST_ROWS and max(form.d, form.e) <= 512


def attention_few(name: str, *, form: Form) -> Any:
    """Slots: `Form.slots(PARTS)`, of one query (s is 1). parts: [b, heads, ceil(t / KEYS), e + BESIDE]."""

    def write(b: Block) -> None:
        _Few(form, b).all()

    return block_kernel(len(form.slots(PARTS)), write, block=THREADS)


class _Few:
    def __init__(self, form: Form, b: Block) -> None:
        self.form, self.b, self.of = form, b, Given(form, b, PARTS)
        self.q, self.scores = b.shared(form.group * form.d), b.shared(form.group * KEYS)
        self.counts = bind(div32(self.of.t + (KEYS - 1), KEYS))
        left = bind(div32(b.block, self.counts))
        self.part = bind(rem32(b.block, self.counts))
        self.group, self.batch = bind(rem32(left, form.heads)), bind(div32(left, form.heads))
        self.first = bind(self.part * KEYS)
        place = self.of.place(self.batch)
        self.rows = [Row(self.of, self.batch, self._head(r), i32(0), place) for r in range(form.group)]
        self.lane, self.warp = bind(rem32(b.lane, WARP)), bind(div32(b.lane, WARP))

    def _head(self, r: int) -> Expr:
        return bind(self.group * self.form.group + r)

    def _at(self, r: Expr | int) -> Expr:
        """Where the part of a row begins among the parts."""
        heads = self.form.heads * self.form.group
        head = self.batch * heads + self.group * self.form.group + r
        return bind(i64_of(head * self.counts + self.part) * i64(self.form.e + BESIDE))

    def all(self) -> None:
        form, d = self.form, self.form.d
        for i in range(-(-form.group * d // THREADS)):
            at = bind(self.b.lane + i * THREADS)
            head, column = bind(self.group * form.group + div32(at, d)), bind(rem32(at, d))
            source = self.of.at("q", b=self.batch, s=i32(0), h=head) + i64_of(column)
            when(at < form.group * d, lambda at=at, source=source: store(  # type: ignore[misc]
                self.q, at, self.of.arrays["q"].load(source) * number(form.factor)))  # fmt: skip
        sync()
        self._scores()
        sync()
        self._powers()
        sync()
        self._weigh()

    def _scores(self) -> None:
        form, d = self.form, self.form.d
        own = bind(rem32(self.lane, TOGETHER))
        with loop32(0, KEYS * TOGETHER // THREADS) as turn:
            here = bind(turn * (THREADS // TOGETHER) + div32(self.b.lane, TOGETHER))
            key = bind(self.first + here)
            start = self.of.at("k", b=self.batch, t=key, g=self.group)
            sums = Registers(form.group, 1)
            sums.fill(number(0.0))
            with loop32(0, -(-d // TOGETHER)) as i:
                column = bind(own + i * TOGETHER)

                def add(column: Expr = column, start: Expr = start, sums: Registers = sums) -> None:
                    value = bind(self.of.arrays["k"].load(start + i64_of(column)))
                    for r in range(form.group):
                        sums[r] = sums[r] + value * load(self.q, column + r * d)

                when(column < d, lambda key=key, add=add: when(key < self.of.t, add))  # type: ignore[misc]
            for r, row in enumerate(self.rows):
                total = over_lanes(sums[r], lambda p, q: p + q, TOGETHER)
                score = bind(row.score(total, key))
                at = here + r * KEYS
                when(same(own, i32(0)), lambda at=at, score=score: store(self.scores, at, score))  # type: ignore[misc]

    def _powers(self) -> None:
        """Each warp some rows."""
        with loop32(0, -(-self.form.group // (THREADS // WARP))) as turn:
            row = bind(turn * (THREADS // WARP) + self.warp)

            def one() -> None:
                places = [bind(row * KEYS + self.lane + i * WARP) for i in range(KEYS // WARP)]
                top: Expr = number(LOWEST)
                for at in places:
                    top = most(top, load(self.scores, at))
                top = over_lanes(top, most)
                total: Expr = number(0.0)
                for at in places:
                    power = bind(exp2(load(self.scores, at) - top))
                    store(self.scores, at, power)
                    total = total + power
                total = over_lanes(total, lambda p, q: p + q)
                at = self._at(row) + i64(self.form.e)

                def tell() -> None:
                    store(self.of.arrays[PARTS].array, at, top)
                    store(self.of.arrays[PARTS].array, at + i64(1), total)

                when(same(self.lane, i32(0)), tell)

            when(row < self.form.group, one)  # the same for all of a warp

    def _weigh(self) -> None:
        form = self.form
        for first in range(0, form.e, THREADS):
            column = bind(self.b.lane + first)

            def one(column: Expr = column) -> None:
                sums = Registers(form.group, 1)
                sums.fill(number(0.0))
                with loop32(0, KEYS) as i:
                    key = bind(self.first + i)
                    source = self.of.at("v", b=self.batch, t=key, g=self.group) + i64_of(column)
                    value = bind(guarded(key < self.of.t, self.of.arrays["v"].load(source), number(0.0)))
                    for r in range(form.group):
                        sums[r] = sums[r] + value * load(self.scores, i + r * KEYS)
                for r in range(form.group):
                    store(self.of.arrays[PARTS].array, self._at(r) + i64_of(column), sums[r])

            when(column < form.e, one)


def attention_join(name: str, *, form: Form) -> Any:
    """Slots: as those of `attention_few`. A block a head: its parts, each by the share of its greatest score."""

    def write(b: Block) -> None:
        of, heads = Given(form, b, PARTS), form.heads * form.group
        counts = bind(div32(of.t + (KEYS - 1), KEYS))
        head, batch = bind(rem32(b.block, heads)), bind(div32(b.block, heads))
        parts, start = of.arrays[PARTS].array, bind(i64_of(b.block * counts) * i64(form.e + BESIDE))
        top, total = Registers(1, 1), Registers(1, 1)
        top[0] = most(sink_of(of, head), number(LOWEST)) if form.sinks else number(LOWEST)
        total[0] = number(0.0)

        def at(part: Expr) -> Expr:
            return start + i64_of(part) * i64(form.e + BESIDE)

        with loop32(0, counts) as part:
            top[0] = most(top[0], load(parts, at(part) + i64(form.e)))
        with loop32(0, counts) as part:
            share = exp2(load(parts, at(part) + i64(form.e)) - top[0])
            total[0] = total[0] + share * load(parts, at(part) + i64(form.e + 1))
        if form.sinks:
            total[0] = total[0] + exp2(sink_of(of, head) - top[0])
        inverse = bind(select(total[0] > number(0.0), number(1.0) / total[0], number(0.0)))
        for first in range(0, form.e, THREADS):
            column = bind(b.lane + first)

            def one(column: Expr = column) -> None:
                value = Registers(1, 1)
                value[0] = number(0.0)
                with loop32(0, counts) as part:
                    share = exp2(load(parts, at(part) + i64(form.e)) - top[0])
                    value[0] = value[0] + share * load(parts, at(part) + i64_of(column))
                place = of.at("y", b=batch, s=i32(0), h=head) + i64_of(column)
                of.arrays["y"].store(place, value[0] * inverse)

            when(column < form.e, one)

    return block_kernel(len(form.slots(PARTS)), write, block=THREADS)
