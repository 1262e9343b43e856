"""Products with quantised weights in whole numbers: x in bytes by group, four products and sums an instruction.

y = sum over groups of (sum of q · x_q - middle · sum of x_q) · scale_q · scale_x, and + zero · sum of x.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ....ir.ops.quads import QUAD
from ..dot import DOT, dot
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
    reinterpret,
    rem,
    select,
    shift_right,
    size,
    splat,
    store,
    when,
)  # fmt: skip
from .index import Indices
from .norm import across

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
    def steps(self) -> int:
        """Loads of each column in a group."""
        return self.group * self.bits // (8 * QUAD)


def rounded_rows(name: str, *, k: int, group: int, lanes: int) -> Any:
    """x in bytes. Slots: x [m, k], q i8 [m, k], scale and sum f32 [m, k / group], m.

    scale: the group's largest size / 127; sum: of its numbers as they are rounded, in units of 1.
    Source: the same rounding as `quantized_matmul` with x_bits = 8.
    """
    groups = k // group

    def write(b: Body) -> None:
        x, q = b.array(0), b.array(1, "int8")
        scale, total, m = b.array(2), b.array(3), b.size(4)
        low, high = b.share(m * groups)
        with loop(low, high) as i:
            at = bind(i * group)
            top = Registers(1, lanes)
            top[0] = number(0.0, lanes)
            with loop(0, group // lanes) as j:
                top[0] = most(top[0], size(load(x, at + j * lanes, lanes)))
            top_size = bind(across(top, lanes, most))
            unit = bind(top_size * number(1 / 127))
            inverse = bind(select(top_size > number(0.0), number(127.0) / top_size, number(0.0)))
            sums = Registers(1, lanes)
            sums[0] = number(0.0, lanes)
            with loop(0, group // lanes) as j:
                value = bind(nearest(load(x, at + j * lanes, lanes) * splat(inverse, lanes)))
                sums[0] = sums[0] + value
                store(q, at + j * lanes, cast("int8", value), lanes)
            store(scale, i, unit)
            store(total, i, bind(across(sums, lanes, lambda a, c: a + c)))

    return kernel(name, 5, write)


def quad_product(name: str, *, form: Form, zero: bool, bias: bool) -> Any:
    """Slots: x's bytes, scales and sums, quads, scale, zero and bias where there are such, y, m."""

    def write(b: Body) -> None:
        x, x_scale, x_sum = b.array(0, "int8"), b.array(1), b.array(2)
        quads, scale = b.array(3, "uint8"), b.array(4)
        zeros = b.array(5) if zero else None
        biases = b.array(5 + zero) if bias else None
        y, m = b.array(5 + zero + bias), b.size(6 + zero + bias)
        tile = Tile(form, x, x_scale, x_sum, quads, scale, zeros, biases, y)
        low, high = b.share(i64(form.panels))
        full, rest = bind(div(m, ROWS)), bind(rem(m, ROWS))

        def tail(panel: Expr, rows: int) -> Callable[[], None]:
            return lambda: tile.few(panel, bind(full * ROWS), rows)

        with imports(DOT), loop(low, high) as panel:
            with loop(0, full) as block:
                tile.few(panel, bind(block * ROWS), ROWS)
            for rows in range(1, ROWS):
                when(rest == rows, tail(panel, rows))

    return kernel(name, 7 + zero + bias, write)


class Tile:
    """A few rows times a panel."""

    def __init__(self, form: Form, *arrays: Any) -> None:
        self.form = form
        self.x, self.x_scale, self.x_sum, self.quads, self.scale, self.zero, self.bias, self.y = arrays

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

    def store(self, sums: Registers, panel: Expr, row: Expr, rows: int) -> None:
        """Puts the sums of so many rows where they belong."""
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
        value = total if self.bias is None else total + load(self.bias, column, lanes)
        store(self.y, row * self.form.n + column, value, lanes)


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
