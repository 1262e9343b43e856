"""Norms over the last axis, a row at a time: two passes over a row that stays in the first cache."""

from __future__ import annotations

from typing import Any

from ..script import Body, Expr, Numbers, Registers, bind, kernel, lanes_of, loop, number, splat, sqrt
from ..vectors import fold

SUMS = 4  # partial sums, so that additions need not wait for one another


def norm(
    name: str, *, d: int, eps: float, lanes: int, centred: bool, biased: bool, dtype: str = "float32",
    outs: tuple[str, ...] = ("float32",),
) -> Any:  # fmt: skip
    """Slots: x, weight, bias where there is one, y in each type of `outs`, rows.

    centred: layer norm; otherwise the root mean square alone.
    """

    def write(b: Body) -> None:
        x, weight = b.numbers(0, dtype), b.numbers(1, dtype)
        bias = b.numbers(2, dtype) if biased else None
        ys = [b.numbers(2 + biased + i, out) for i, out in enumerate(outs)]
        rows = b.size(2 + biased + len(outs))
        low, high = b.share(rows)
        with loop(low, high) as row:
            at = bind(row * d)
            mean = bind(_sum(x, at, d, lanes, lambda v: v) * number(1 / d)) if centred else None
            square = _sum(x, at, d, lanes, lambda v: _centre(v, mean) * _centre(v, mean))
            scale = bind(number(1.0) / sqrt(square * number(1 / d) + number(eps)))

            def put(i: Expr, width: int) -> None:
                value = _centre(x.load(at + i, width), mean) * splat(scale, width) * weight.load(i, width)
                value = bind(value if bias is None else value + bias.load(i, width))
                for y in ys:
                    y.store(at + i, value, width)

            _each(d, lanes, put)

    return kernel(name, 3 + biased + len(outs), write)


def _centre(v: Expr, mean: Expr | None) -> Expr:
    return v if mean is None else v - splat(mean, lanes_of(v))


def _each(d: int, lanes: int, do: Any) -> None:
    """`do(place, how many)` over a row: whole vectors, then single numbers."""
    whole = d // lanes
    if whole:
        with loop(0, whole) as i:
            do(bind(i * lanes), lanes)
    if d % lanes:
        with loop(whole * lanes, d) as i:
            do(i, 1)


def _sum(x: Numbers, at: Expr, d: int, lanes: int, of: Any) -> Expr:
    """The sum of `of` of each number of a row, by SUMS partial sums of each lane."""
    partial = Registers(SUMS, lanes)
    partial.fill(number(0.0, lanes))
    whole = d // (SUMS * lanes)
    if whole:
        with loop(0, whole) as i:
            for s in range(SUMS):
                partial[s] = partial[s] + of(bind(x.load(at + (i * (SUMS * lanes) + s * lanes), lanes)))
    for v in range(whole * SUMS, d // lanes):
        partial[v % SUMS] = partial[v % SUMS] + of(bind(x.load(at + v * lanes, lanes)))
    partial[0] = (partial[0] + partial[1]) + (partial[2] + partial[3])
    rest = Registers(1, 1)
    rest[0] = number(0.0)
    if d % lanes:
        with loop(d - d % lanes, d) as i:
            rest[0] = rest[0] + of(bind(x.load(at + i)))
    return bind(rest[0] + across(partial, lanes, lambda a, b: a + b))


def across(vector: Registers, lanes: int, combine: Any) -> Expr:
    """One number from the lanes of a vector's first register."""
    return fold(vector[0], combine)
