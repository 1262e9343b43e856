"""Attention of many queries in 16 bits, by tensor cores: a block 64 queries of one head, each of its warps 16 of them,
over the keys 64 at a time. Scores and their powers stay in registers; the next keys and values are on their way while
some are at work.

Sources: Dao 2023, "FlashAttention-2: Faster Attention with Better Parallelism and Work Partitioning"; and as of
`attention`.
"""

from __future__ import annotations

from typing import Any

from ...script import Expr, Registers, bind, i64, least, most, number, same, select, when
from ..block import WARP, Block, block_kernel, div32, i32, i64_of, loop32, over_lanes, pointer, rem32, sync
from ..warp import CHUNK, PAD, Words, copy_async, end_copies, load_matrices, multiply, pack, wait_copies
from .attention_form import LOWEST, Form, Given, Row, exp2, sink_of

ROWS, KEYS = 64, 64
THREADS = ROWS // 16 * WARP
MOST_WIDE = 128  # of a key's and a value's numbers: sums of more do not fit into registers


def fits(form: Form) -> bool:
    """Whether rows are of a size that the kernel takes."""
    return all(n % 16 == 0 and n <= MOST_WIDE for n in (form.d, form.e))


def attention_mma(name: str, *, form: Form) -> Any:
    """Slots: `Form.slots()`. Rows of q, k and v begin at 16 bytes."""

    def write(b: Block) -> None:
        _Attention(form, b).all()

    return block_kernel(len(form.slots()), write, block=THREADS, shared=_Room(form).size * 2,
                        blocks=1)  # what it shares lets no more be there, so registers need not be saved


class _Room:
    """Shared memory, in numbers: queries, then twice keys and values."""

    def __init__(self, form: Form) -> None:
        self.d, self.e = form.d + PAD, form.e + PAD
        self.k, self.stage = ROWS * self.d, KEYS * (self.d + self.e)
        self.size = self.k + 2 * self.stage


