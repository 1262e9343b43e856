"""What kernels of products with weights share: the form of a product, and what is done with each of its numbers.

A weight lies in panels [ceil(n / width), k, width]; the columns that the last one lacks are 0 there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...epilogue import COLUMN, SCALAR, Epilogue
from ...script import Expr, bind, i64
from ..block import Block, i64_of

FIRST = 3  # the slot of the first array that an epilogue reads


@dataclass(frozen=True)
class Tile:
    """rows x columns of y that a block computes, in steps of `deep` in k."""

    rows: int
    columns: int
    deep: int


@dataclass(frozen=True)
class Cut:
    """rows x columns of y that a block of `threads` computes by tensor cores, in steps of `deep` in k; a warp's part of
    that, and how many steps' tiles are in shared memory."""

    rows: int
    columns: int
    deep: int
    warp_rows: int
    warp_columns: int
    stages: int

    @property
    def threads(self) -> int:
        return self.rows // self.warp_rows * (self.columns // self.warp_columns) * 32


@dataclass(frozen=True)
class Product:
    """x [m, k] · w [k, n]. held, given, made: TVM's names of the types of w, x and y; others: of what the epilogue
    reads."""

    k: int
    n: int
    width: int
    given: str
    held: str
    made: str
    others: tuple[str, ...]
    epilogue: Epilogue

    @property
    def tile(self) -> Tile:
        from .gemm import TILE

        return TILE

    @property
    def panels(self) -> int:
        return -(-self.n // self.width)

    @property
    def slots(self) -> int:
        """x, w, y, the epilogue's arrays, m."""
        return FIRST + len(self.others) + 1


class Result:
    """Writes numbers of the product, each after its epilogue."""

    def __init__(self, form: Product, b: Block) -> None:
        self.form, self.y = form, b.numbers(2, form.made)
        self._others = [b.numbers(FIRST + i, d) for i, d in enumerate(form.others)]
        self.rows = b.whole(form.slots - 1)

    def put(self, row: Expr, column: Expr, total: Expr) -> None:
        """One number; its place is inside."""
        at = bind(i64_of(row) * i64(self.form.n) + i64_of(column))
        epilogue = self.form.epilogue
        taken = [self._taken(a, how, column, at) for a, how in zip(self._others, epilogue.arrays, strict=True)]
        self.y.store(at, epilogue.chain.evaluate([bind(total), *taken], 1))

    @staticmethod
    def _taken(array: Any, how: str, column: Expr, at: Expr) -> Expr:
        return array.load(i64(0) if how == SCALAR else i64_of(column) if how == COLUMN else at)
