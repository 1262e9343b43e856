"""Products of few rows with weights: each weight is read once, 16 bytes at a time, and multiplied with all rows."""

from __future__ import annotations

from typing import Any

from ...script import Expr, Registers, bind, both, cast, div, i64, least, load, number, reinterpret, store, when
from ..block import WARP, Block, block_kernel, div32, from_half, from_lane, i32, i64_of, loop32, part, rem32, sync
from .product import Product, Result

FEW = ((1, 1), (2, 8))  # rows that a kernel is made for: from, to
THREADS, COLUMNS = 256, 16  # of a block
BYTES = 16  # of weights that a thread reads at once


def gemv_blocks(form: Product) -> int:
    return form.panels * (form.width // COLUMNS)


def gemv(name: str, *, form: Product, rows: int) -> Any:
    """Slots: x, w, y, what the epilogue reads, m. rows: the most that there are."""
    wide = BYTES // (4 if form.held == "float32" else 2)
    beside = COLUMNS // wide  # threads that read neighbouring columns
    warps = THREADS // WARP

    def write(b: Block) -> None:
        x, w, result = b.numbers(0, form.given), Weights(b, form), Result(form, b)
        partial = b.shared(warps * rows * COLUMNS)
        cuts = form.width // COLUMNS
        panel, cut = bind(div32(b.block, cuts)), bind(rem32(b.block, cuts))
        right, first = bind(rem32(b.lane, beside)), bind(div32(b.lane, beside))
        sums = Registers(rows * wide, 1)
        sums.fill(number(0.0))
        slices = THREADS // beside
        starts = [
            bind(i64_of(i32(0) if r == 0 else least(i32(r), result.rows - 1)) * i64(form.k)) for r in range(rows)
        ]
        with loop32(0, div32(form.k - first + (slices - 1), slices)) as turn:
            k = bind(first + turn * slices)
            place = i64_of(panel * form.k + k) * i64(form.width) + i64_of(cut * COLUMNS + right * wide)
            weights = w.some(bind(place), wide)
            for r, start in enumerate(starts):
                value = bind(x.load(start + i64_of(k)))
                for j in range(wide):
                    sums[r * wide + j] = sums[r * wide + j] + value * weights[j]
        for i in range(rows * wide):
            step = WARP // 2
            while step >= beside:
                sums[i] = sums[i] + from_lane(sums[i], step)
                step //= 2
        warp, lane = bind(div32(b.lane, WARP)), bind(rem32(b.lane, WARP))

        def keep() -> None:
            for i in range(rows * wide):
                at = (warp * rows + i // wide) * COLUMNS + lane * wide + i % wide
                store(partial, at, sums[i])

        when(lane < beside, keep)
        sync()
        row, at = bind(div32(b.lane, COLUMNS)), bind(rem32(b.lane, COLUMNS))
        column = bind(panel * form.width + cut * COLUMNS + at)

        def finish() -> None:
            total: Expr = load(partial, row * COLUMNS + at)
            for i in range(1, warps):
                total = total + load(partial, (row + i * rows) * COLUMNS + at)
            result.put(row, column, total)

        when(both(row < least(i32(rows), result.rows), column < form.n), finish)

    return block_kernel(form.slots, write, block=THREADS)


class Weights:
    """Numbers of a weight, 16 bytes of them at a time; a place is a multiple of as many."""

    def __init__(self, b: Block, form: Product) -> None:
        self._held = form.held
        self._array = b.array(1) if form.held == "float32" else b.array(1, "uint32", 2)

    def some(self, place: Expr, count: int) -> list[Expr]:
        """`count` numbers, in f32."""
        if self._held == "float32":
            whole = bind(load(self._array, place, count))
            return [bind(part(whole, i)) for i in range(count)]
        whole = bind(load(self._array, div(place, 2), count // 2))
        words = [bind(part(whole, i)) for i in range(count // 2)]
        return [bind(self._half(word, upper)) for word in words for upper in (False, True)]

    def _half(self, word: Expr, upper: bool) -> Expr:
        """One of the two numbers in a word."""
        if self._held == "bfloat16":
            bits = word & number(0xFFFF0000, 1, "uint32") if upper else word << number(16, 1, "uint32")
            return reinterpret("float32", bits)
        return from_half(cast("uint16", word >> number(16 if upper else 0, 1, "uint32")))


