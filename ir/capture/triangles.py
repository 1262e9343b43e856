"""Buffers that are a triangle of one number above another (`tril` masks), said as a comparison of positions.

So that what a model slices out of a table of 1024 x 1024 is read as causality, and costs no table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..dims import Dim
from ..dtypes import DType, from_numpy, i64
from ..graph import Value

Emit = Callable[..., Value]


@dataclass(frozen=True, slots=True)
class Triangle:
    """[1..., rows, columns]: `inside` where column <= row + edge, else `outside`; each side begins at its `start`."""

    lead: int
    rows: tuple[Dim, Dim]  # (start, length)
    columns: tuple[Dim, Dim]
    edge: int
    inside: float
    outside: float
    dtype: DType

    def cut(self, axis: int, start: Dim, length: Dim) -> Triangle:
        """A slice along one of the last two axes (-2 or -1)."""
        if axis == -2:
            return replace(self, rows=(self.rows[0] + start, length))
        return replace(self, columns=(self.columns[0] + start, length))

    def draw(self, emit: Emit) -> Value:
        """The values, computed."""
        (top, height), (left, width) = self.rows, self.columns
        ones = (1,) * self.lead
        row = emit("iota", length=height, start=top + self.edge, dtype=i64)
        column = emit("iota", length=width, start=left, dtype=i64)
        row = emit("reshape", row, shape=(*ones, height, 1))
        column = emit("reshape", column, shape=(*ones, 1, width))
        if self.dtype.kind == "bool":
            return emit("le" if self.inside else "gt", column, row)
        yes, no = (emit("constant", value=x, dtype=self.dtype) for x in (self.inside, self.outside))
        return emit("where", emit("le", column, row), yes, no)


def triangle(array: np.ndarray | None) -> Triangle | None:
    """What a table is, if every number of it is as a triangle's; None for any other, and for meta tensors."""
    if array is None or array.ndim < 2 or any(n != 1 for n in array.shape[:-2]) or min(array.shape[-2:]) < 2:
        return None
    table: Any = array.reshape(array.shape[-2:])
    inside, outside = table[-1, 0], table[0, -1]
    if inside == outside or any(x.dtype.type(float(x)) != x for x in (inside, outside)):
        return None  # one number, one that is none, or one that a float cannot hold
    edge = int((table[0] == inside).sum()) - 1
    height, width = len(table), table.shape[-1]
    for row in (height - 1, *range(height)):  # the last row first: it tells most tables apart
        seen = max(0, min(width, row + edge + 1))
        if not ((table[row, :seen] == inside).all() and (table[row, seen:] == outside).all()):
            return None
    return Triangle(
        array.ndim - 2, (0, height), (0, width), edge, float(inside), float(outside), from_numpy(array.dtype)
    )
