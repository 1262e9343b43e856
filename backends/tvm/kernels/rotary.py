"""Rotary position embedding: pairs of features are turned by their position's angle."""

from __future__ import annotations

from typing import Any

from ..script import Body, Expr, bind, div, i64, kernel, least, load, loop, most, number, rem, store
from ..vectors import shuffle


def rotary(name: str, *, d: int, turned: int, interleaved: bool, lanes: int) -> Any:
    """Slots: x [b, s, h, d], cos and sin [b, s, turned], y [b, s, h, d]; b, s, h, then how far apart the elements of x,
    cos, sin and y lie along b, s and, of x and y, h. Features are contiguous; those after `turned` are copied.
    """

    def write(b: Body) -> None:
        x, cos, sin, y = (b.array(i) for i in range(4))
        batches, s, h = (b.size(4 + i) for i in range(3))
        apart = [b.size(7 + i) for i in range(10)]
        low, high = b.share(bind(batches * s * h))
        def one(source: Expr, target: Expr, angles: list[Expr]) -> None:
            def put(at: Expr, value: Expr, other: Expr, width: int) -> None:
                """value · cos + other · sin."""
                c, s_ = (load(a, start + at, width) for a, start in zip((cos, sin), angles, strict=True))
                store(y, target + at, value * c + other * s_, width)

            if interleaved:
                _neighbours(x, source, turned, lanes, put)
            else:
                _halves(x, source, turned // 2, lanes, put)
            for at, width in _parts(d - turned, lanes):
                store(y, target + turned + at, load(x, source + turned + at, width), width)

        with loop(div(low, h), div(high + (h - 1), h)) as row:
            batch, place = bind(div(row, s)), bind(rem(row, s))
            angles = [bind(batch * apart[i] + place * apart[i + 1]) for i in (3, 5)]
            sources, targets = (bind(batch * apart[i] + place * apart[i + 1]) for i in (0, 7))
            with loop(most(low - row * h, i64(0)), least(high - row * h, h)) as head:
                one(bind(sources + head * apart[2]), bind(targets + head * apart[9]), angles)

    return kernel(name, 17, write)


def _halves(x: Any, source: Expr, half: int, lanes: int, put: Any) -> None:
    for at, width in _parts(half, lanes):
        first, second = (bind(load(x, source + at + o, width)) for o in (0, half))
        put(at, first, number(0.0, width) - second, width)
        put(at + half, second, first, width)


def _neighbours(x: Any, source: Expr, turned: int, lanes: int, put: Any) -> None:
    for at, width in _parts(turned, lanes):
        value = bind(load(x, source + at, width))
        places = [i - 1 if i % 2 else width + i + 1 for i in range(width)]
        other = shuffle([value, bind(number(0.0, width) - value)], places)
        put(at, value, other, width)


def _parts(size: int, lanes: int) -> list[tuple[int, int]]:
    """(place, width) of the vectors that make up so many numbers: full ones, then ever smaller ones."""
    found, at, width = [], 0, lanes
    while at < size:
        while width > size - at:
            width //= 2
        found.append((at, width))
        at += width
    return found
