"""The products of `experts` with weights of few bits, in whole numbers, as in `quads`."""

from __future__ import annotations

from typing import Any

from ....ir.ops.quantize import middle
from ..dot import DOT
from ..script import Body, Expr, Registers, bind, div, i64, imports, kernel, loop, store, when
from .experts import Experts, Shape
from .quads import ROWS, Form, Tile


def expert_quads(name: str, *, shape: Shape) -> Any:
    """Slots: x's bytes, scales and sums, quads, scales, y, first slots, costs, biases in panels where there are some,
    scratch memory."""

    def write(b: Body) -> None:
        with imports(DOT):
            _Quads(shape, b).all()

    return kernel(name, 9 + shape.biased, write)


class _Tile(Tile):
    """A few rows times a panel, whose sums are put aside."""

    def __init__(self, form: Form, sums: Any, *arrays: Any) -> None:
        super().__init__(form, *arrays)
        self.sums, self.local = sums, i64(0)

    def store(self, sums: Registers, panel: Expr, row: Expr, rows: int) -> None:
        for i in range(sums.count):
            store(self.sums, self.local + i * sums.lanes, sums[i], sums.lanes)


class _Quads(Experts):
    def __init__(self, shape: Shape, b: Body) -> None:
        super().__init__(shape, b, b.array(6, "int64"), b.array(7, "int64"))
        form = Form(shape.k, shape.panels * shape.width, shape.bits, shape.group, middle(shape.bits), shape.width,
                    shape.lanes)  # fmt: skip
        self.y, self.bias = b.array(5), b.array(8) if shape.biased else None
        self.tile = _Tile(form, b.scratch(8 + shape.biased, i64(shape.scratch)), b.array(0, "int8"), b.array(1),
                          b.array(2), b.array(3, "uint8"), b.array(4), None)  # fmt: skip

    def panel(self, panel: Expr, column: Expr, slot: Expr, rows: Expr) -> None:
        s = self.shape
        tiles = bind(div(rows + (ROWS - 1), ROWS))
        with loop(0, tiles) as tile:
            begin, end = bind(div(tile * rows, tiles)), bind(div((tile + 1) * rows, tiles))
            row, count = bind(slot + begin), bind(end - begin)
            self.tile.local = bind(begin * s.width)
            self._of(count, panel, row, ROWS)
            sums = self.b.at(self.b.size(8 + s.biased) + self.b.thread * s.scratch + begin * (s.width * 4))
            self.finish(sums, self.bias, panel, column, row, count, self.y)

    def _of(self, count: Expr, panel: Expr, row: Expr, rows: int) -> None:
        """A tile of `count` rows, `rows` at most."""
        if rows == 1:
            self.tile.few(panel, row, 1)
        else:
            when(count == rows, lambda: self.tile.few(panel, row, rows), lambda: self._of(count, panel, row, rows - 1))
