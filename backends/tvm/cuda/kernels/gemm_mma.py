"""Products with weights by tensor cores: numbers of 16 bits, sums in f32. A block computes a tile of y; tiles of x and
w come into shared memory by copies that are several steps ahead of their use."""

from __future__ import annotations

from typing import Any

from ...script import Expr, Registers, bind, both, i64, number, select, when
from ..block import WARP, Block, block_kernel, div32, i32, i64_of, loop32, pointer, rem32, sync
from ..warp import CHUNK, PAD, Words, copy_async, end_copies, load_matrices, multiply, wait_copies
from .product import Cut, Product, Result


def gemm_mma(name: str, *, form: Product, cut: Cut) -> Any:
    """Slots: x, w, y, what the epilogue reads, m. k is a multiple of CHUNK, and rows of x begin at 16 bytes."""

    def write(b: Block) -> None:
        _Gemm(form, cut, b).all()

    return block_kernel(form.slots, write, block=cut.threads, shared=cut.stages * _Stage(form, cut).size * 2)


class _Stage:
    """One step's tiles in shared memory, in numbers: rows of x, then of each panel of w."""

    def __init__(self, form: Product, cut: Cut) -> None:
        self.x_row, self.w_row = cut.deep + PAD, form.width + PAD
        self.panels, self.panel = cut.columns // form.width, cut.deep * self.w_row
        self.w_at = cut.rows * self.x_row
        self.size = self.w_at + self.panels * self.panel


class _Gemm:
    def __init__(self, form: Product, cut: Cut, b: Block) -> None:
        self.form, self.cut, self.b, self.result = form, cut, b, Result(form, b)
        self.x, self.w, self.stage = b.array(0, form.given), b.array(1, form.held), _Stage(form, cut)
        self.room = b.asked(cut.stages * self.stage.size, "uint16")
        down = bind(div32(self.result.rows + (cut.rows - 1), cut.rows))
        # Blocks that run at the same time share the columns of w.
        self.row, self.column = bind(rem32(b.block, down) * cut.rows), bind(div32(b.block, down) * cut.columns)
        self.lane, warp = bind(rem32(b.lane, WARP)), bind(div32(b.lane, WARP))
        self.down = bind(div32(warp, cut.columns // cut.warp_columns) * cut.warp_rows)
        self.right = bind(rem32(warp, cut.columns // cut.warp_columns) * cut.warp_columns)
        self.high, self.wide = cut.warp_rows // 16, cut.warp_columns // 8  # products of a warp
        self.sums = Registers(self.high * self.wide * 4, 1)

    def all(self) -> None:
        cut, steps = self.cut, -(-self.form.k // self.cut.deep)
        self.sums.fill(number(0.0))
        for stage in range(cut.stages - 1):
            self._copy(i32(stage), i32(stage * self.stage.size), steps)
        with loop32(0, steps) as step:
            wait_copies(cut.stages - 2)
            sync()
            ahead = bind(step + (cut.stages - 1))
            self._copy(ahead, bind(rem32(ahead, cut.stages) * self.stage.size), steps)
            start = bind(rem32(step, cut.stages) * self.stage.size)
            for part in range(cut.deep // 16):
                self._multiply(start, part)
        wait_copies(0)
        self._finish()

    def _copy(self, step: Expr, start: Expr, steps: int) -> None:
        """Begins the copies of a step into the memory at `start`; of one after the last, none."""
        form, cut, first = self.form, self.cut, bind(step * self.cut.deep)
        chunks = cut.deep // CHUNK
        for i in range(cut.rows * chunks // cut.threads):
            at = bind(self.b.lane + i * cut.threads)
            row, k = bind(div32(at, chunks)), bind(rem32(at, chunks) * CHUNK)
            inside = both(self.row + row < self.result.rows, first + k < form.k)
            source = i64_of(self.row + row) * i64(form.k) + i64_of(first + k)
            to = pointer(self.room, start + row * self.stage.x_row + k)
            copy_async(to, pointer(self.x, bind(select(inside, source, i64(0)))), inside)
        chunks = form.width // CHUNK
        for i in range(self.stage.panels * cut.deep * chunks // cut.threads):
            at = bind(self.b.lane + i * cut.threads)
            k, column = bind(div32(at, chunks)), bind(rem32(at, chunks) * CHUNK)
            own, k = bind(div32(k, cut.deep)), bind(rem32(k, cut.deep))
            panel = bind(div32(self.column, form.width) + own)
            inside = both(panel < form.panels, first + k < form.k)
            source = i64_of(panel * form.k + first + k) * i64(form.width) + i64_of(column)
            place = start + self.stage.w_at + own * self.stage.panel + k * self.stage.w_row + column
            copy_async(pointer(self.room, place), pointer(self.w, bind(select(inside, source, i64(0)))), inside)
        end_copies()

    def _multiply(self, start: Expr, part: int) -> None:
        """16 of a step's k."""
        form, stage = self.form, self.stage
        a, w = Words(4 * self.high), Words(2 * self.wide)
        row, half = rem32(self.lane, 16), div32(self.lane, 16)
        for i in range(self.high):
            at = start + (self.down + row + i * 16) * stage.x_row + half * CHUNK + part * 16
            load_matrices(a.at(4 * i), pointer(self.room, at))
        for j in range(self.wide // 2):
            column = bind(self.right + j * 16)
            panel, inner = div32(column, form.width), rem32(column, form.width) + half * CHUNK
            at = start + stage.w_at + panel * stage.panel + (row + part * 16) * stage.w_row + inner
            load_matrices(w.at(4 * j), pointer(self.room, at), turned=True)
        for i in range(self.high):
            for j in range(self.wide):
                at = (i * self.wide + j) * 4
                multiply(form.given, pointer(self.sums._buffer, at), a.at(4 * i), w.at(2 * j))

    def _finish(self) -> None:
        g, t = bind(div32(self.lane, 4)), bind(rem32(self.lane, 4) * 2)
        for i in range(self.high):
            for half in range(2):
                row = bind(self.row + self.down + g + (i * 16 + half * 8))

                def whole(row: Expr = row, first: int = i * self.wide * 4 + half * 2) -> None:
                    for j in range(self.wide):
                        for at in range(2):
                            column = bind(self.column + self.right + t + (j * 8 + at))
                            put = lambda column=column, at=first + j * 4 + at: self.result.put(  # noqa: E731
                                row, column, self.sums[at]
                            )  # fmt: skip
                            when(column < self.form.n, put)

                when(row < self.result.rows, whole)


