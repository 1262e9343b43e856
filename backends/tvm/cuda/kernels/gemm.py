"""Products with weights in f32, by multiply-adds of single threads: tiles go through shared memory, a thread's sums
stay in its registers, and the next tiles are on their way while one is at work."""

from __future__ import annotations

from typing import Any

from ...script import Expr, Registers, bind, both, i64, load, number, store, when
from ..block import Block, block_kernel, div32, guarded, i64_of, loop32, rem32, sync
from .product import Product, Result, Tile

TILE, OWN = Tile(64, 64, 16), 4  # OWN x OWN numbers are a thread's
THREADS = TILE.rows * TILE.columns // (OWN * OWN)
APART = TILE.rows + OWN  # from k to k of x's tile, which lies turned


def gemm(name: str, *, form: Product) -> Any:
    """Slots: x, w, y, what the epilogue reads, m."""

    def write(b: Block) -> None:
        _Gemm(form, b).all()

    return block_kernel(form.slots, write, block=THREADS)


class _Gemm:
    def __init__(self, form: Product, b: Block) -> None:
        self.form, self.b, self.result = form, b, Result(form, b)
        self.x, self.w = b.numbers(0, form.given), b.numbers(1, form.held)
        self.tiles = [(b.shared(TILE.deep * APART), b.shared(TILE.deep * TILE.columns)) for _ in range(2)]
        self.next = Registers(TILE.deep * (TILE.rows + TILE.columns) // THREADS, 1)
        across = -(-form.n // TILE.columns)
        self.panel = bind(rem32(b.block, across))
        self.row = bind(div32(b.block, across) * TILE.rows)
        self.down, self.right = bind(div32(b.lane, TILE.columns // OWN) * OWN), bind(rem32(b.lane, TILE.columns // OWN))
        self.sums = Registers(OWN * OWN, 1)

    def all(self) -> None:
        steps = -(-self.form.k // TILE.deep)
        self.sums.fill(number(0.0))
        self._read(0)
        self._write(0)
        sync()
        with loop32(0, (steps + 1) // 2) as pair:
            for half in range(2):
                step = bind(pair * 2 + half)
                when(step + 1 < steps, lambda step=step: self._read(step + 1))  # type: ignore[misc]
                when(step < steps, lambda half=half: self._multiply(half))  # type: ignore[misc]
                when(step + 1 < steps, lambda half=half: self._write(1 - half))  # type: ignore[misc]
                sync()
        for i in range(OWN):
            for j in range(OWN):
                row = bind(self.row + self.down + i)
                column = bind(self.panel * TILE.columns + self.right + j * (TILE.columns // OWN))
                put = lambda row=row, column=column, at=i * OWN + j: self.result.put(  # noqa: E731
                    row, column, self.sums[at]
                )  # fmt: skip
                when(both(row < self.result.rows, column < self.form.n), put)

    def _read(self, step: Expr | int) -> None:
        """The tiles of a step into registers; what is outside is 0."""
        first = step * TILE.deep
        count = TILE.deep * TILE.rows // THREADS
        for i in range(count):
            at = self.b.lane + i * THREADS
            row, k = bind(self.row + div32(at, TILE.deep)), bind(first + rem32(at, TILE.deep))
            value = self.x.load(i64_of(row) * i64(self.form.k) + i64_of(k))
            self.next[i] = guarded(both(row < self.result.rows, k < self.form.k), value, number(0.0))
        for i in range(TILE.deep * TILE.columns // THREADS):
            at = self.b.lane + i * THREADS
            k = bind(first + div32(at, TILE.columns))
            place = i64_of(self.panel * self.form.k + k) * i64(TILE.columns) + i64_of(rem32(at, TILE.columns))
            self.next[count + i] = guarded(k < self.form.k, self.w.load(place), number(0.0))

    def _write(self, half: int) -> None:
        x, w = self.tiles[half]
        count = TILE.deep * TILE.rows // THREADS
        for i in range(count):
            at = self.b.lane + i * THREADS
            store(x, rem32(at, TILE.deep) * APART + div32(at, TILE.deep), self.next[i])
        for i in range(TILE.deep * TILE.columns // THREADS):
            store(w, self.b.lane + i * THREADS, self.next[count + i])

    def _multiply(self, half: int) -> None:
        x, w = self.tiles[half]
        for k in range(TILE.deep):
            rows = [bind(load(x, self.down + (k * APART + i))) for i in range(OWN)]
            columns = [
                bind(load(w, self.right + (k * TILE.columns + j * (TILE.columns // OWN)))) for j in range(OWN)
            ]
            for i in range(OWN * OWN):
                self.sums[i] = self.sums[i] + rows[i // OWN] * columns[i % OWN]
