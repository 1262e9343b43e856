"""Norms and softmax of rows: a warp a row, or a block a row where rows are long. What a thread holds of a row stays in
its registers, so that the row is read once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .....ir.dims import Dim
from ... import vector_math as vm
from ...script import Expr, Registers, bind, i64, least, most, number, sqrt, when
from ..block import (
    BLOCK,
    WARP,
    Block,
    block_kernel,
    div32,
    guarded,
    i64_of,
    loop32,
    over_block,
    rem32,
)  # fmt: skip
from .elementwise import per_block

HELD = 32  # numbers of a row that one thread holds at most
SOFTMAX = 256  # threads of a row of a softmax


def threads_of(d: int) -> int:
    """How many threads a row of so many numbers takes.

    >>> threads_of(384), threads_of(4096), threads_of(100000)
    (32, 256, 1024)
    """
    return WARP if d <= WARP * HELD else 256 if d <= 256 * HELD else 1024


def norm(
    name: str, *, d: int, eps: float, lanes: int, centred: bool, biased: bool, dtype: str = "float32",
    outs: tuple[str, ...] = ("float32",),
) -> Any:  # fmt: skip
    """Slots: x, weight, bias where there is one, y in each type of `outs`, rows. centred: layer norm; otherwise the
    root mean square alone."""
    threads = threads_of(d)
    block, per = max(threads, BLOCK), max(1, BLOCK // threads)

    def write(b: Block) -> None:
        x, weight = b.numbers(0, dtype), b.numbers(1, dtype)
        bias = b.numbers(2, dtype) if biased else None
        ys = [b.numbers(2 + biased + i, kind) for i, kind in enumerate(outs)]
        rows = b.whole(2 + biased + len(outs))
        rooms = [b.shared(threads // WARP) if threads > WARP else None for _ in range(2)]
        row = bind(b.block * per + div32(b.lane, threads) if per > 1 else b.block)
        lane = bind(rem32(b.lane, threads)) if per > 1 else b.lane
        base = bind(i64_of(least(row, rows - 1)) * i64(d))
        held = _Held(b, x, base, lane, d, threads)
        add: Callable[[Expr, Expr], Expr] = lambda p, q: p + q  # noqa: E731
        mean = bind(over_block(b, held.total(lambda v: v), add, threads, rooms[0]) * number(1 / d)) if centred else None

        def off(v: Expr) -> Expr:
            return v if mean is None else v - mean

        square = over_block(b, held.total(lambda v: off(v) * off(v)), add, threads, rooms[1])
        scale = bind(number(1.0) / sqrt(square * number(1 / d) + number(eps)))

        def put(at: Expr, value: Expr) -> None:
            value = off(value) * scale * weight.load(at)
            value = bind(value if bias is None else value + bias.load(at))
            for y in ys:
                y.store(base + i64_of(at), value)

        when(row < rows, lambda: held.each(put))

    return block_kernel(3 + biased + len(outs), write, block=block)


class _Held:
    """A row's numbers, each in a register of the thread that computes it; those of a very long row are read again."""

    def __init__(self, b: Block, x: Any, base: Expr, lane: Expr, d: int, threads: int) -> None:
        self._x, self._base, self._lane, self._d, self._threads = x, base, lane, d, threads
        self._count = -(-d // threads)
        self._kept = Registers(self._count, 1) if self._count <= HELD else None
        if self._kept is not None:
            for i in range(self._count):
                self._kept[i] = self._read(i)

    def _at(self, i: Expr | int) -> Expr:
        return self._lane + i * self._threads

    def _read(self, i: Expr | int) -> Expr:
        at = bind(self._at(i))
        value = self._x.load(self._base + i64_of(at))
        return value if isinstance(i, int) and (i + 1) * self._threads <= self._d else (
            guarded(at < self._d, value, number(0.0))
        )  # fmt: skip

    def total(self, of: Callable[[Expr], Expr]) -> Expr:
        """The sum of `of` of this thread's numbers."""
        total = Registers(1, 1)
        total[0] = number(0.0)

        def add(i: int | Expr, value: Expr) -> None:
            at = bind(self._at(i))
            inside = isinstance(i, int) and (i + 1) * self._threads <= self._d
            total[0] = total[0] + (of(value) if inside else guarded(at < self._d, of(value), number(0.0)))

        if self._kept is not None:
            for i in range(self._count):
                add(i, self._kept[i])
        else:
            with loop32(0, self._count) as turn:
                add(turn, bind(self._read(turn)))
        return total[0]

    def each(self, put: Callable[[Expr, Expr], None]) -> None:
        """`put(place, number)` of each of this thread's numbers."""
        if self._kept is not None:
            for i in range(self._count):
                at, value = bind(self._at(i)), self._kept[i]
                when(at < self._d, lambda at=at, value=value: put(at, value))  # type: ignore[misc]
        else:
            with loop32(0, self._count) as turn:
                at = bind(self._at(turn))
                when(at < self._d, lambda: put(at, self._x.load(self._base + i64_of(at))))


def norm_grid(static: Mapping[str, Any], sizes: Sequence[Dim]) -> Dim:
    return per_block(sizes[0], max(1, BLOCK // threads_of(static["d"])))


def softmax(name: str, *, dtype: str, lanes: int) -> Any:
    """Slots: x, y, rows, n. A block a row."""

    def write(b: Block) -> None:
        x, y = b.numbers(0, dtype), b.numbers(1, dtype)
        n = b.whole(3)
        rooms = [b.shared(SOFTMAX // WARP, x.wide) for _ in range(2)]
        base = bind(i64_of(b.block) * b.size(3))
        turns = bind(div32(n + (SOFTMAX - 1), SOFTMAX))
        one = Registers(1, 1, x.wide)

        def each(do: Callable[[Expr], None]) -> None:
            with loop32(0, turns) as turn:
                at = bind(turn * SOFTMAX + b.lane)
                when(at < n, lambda: do(bind(base + i64_of(at))))

        def greatest(at: Expr) -> None:
            one[0] = most(one[0], x.load(at))

        one[0] = number(float("-inf"), 1, x.wide)
        each(greatest)
        top = over_block(b, one[0], most, SOFTMAX, rooms[0])
        one[0] = number(0.0, 1, x.wide)

        def power(at: Expr) -> None:
            one[0] = one[0] + vm.exp(x.load(at) - top)

        each(power)
        total = over_block(b, one[0], lambda p, q: p + q, SOFTMAX, rooms[1])
        scale = bind(number(1.0, 1, x.wide) / total)
        each(lambda at: y.store(at, vm.exp(x.load(at) - top) * scale))

    return block_kernel(4, write, block=SOFTMAX)


def softmax_grid(static: Mapping[str, Any], sizes: Sequence[Dim]) -> Dim:
    return sizes[0]


