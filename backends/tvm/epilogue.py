"""What follows each number of a product, while it is still in a register."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from .script import Expr, load, splat
from .steps import Chain, Step

COLUMN, FULL, SCALAR = "column", "full", "scalar"  # how an array lies beside the product: [n], [m, n], one number


@dataclass(frozen=True)
class Epilogue:
    """The product's number is the chain's first value; arrays: how each of its other arrays lies."""

    arrays: tuple[str, ...] = ()
    chain: Chain = Chain((), (), ())

    def biased(self) -> Epilogue:
        """The same after a bias is added, which is then the first of the arrays."""

        before = max(1, len(self.chain.dtypes)) + len(self.chain.constants)  # values that are not steps

        def moved(place: int) -> int:
            if place == 0:
                return before + 1
            return place + 1 if place < before else place + 2

        steps = [replace(s, inputs=tuple(map(moved, s.inputs))) for s in self.chain.steps]
        chain = Chain(("float32", "float32", *self.chain.dtypes[1:]), self.chain.constants,
                      (Step("add", (0, 1)), *steps))  # fmt: skip
        return Epilogue((COLUMN, *self.arrays), chain)

    def write(self, total: Expr, arrays: Sequence[Any], row: Expr, column: Expr, n: int, lanes: int) -> Expr:
        """What is stored, given the product at [row, column] and after it."""
        return self.chain.evaluate([total, *map(lambda a, how: _taken(a, how, row, column, n, lanes), arrays,
                                                self.arrays)], lanes)  # fmt: skip


def _taken(array: Any, how: str, row: Expr, column: Expr, n: int, lanes: int) -> Expr:
    if how == SCALAR:
        return splat(load(array, 0), lanes)
    return load(array, column if how == COLUMN else row * n + column, lanes)
