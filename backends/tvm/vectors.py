"""What is done with whole vectors: parts of them, transposes, their lanes combined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

from .script import Expr, bind, lanes_of, splat


def shuffle(vectors: Sequence[Expr], places: Sequence[int]) -> Expr:
    """The lanes at these places of the vectors laid end to end."""
    return tirx.Shuffle(list(vectors), [tirx.IntImm("int32", p) for p in places])


def fold(vector: Expr, combine: Callable[[Expr, Expr], Expr]) -> Expr:
    """One number from all lanes, halves upon each other."""
    lanes = lanes_of(vector)
    while lanes > 1:
        lanes //= 2
        low, high = (shuffle([vector], range(i * lanes, (i + 1) * lanes)) for i in (0, 1))
        vector = bind(combine(low, high))
    return vector


def transposed(rows: Sequence[Expr]) -> list[Expr]:
    """The columns of a square of numbers, given as vectors, of which there are as many as a vector has lanes.

    Each step deals the first half of the rows and the second into one another, as cards are; log2(lanes) such steps
    turn row and column around.
    """
    lanes, now = len(rows), list(rows)
    half = lanes // 2
    deals = [[i // 2 + lanes * (i % 2) + first for i in range(lanes)] for first in (0, half)]
    for _ in range(lanes.bit_length() - 1):
        now = [bind(shuffle([now[i // 2], now[i // 2 + half]], deals[i % 2])) for i in range(lanes)]
    return now


def summed(vectors: Sequence[Expr]) -> Expr:
    """A vector of the sums of as many vectors as each has lanes: neighbours' halves are added, and lie side by side."""
    lanes = len(vectors)
    now, size = list(vectors), lanes  # of the lanes that are still one vector's
    while size > 1:
        half = size // 2
        parts = [[g + i + first for g in range(0, 2 * lanes, size) for i in range(half)] for first in (0, half)]
        now = [
            bind(shuffle([a, b], parts[0]) + shuffle([a, b], parts[1]))
            for a, b in zip(now[::2], now[1::2], strict=True)
        ]  # fmt: skip
        size = half
    return now[0]


def counted(first: Expr, lanes: int) -> Expr:
    """first, first + 1, ... as i32."""
    low = tirx.Cast("int32", first)
    return low if lanes == 1 else tirx.Ramp(low, tirx.IntImm("int32", 1), lanes)


def below(first: Expr, limit: Expr, lanes: int) -> Expr:
    """Which of the numbers first, first + 1, ... are less than a limit."""
    return counted(first, lanes) < splat(tirx.Cast("int32", limit), lanes)


def load_some(array: Any, at: Expr, which: Expr, dtype: str = "float32") -> Expr:
    """Elements at `at` and after it, where `which` holds; the others are 0 and not touched."""
    lanes = lanes_of(which)
    return tirx.op.masked_load(f"{dtype}x{lanes}", array, tirx.Ramp(at, 1, lanes), which)


def store_some(array: Any, at: Expr, value: Expr, which: Expr) -> None:
    """Stores where `which` holds."""
    from .script import evaluate

    evaluate(tirx.op.masked_store(array, value, tirx.Ramp(at, 1, lanes_of(which)), which))


def exp2(x: Expr) -> Expr:
    """2^x of x <= 0, within 1.2e-7 of itself; exactly 0 from -127 down, -inf too.

    x = n + r, |r| <= 1/2: n is added to the exponent of 2^r; that by the polynomial of degree 5 of least relative error
    that is 1 at 0.
    Source: ours; the coefficients are a minimax fit.
    """
    from .vector_math import constant, polynomial

    lanes = lanes_of(x)
    x = bind(tirx.max(x, constant(-127.0, x)))
    n = bind(tirx.nearbyint(x))
    r = bind(x - n)
    y = polynomial(r, 0.0013264727629981564, 0.009671512646232235, 0.055507337417524, 0.24022242085258502,
                   0.6931469776002888, 1.0)  # fmt: skip
    kinds = [k if lanes == 1 else f"{k}x{lanes}" for k in ("int32", "float32")]
    bits = tirx.Cast(kinds[0], n) << splat(tirx.IntImm("int32", 23), lanes)
    return tirx.reinterpret(kinds[1], tirx.reinterpret(kinds[0], y) + bits)