class _Attention:
    def __init__(self, form: Form, b: Block) -> None:
        self.form, self.b, self.of, self.room_of = form, b, Given(form, b), _Room(form)
        self.room = b.asked(self.room_of.size, "uint16")
        tiles = bind(div32(self.of.s + (ROWS - 1), ROWS))
        heads = form.heads * form.group
        left = bind(div32(b.block, tiles))
        self.first = bind(rem32(b.block, tiles) * ROWS)
        self.head, self.batch = bind(rem32(left, heads)), bind(div32(left, heads))
        self.place = self.of.place(self.batch)
        self.lane, self.warp = bind(rem32(b.lane, WARP)), bind(div32(b.lane, WARP))
        self.g, self.t = bind(div32(self.lane, 4)), bind(rem32(self.lane, 4) * 2)

    def all(self) -> None:
        form = self.form
        last = bind(least(self.first + ROWS, self.of.s) - 1)
        low, _ = self.of.seen(self.place, self.first)
        _, high = self.of.seen(self.place, last)
        queries = [bind(self.first + self.warp * 16 + self.g + 8 * i) for i in range(2)]
        inside = [bind(least(q, self.of.s - 1)) for q in queries]
        self.rows = [Row(self.of, self.batch, self.head, q, self.place) for q in inside]
        self.tops, self.totals = Registers(2, 1), Registers(2, 1)
        self.sums = Registers(form.e // 8 * 4, 1)
        self.sums.fill(number(0.0))
        self._begin()
        self._copy("q", 0, self.first, self.of.s, form.d)
        begin, end = bind(div32(low, KEYS)), bind(div32(high + (KEYS - 1), KEYS))
        self._ahead(begin, end)
        with loop32(begin, end) as turn:
            self._ahead(bind(turn + 1), end)
            wait_copies(1)
            sync()
            start = bind(rem32(turn, 2) * self.room_of.stage + self.room_of.k)
            self._tile(bind(turn * KEYS), start)
            sync()
        wait_copies(0)
        self._finish(queries)

    def _begin(self) -> None:
        for i in range(2):
            if self.form.sinks:
                self.tops[i] = most(sink_of(self.of, self.head), number(LOWEST))
                self.totals[i] = select(same(self.t, i32(0)), number(1.0), number(0.0))
            else:
                self.tops[i], self.totals[i] = number(LOWEST), number(0.0)

    def _ahead(self, turn: Expr, end: Expr) -> None:
        """Begins the copies of a tile of keys and values; the group is there, if empty, beyond the last."""
        start = bind(rem32(turn, 2) * self.room_of.stage + self.room_of.k)

        def both_of() -> None:
            self._copy("k", start, bind(turn * KEYS), self.of.t, self.form.d)
            self._copy("v", start + KEYS * self.room_of.d, bind(turn * KEYS), self.of.t, self.form.e)

        when(turn < end, both_of)
        end_copies()

    def _copy(self, name: str, to: Expr | int, first: Expr, limit: Expr, size: int) -> None:
        chunks = size // CHUNK
        group = self.head if name == "q" else bind(div32(self.head, self.form.group))
        for i in range(-(-ROWS * chunks // THREADS)):
            at = bind(self.b.lane + i * THREADS)
            row, column = bind(div32(at, chunks)), bind(rem32(at, chunks) * CHUNK)
            places = {"b": self.batch, "s" if name == "q" else "t": first + row, "h" if name == "q" else "g": group}
            inside = first + row < limit
            source = bind(select(inside, self.of.at(name, **places) + i64_of(column), i64(0)))
            place = pointer(self.room, to + row * (size + PAD) + column)
            when(at < ROWS * chunks, lambda place=place, source=source, inside=inside: copy_async(  # type: ignore[misc]
                place, pointer(self.of.arrays[name].array, source), inside))  # fmt: skip

    def _tile(self, first: Expr, start: Expr) -> None:
        scores = Registers(KEYS // 8 * 4, 1)
        scores.fill(number(0.0))
        q, k = Words(4), Words(4)
        for part in range(self.form.d // 16):
            row = self.warp * 16 + rem32(self.lane, 16)
            place = row * self.room_of.d + (part * 16 + div32(self.lane, 16) * CHUNK)
            load_matrices(q.at(0), pointer(self.room, place))
            for pair in range(KEYS // 16):
                key = rem32(self.lane, 8) + div32(self.lane, 16) * 8 + pair * 16
                column = rem32(div32(self.lane, 8), 2) * CHUNK + part * 16
                load_matrices(k.at(0), pointer(self.room, start + key * self.room_of.d + column))
                for half in range(2):
                    at = (pair * 2 + half) * 4
                    multiply(self.form.given, pointer(scores._buffer, at), q.at(0), k.at(half * 2))
        self._powers(scores, first)
        self._weigh(scores, start + KEYS * self.room_of.d)

    def _powers(self, scores: Registers, first: Expr) -> None:
        """The scores become powers; what was summed before fades to the new greatest."""
        for i, row in enumerate(self.rows):
            here = [(j, at) for j in range(KEYS // 8) for at in (2 * i, 2 * i + 1)]
            for j, at in here:
                product = scores[j * 4 + at] * number(self.form.factor)
                scores[j * 4 + at] = row.score(product, bind(first + self.t + (j * 8 + at % 2)))
            top: Expr = self.tops[i]
            for j, at in here:
                top = bind(most(top, scores[j * 4 + at]))
            top = over_lanes(top, most, 4)
            fade = bind(exp2(self.tops[i] - top))
            self.tops[i] = top
            self.totals[i] = self.totals[i] * fade
            for c in range(self.form.e // 8):
                for at in (2 * i, 2 * i + 1):
                    self.sums[c * 4 + at] = self.sums[c * 4 + at] * fade
            for j, at in here:
                scores[j * 4 + at] = exp2(scores[j * 4 + at] - top)
                self.totals[i] = self.totals[i] + scores[j * 4 + at]

    def _weigh(self, powers: Registers, start: Expr) -> None:
        p, v, kind = Words(4), Words(4), self.form.given
        for part in range(KEYS // 16):
            for word in range(4):
                at = (part * 2 + word // 2) * 4 + word % 2 * 2
                p[word] = pack(kind, powers[at], powers[at + 1])
            for pair in range(self.form.e // 16):
                key = rem32(self.lane, 16) + part * 16
                column = div32(self.lane, 16) * CHUNK + pair * 16
                load_matrices(v.at(0), pointer(self.room, start + key * self.room_of.e + column), turned=True)
                for half in range(2):
                    at = (pair * 2 + half) * 4
                    multiply(kind, pointer(self.sums._buffer, at), p.at(0), v.at(half * 2))

    def _finish(self, queries: list[Expr]) -> None:
        for i, query in enumerate(queries):
            total = over_lanes(self.totals[i], lambda a, b: a + b, 4)
            share = bind(select(total > number(0.0), number(1.0) / total, number(0.0)))
            start = self.of.at("y", b=self.batch, s=query, h=self.head)

            def put(start: Expr = start, share: Expr = share, i: int = i) -> None:
                for c in range(self.form.e // 8):
                    for at in range(2):
                        value = self.sums[c * 4 + 2 * i + at] * share
                        self.of.arrays["y"].store(start + i64_of(self.t + (c * 8 + at)), value)

            when(query < self.of.s, put)


