"""Kernels that move rows: rotary turning, writing into caches, looking up in panels. A thread an element."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .....ir import dims
from .....ir.dims import Dim
from ...kernels.index import Indices
from ...script import Expr, bind, both, cast, differ, i64, load, number, select, store, when
from ..block import BLOCK, Block, block_kernel, div32, i32, i64_of, rem32
from .elementwise import per_block


def _dot(places: Sequence[Expr], strides: Sequence[Expr]) -> Expr:
    total: Expr = i64(0)
    for place, stride in zip(places, strides, strict=True):
        total = total + i64_of(place) * stride
    return bind(total)


def rotary(name: str, *, d: int, turned: int, interleaved: bool, lanes: int, dtype: str = "float32") -> Any:
    """Slots: as those of `kernels.rotary.rotary`."""

    def write(b: Block) -> None:
        x, cos, sin, y = (b.numbers(i, dtype) for i in range(4))
        batches, s, h = (b.whole(4 + i) for i in range(3))
        apart = [b.size(7 + i) for i in range(10)]
        place = bind(b.block * BLOCK + b.lane)

        def one() -> None:
            f, left = bind(rem32(place, d)), bind(div32(place, d))
            head, left = bind(rem32(left, h)), bind(div32(left, h))
            at, batch = bind(rem32(left, s)), bind(div32(left, s))
            source = _dot((batch, at, head), apart[:3])
            target = _dot((batch, at, head), apart[7:])
            value = bind(x.load(source + i64_of(f)))

            def turn() -> None:
                c = cos.load(_dot((batch, at), apart[3:5]) + i64_of(f))
                w = sin.load(_dot((batch, at), apart[5:7]) + i64_of(f))
                if interleaved:
                    first = bind(1 - rem32(f, 2))
                    other = f + first * 2 - 1
                else:
                    first = bind(cast("int32", f < i32(turned // 2)))
                    other = f + (first * 2 - 1) * (turned // 2)
                beside = bind(x.load(source + i64_of(other)))
                sign = select(differ(first, i32(0)), number(0.0) - beside, beside)
                y.store(target + i64_of(f), value * c + sign * w)

            if turned == d:
                turn()
            else:
                when(f < i32(turned), turn, lambda: y.store(target + i64_of(f), value))

        when(place < batches * s * h * d, one)

    return block_kernel(17, write)


def rotary_grid(static: Mapping[str, Any], sizes: Sequence[Dim]) -> Dim:
    return per_block(dims.product(sizes[:3]) * static["d"], BLOCK)


def cache_write(name: str, *, dtype: str, lanes: int, position: str) -> Any:
    """Slots: as those of `kernels.cache.cache_write`. What does not fit is not written, but reported."""

    def write(body: Block) -> None:
        new, cache, places = body.array(0, dtype), body.array(1, dtype), body.array(2, position)
        b, a, s, t, r = (body.whole(5 + i) for i in range(5))
        of_new, of_cache = ([body.size(at + i) for i in range(3)] for at in (10, 13))
        place = bind(body.block * BLOCK + body.lane)

        def one() -> None:
            f, left = bind(rem32(place, r)), bind(div32(place, r))
            step, left = bind(rem32(left, s)), bind(div32(left, s))
            middle, batch = bind(rem32(left, a)), bind(div32(left, a))
            at = bind(cast("int64", load(places, i64_of(batch) * body.size(16))))
            source = bind(_dot((batch, middle, step), of_new) + i64_of(f))
            target = bind(_dot((batch, middle), of_cache[:2]) + (at + i64_of(step)) * of_cache[2] + i64_of(f))
            fits = both(at >= i64(0), at + i64_of(s) <= i64_of(t))
            report = body.array(3, "int64")
            when(fits, lambda: store(cache, target, load(new, source)), lambda: store(report, i64(0), body.size(4)))

        when(place < b * a * s * r, one)

    return block_kernel(17, write)


def cache_write_grid(static: Mapping[str, Any], sizes: Sequence[Dim]) -> Dim:
    return per_block(dims.product((*sizes[:3], sizes[4])), BLOCK)


def gather(name: str, *, dtype: str, ids: str, single: bool, lanes: int) -> Any:
    """Slots: as those of `kernels.index.gather`."""

    def write(b: Block) -> None:
        x, y = b.array(0, dtype), b.array(2, dtype)
        outer, n, count, inner = (b.whole(5 + i) for i in range(4))
        index = Indices(b.array(1, ids), b.size(6), b.array(3, "int64"), b.size(4))
        place = bind(b.block * BLOCK + b.lane)

        def one() -> None:
            f, left = (i32(0), place) if single else (bind(rem32(place, inner)), bind(div32(place, inner)))
            at = index(i64_of(rem32(left, count)))
            row = i64_of(div32(left, count)) * b.size(6) + at
            store(y, i64_of(place), load(x, row * b.size(8) + i64_of(f)))

        when(place < outer * count * inner, one)

    return block_kernel(9, write)


def gather_grid(static: Mapping[str, Any], sizes: Sequence[Dim]) -> Dim:
    outer, _, count, inner = sizes
    return per_block(outer * count * inner, BLOCK)


def panel_gather(name: str, *, dtype: str, ids: str, width: int, depth: int = 1) -> Any:
    """Slots: as those of `kernels.index.panel_gather`."""

    def write(b: Block) -> None:
        x, y = b.array(0, dtype, depth), b.array(2, dtype, depth)
        count, k = b.whole(6), b.whole(7)
        index = Indices(b.array(1, ids), b.size(5), b.array(3, "int64"), b.size(4))
        place = bind(b.block * BLOCK + b.lane)

        def one() -> None:
            f, item = bind(rem32(place, k)), bind(div32(place, k))
            at = bind(index(i64_of(item)))
            panel = bind(cast("int32", at))
            source = i64_of(div32(panel, width) * k + f) * i64(width) + i64_of(rem32(panel, width))
            store(y, i64_of(place), load(x, source))

        when(place < count * k, one)

    return block_kernel(8, write)


def panel_gather_grid(static: Mapping[str, Any], sizes: Sequence[Dim]) -> Dim:
    return per_block(sizes[1] * sizes[2], BLOCK)
