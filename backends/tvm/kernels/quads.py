"""Products with quantised weights in whole numbers: x in bytes by group, four products and sums an instruction.

y = sum over groups of (sum of q · x_q - middle · sum of x_q) · scale_q · scale_x, and + zero · sum of x.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ....ir.ops.quads import QUAD
from ..dot import DOT, dot
from ..epilogue import Epilogue
from ..script import (
    Body,
    Expr,
    Registers,
    bind,
    cast,
    div,
    i64,
    imports,
    kernel,
    load,
    loop,
    most,
    nearest,
    number,
    prefetch,
    reinterpret,
    rem,
    select,
    shift_right,
    size,
    splat,
    store,
    when,
)  # fmt: skip
from ..vectors import fold
from .index import Indices

AHEAD = 8 << 10  # bytes before numbers are used, they are asked for
FEW = 8  # rows of x that each thread rounds for itself
ROWS = 4  # of a tile, with two vectors of sums each, in whole numbers and in f32


@dataclass(frozen=True)
class Form:
    """One quantised matrix, and how it is cut. lanes: 32-bit numbers in a vector."""

    k: int
    n: int
    bits: int
    group: int
    middle: int  # what stands for 0; 0 where a zero is added
    width: int
    lanes: int

    @property
    def panels(self) -> int:
        return -(-self.n // self.width)

    @property
    def groups(self) -> int:
        return self.k // self.group

    @property
    def scratch(self) -> int:
        """Bytes that a thread needs for a few rows of x as bytes, with a scale and a sum of each group."""
        return FEW * (self.k + 8 * self.groups)

    @property
    def steps(self) -> int:
        """Loads of each column in a group."""
        return self.group * self.bits // (8 * QUAD)


def rounded_rows(name: str, *, k: int, group: int, lanes: int) -> Any:
    """x in bytes. Slots: x [m, k], q i8 [m, k], scale and sum f32 [m, k / group], m.

    scale: the group's largest size / 127; sum: of its numbers as they are rounded, in units of 1.
    Source: the same rounding as `quantized_matmul` with x_bits = 8.
    """

    def write(b: Body) -> None:
        low, high = b.share(b.size(4) * (k // group))
        _round(b.array(0), (b.array(1, "int8"), b.array(2), b.array(3)), low, high, group, lanes)

    return kernel(name, 5, write)


def _round(x: Any, into: tuple[Any, Any, Any], low: Expr, high: Expr, group: int, lanes: int) -> None:
    """Groups low..high - 1 of x. into: bytes, scales, sums."""
    q, scale, total = into
    with loop(low, high) as i:
        at = bind(i * group)
        values = [bind(load(x, at + j * lanes, lanes)) for j in range(group // lanes)]
        top = bind(size(values[0]))
        for value in values[1:]:
            top = bind(most(top, size(value)))
        top = fold(top, most)
        unit = bind(top * number(1 / 127))
        inverse = bind(select(top > number(0.0), number(127.0) / top, number(0.0)))
        sums = number(0.0, lanes)
        for j, value in enumerate(values):
            whole = bind(nearest(value * splat(inverse, lanes)))
            sums = bind(sums + whole)
            store(q, at + j * lanes, cast("int8", whole), lanes)
        store(scale, i, unit)
        store(total, i, fold(sums, lambda a, c: a + c))


def quad_product(name: str, *, form: Form, zero: bool, epilogue: Epilogue, out: str = "float32") -> Any:
    """Slots: x, its bytes, scales and sums, quads, scale, zero where there is one, y of type `out`, the epilogue's
    arrays, scratch memory, m.

    Of a few rows every thread rounds x for itself: to do that once for all is a stage, whose end all would wait for.
    """
    others = len(epilogue.arrays)
    last = 7 + zero + others

    def write(b: Body) -> None:
        quads, scale = b.array(4, "uint8"), b.array(5)
        zeros = b.array(6) if zero else None
        y, more = b.numbers(6 + zero, out), [b.array(7 + zero + i) for i in range(others)]
        m = b.size(last + 1)
        few, own = bind(m <= FEW), bind(b.size(last) + b.thread * form.scratch)
        starts = (0, FEW * form.k, FEW * (form.k + 4 * form.groups))
        rounded = (
            b.at(bind(select(few, own + starts[0], b.size(1))), "int8"),
            *(b.at(bind(select(few, own + starts[i], b.size(1 + i)))) for i in (1, 2)),
        )  # fmt: skip
        when(few, lambda: _round(b.array(0), rounded, i64(0), bind(m * form.groups), form.group, form.lanes))
        tile = _Product(form, epilogue, y, more, *rounded, quads, scale, zeros)
        low, high = b.share(i64(form.panels))
        full, rest = bind(div(m, ROWS)), bind(rem(m, ROWS))

        def tail(panel: Expr, rows: int) -> Callable[[], None]:
            return lambda: tile.few(panel, bind(full * ROWS), rows)

        with imports(DOT), loop(low, high) as panel:
            with loop(0, full) as block:
                tile.few(panel, bind(block * ROWS), ROWS)
            for rows in range(1, ROWS):
                when(rest == rows, tail(panel, rows))

    return kernel(name, last + 2, write)


class Tile(ABC):
    """A few rows times a panel."""

    def __init__(self, form: Form, *arrays: Any) -> None:
        self.form = form
        self.x, self.x_scale, self.x_sum, self.quads, self.scale, self.zero = arrays

    def few(self, panel: Expr, row: Expr, rows: int) -> None:
        f = self.form
        vectors = f.width // f.lanes
        sums = Registers(rows * vectors, f.lanes)
        sums.fill(number(0.0, f.lanes))
        base = bind(panel * (f.groups * f.steps * f.width * QUAD))
        with loop(0, f.groups) as group:
            whole = Registers(rows * vectors, f.lanes, "int32")
            whole.fill(number(0, f.lanes, "int32"))
            with loop(0, f.steps) as step:
                at = bind(base + (group * f.steps + step) * (f.width * QUAD))
                self._step(whole, at, row, group, step, rows)
            self._group(sums, whole, panel, row, group, rows)
        self.store(sums, panel, row, rows)

    def _step(self, whole: Registers, at: Expr, row: Expr, group: Expr, step: Expr, rows: int) -> None:
        f = self.form
        vectors, deep = f.width // f.lanes, 32 // f.bits
        columns: list[list[Expr]] = []
        for v in range(vectors):
            prefetch(self.quads, at + (v * f.lanes * QUAD + AHEAD))
            raw = load(self.quads, at + v * f.lanes * QUAD, f.lanes * QUAD)
            words = bind(reinterpret(f"int32x{f.lanes}", raw))
            if f.bits == 8:
                columns.append([words])
            else:
                half = number(0x0F0F0F0F, f.lanes, "int32")
                columns.append([bind(words & half), bind(shift_right(words, 4) & half)])
        for r in range(rows):
            place = bind((row + r) * f.k + group * f.group + step * deep)
            for half in range(len(columns[0])):
                four = reinterpret("int32", load(self.x, place + half * QUAD, QUAD))
                x = bind(splat(four, f.lanes))
                for v in range(vectors):
                    whole[r * vectors + v] = dot(whole[r * vectors + v], columns[v][half], x)

    def _group(self, sums: Registers, whole: Registers, panel: Expr, row: Expr, group: Expr, rows: int) -> None:
        f = self.form
        vectors = f.width // f.lanes
        beside = bind((panel * f.groups + group) * f.width)
        scales = [bind(load(self.scale, beside + v * f.lanes, f.lanes)) for v in range(vectors)]
        for r in range(rows):
            at = bind((row + r) * f.groups + group)
            unit, total = bind(load(self.x_scale, at)), bind(load(self.x_sum, at))
            for v in range(vectors):
                i = r * vectors + v
                exact = cast("float32", whole[i])
                if f.middle:
                    exact = exact - splat(total * number(float(f.middle)), f.lanes)
                value = exact * splat(unit, f.lanes) * scales[v]
                if self.zero is not None:
                    value = value + load(self.zero, beside + v * f.lanes, f.lanes) * splat(unit * total, f.lanes)
                sums[i] = sums[i] + value

    @abstractmethod
    def store(self, sums: Registers, panel: Expr, row: Expr, rows: int) -> None:
        """Puts the sums of so many rows where they belong."""


class _Product(Tile):
    """A few rows times a panel, and what follows each number."""

    def __init__(self, form: Form, epilogue: Epilogue, y: Any, more: list[Any], *arrays: Any) -> None:
        super().__init__(form, *arrays)
        self.epilogue, self.y, self.more = epilogue, y, more

    def store(self, sums: Registers, panel: Expr, row: Expr, rows: int) -> None:
        f = self.form

        def put(width: int) -> None:
            vectors, whole = f.width // f.lanes, width // f.lanes
            for r in range(rows):
                for v in range(whole):
                    self._put(sums[r * vectors + v], row + r, panel * f.width + v * f.lanes, f.lanes)
                for lane in range(width % f.lanes):
                    one = sums.lane(r * vectors + whole, lane)
                    self._put(one, row + r, panel * f.width + (whole * f.lanes + lane), 1)

        if f.n % f.width == 0:
            put(f.width)
        else:
            when(panel < f.panels - 1, lambda: put(f.width), lambda: put(f.n % f.width))

    def _put(self, total: Expr, row: Expr, column: Expr, lanes: int) -> None:
        column = bind(column)
        value = self.epilogue.write(bind(total), self.more, row, column, self.form.n, lanes)
        self.y.store(row * self.form.n + column, value, lanes)


def quad_rows(name: str, *, form: Form, zero: bool) -> Any:
    """Columns of a matrix by their index, dequantised. Slots: quads, ids i64, scale, zero where there is one, y,
    report, this call's number, m."""

    def write(b: Body) -> None:
        quads, scale = b.array(0, "uint8"), b.array(2)
        zeros = b.array(3) if zero else None
        y, m = b.array(3 + zero), b.size(6 + zero)
        index = Indices(b.array(1, "int64"), i64(form.n), b.array(4 + zero, "int64"), b.size(5 + zero))
        low, high = b.share(m)
        deep = 32 // form.bits
        with loop(low, high) as row:
            one = index(row)
            panel, column = bind(div(one, form.width)), bind(rem(one, form.width))
            with loop(0, form.groups) as group:
                beside = bind((panel * form.groups + group) * form.width + column)
                unit = bind(load(scale, beside))
                rest = number(0.0) if zeros is None else bind(load(zeros, beside))
                with loop(0, form.steps) as step:
                    deepest = bind((panel * form.groups + group) * form.steps + step)
                    at = bind((deepest * form.width + column) * QUAD)
                    into = bind(row * form.k + group * form.group + step * deep)
                    for z in range(QUAD):
                        byte = bind(cast("int32", load(quads, at + z)))
                        halves = [byte] if form.bits == 8 else [byte & 15, shift_right(byte, 4)]
                        for h, whole in enumerate(halves):
                            value = cast("float32", whole - number(form.middle, 1, "int32"))
                            store(y, into + (h * QUAD + z), value * unit + rest)

    return kernel(name, 7 + zero, write)
