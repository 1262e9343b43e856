"""Products of two activations, batched, however they lie: a [m, k] · b [k, n] for each place of the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .....ir import dims
from .....ir.dims import Dim
from ...kernels.matmul import Tile
from ...script import Expr, Registers, bind, both, i64, load, number, store, when
from ..block import Block, block_kernel, div32, guarded, i64_of, loop32, rem32, sync
from .elementwise import per_block

SIDE, DEEP, OWN = 64, 16, 4  # of a block's tile, of a step in k, and of a thread's own part of the tile
THREADS = (SIDE // OWN) ** 2


def matmul(name: str, *, tile: Tile, rank: int, contiguous: bool) -> Any:
    """Slots: a, b, y, then m, k, n, a's distances between rows and columns, b's, then for each axis of the batch its
    size, and a's and b's distances along it. y is dense. A block a tile of SIDE x SIDE, through shared memory."""

    def write(b: Block) -> None:
        x, w, y = (b.numbers(i, tile.dtype) for i in range(3))
        m, k, n = (b.whole(3 + i) for i in range(3))
        a_row, a_column, b_row, b_column = (b.size(6 + i) for i in range(4))
        held = [b.shared(DEEP * (SIDE + OWN), tile.dtype) for _ in range(2)]
        across = bind(div32(n + (SIDE - 1), SIDE))
        down = bind(div32(m + (SIDE - 1), SIDE))
        column = bind(rem32(b.block, across) * SIDE)
        left = bind(div32(b.block, across))
        row, place = bind(rem32(left, down) * SIDE), bind(div32(left, down))
        a_at, b_at = _places(b, place, rank)
        sums = Registers(OWN * OWN, 1, tile.dtype)
        sums.fill(number(0, 1, tile.dtype))
        mine = bind(div32(b.lane, SIDE // OWN) * OWN), bind(rem32(b.lane, SIDE // OWN) * OWN)
        zero = number(0, 1, tile.dtype)
        with loop32(0, div32(k + (DEEP - 1), DEEP)) as step:
            first = bind(step * DEEP)
            for i in range(SIDE * DEEP // THREADS):
                at = bind(b.lane + i * THREADS)
                r, c = bind(div32(at, DEEP)), bind(rem32(at, DEEP))
                from_a = a_at + i64_of(row + r) * a_row + i64_of(first + c) * a_column
                value = guarded(both(row + r < m, first + c < k), x.load(from_a), zero)
                store(held[0], c * (SIDE + OWN) + r, value)
                r, c = bind(div32(at, SIDE)), bind(rem32(at, SIDE))
                from_b = b_at + i64_of(first + r) * b_row + i64_of(column + c) * b_column
                value = guarded(both(first + r < k, column + c < n), w.load(from_b), zero)
                store(held[1], r * (SIDE + OWN) + c, value)
            sync()
            with loop32(0, DEEP) as deep:
                rows = [bind(load(held[0], deep * (SIDE + OWN) + mine[0] + i)) for i in range(OWN)]
                columns = [bind(load(held[1], deep * (SIDE + OWN) + mine[1] + i)) for i in range(OWN)]
                for i in range(OWN * OWN):
                    sums[i] = sums[i] + rows[i // OWN] * columns[i % OWN]
            sync()
        for i in range(OWN * OWN):
            r, c = bind(row + mine[0] + i // OWN), bind(column + mine[1] + i % OWN)
            at = (i64_of(place) * b.size(3) + i64_of(r)) * b.size(5) + i64_of(c)
            when(both(r < m, c < n), lambda at=at, i=i: y.store(at, sums[i]))  # type: ignore[misc]

    return block_kernel(10 + 3 * rank, write, block=THREADS)


def _places(b: Block, place: Expr, rank: int) -> tuple[Expr, Expr]:
    """Where a and b of one place of the batch begin."""
    a_at, b_at, left = i64(0), i64(0), place
    for axis in reversed(range(rank)):
        size = b.whole(10 + 3 * axis)
        index = i64_of(rem32(left, size))
        left = bind(div32(left, size))
        a_at, b_at = a_at + index * b.size(11 + 3 * axis), b_at + index * b.size(12 + 3 * axis)
    return bind(a_at), bind(b_at)


def matmul_grid(static: Mapping[str, Any], sizes: Sequence[Dim]) -> Dim:
    m, _, n = sizes[:3]
    return dims.product(sizes[7::3]) * per_block(m, SIDE) * per_block(n, SIDE)
