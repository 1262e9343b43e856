"""Element-wise kernels over any axes, with the slots of `kernels.elementwise`: neighbouring threads, neighbouring
elements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .....ir import dims
from .....ir.dims import Dim
from ...kernels.elementwise import CONTIGUOUS, REPEATED
from ...script import Expr, bind, i64, when
from ...steps import Chain
from ..block import BLOCK, Block, block_kernel, div32, i64_of, rem32
from ..table import EACH


def elementwise(name: str, *, chain: Chain, out: str, rank: int, last: tuple[int, ...], lanes: int) -> Any:
    """Slots: the arrays, y, the sizes of `rank` axes, then for each array and y a stride per axis."""
    arrays = len(chain.dtypes)
    at = arrays + 1 + rank

    def write(b: Block) -> None:
        given = [b.numbers(i, d) for i, d in enumerate(chain.dtypes)]
        y = b.numbers(arrays, out)
        sizes = [b.whole(arrays + 1 + i) for i in range(rank)]
        strides = [[b.size(at + i * rank + axis) for axis in range(rank)] for i in range(arrays + 1)]
        count = sizes[0]
        for size in sizes[1:]:
            count = count * size
        count = bind(count)
        first = bind(b.block * (BLOCK * EACH) + b.lane)
        for i in range(EACH):
            place = bind(first + i * BLOCK)

            def put(place: Expr = place) -> None:
                starts = _starts(place, sizes, strides, last)
                values = [array.load(start) for array, start in zip(given, starts[:-1], strict=True)]
                y.store(starts[-1], chain.evaluate(values, 1))

            when(place < count, put)

    return block_kernel(at + rank * (arrays + 1), write)


def _starts(
    place: Expr, sizes: Sequence[Expr], strides: Sequence[Sequence[Expr]], last: Sequence[int]
) -> list[Expr]:  # fmt: skip
    """Where the element of that number lies in each array."""
    places: list[Expr] = []
    left = place
    for size in reversed(sizes[1:]):
        places.append(bind(rem32(left, size)))
        left = bind(div32(left, size))
    places.append(left)
    places.reverse()
    found = []
    for steps, how in zip(strides, last, strict=True):
        total: Expr = i64(0)
        for here, step in zip(places[:-1], steps[:-1], strict=True):
            total = total + i64_of(here) * step
        if how != REPEATED:
            total = total + (i64_of(places[-1]) if how == CONTIGUOUS else i64_of(places[-1]) * steps[-1])
        found.append(bind(total))
    return found


def elementwise_grid(static: Mapping[str, Any], sizes: Sequence[Dim]) -> Dim:
    return per_block(dims.product(sizes[: static["rank"]]), BLOCK * EACH)


def per_block(count: Dim, each: int) -> Dim:
    """How many blocks it takes."""
    return dims.floordiv(count + (each - 1), each)


