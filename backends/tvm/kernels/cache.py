"""Writing new places of a cache."""

from __future__ import annotations

from typing import Any

from ..script import Body, Expr, bind, both, cast, div, i64, kernel, load, loop, rem, store, when


def cache_write(name: str, *, dtype: str, lanes: int, position: str) -> Any:
    """Slots: new [b, a, s, r], the cache [b, a, t, r], the position of each row of the batch, report, this call's
    number; b, a, s, t, r; how far apart new's elements lie along b, a and s, the cache's along b, a and t, and the
    positions. Rows r are contiguous.

    What does not fit is not written, but reported.
    """

    def write(body: Body) -> None:
        new, cache, places = body.array(0, dtype), body.array(1, dtype), body.array(2, position)
        b, a, s, t, r = (body.size(5 + i) for i in range(5))
        of_new, of_cache = ([body.size(at + i) for i in range(3)] for at in (10, 13))
        low, high = body.share(bind(b * a * s))
        with loop(low, high) as row:
            step, left = bind(rem(row, s)), bind(div(row, s))
            axes = (bind(div(left, a)), bind(rem(left, a)))
            place = bind(cast("int64", load(places, axes[0] * body.size(16))))
            source = bind(_at(of_new, *axes, step))
            target = bind(_at(of_cache, *axes, place + step))

            def copy() -> None:
                whole = bind(div(r, lanes) * lanes)
                with loop(0, div(r, lanes)) as i:
                    store(cache, target + i * lanes, load(new, source + i * lanes, lanes), lanes)
                with loop(whole, r) as i:
                    store(cache, target + i, load(new, source + i))

            def tell() -> None:
                store(body.array(3, "int64"), i64(0), body.size(4))

            when(both(place >= i64(0), place + s <= t), copy, tell)

    return kernel(name, 17, write)


def _at(strides: list[Expr], *places: Expr) -> Expr:
    total: Expr = i64(0)
    for stride, place in zip(strides, places, strict=True):
        total = total + stride * place
    return total
