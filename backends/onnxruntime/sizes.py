"""Symbolic sizes as int64 tensors of the model: read once from the inputs' shapes, then plain arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...ir import dims
from ...ir.diagnostics import BuildError
from ...ir.dims import Atom, Dim, Expr
from ...ir.graph import Value

if TYPE_CHECKING:
    from .emit import Emit


class Sizes:
    """Turns dims into vectors of one int64 (`vector`), scalars, and shape vectors."""

    def __init__(self, to: Emit) -> None:
        self.to = to
        self._sources: dict[str, tuple[str, int]] = {}

    def learn(self, inputs: Sequence[Value]) -> None:
        """Notes which input's axis gives each symbol."""
        for value in inputs:
            for axis, dim in enumerate(value.type.shape):
                if isinstance(dim, Expr) and str(dim).isidentifier():
                    self._sources.setdefault(str(dim), (value.name, axis))

    def vector(self, dim: Dim) -> str:
        """A [1] int64 tensor that holds the size."""
        if isinstance(dim, int):
            return self.to.ints(dim)
        total = ""
        for mono, coeff in dim.terms:
            term = "" if coeff == 1 and mono else self.to.ints(coeff)
            for atom, power in mono:
                for _ in range(power):
                    value = self._atom(atom)
                    term = self.to("Mul", value, term) if term else value
            total = self.to("Add", total, term) if total else term
        return total

    def scalar(self, dim: Dim) -> str:
        """A rank-0 int64 tensor that holds the size."""
        from ...ir.dtypes import i64

        if isinstance(dim, int):
            return self.to.scalar(dim, i64)
        return self.to("Squeeze", self.vector(dim), self.to.ints(0))

    def shape(self, shape: Sequence[Dim]) -> str:
        """A shape as a vector of int64."""
        if all(isinstance(d, int) for d in shape):
            return self.to.ints(*shape)  # type: ignore[arg-type]
        parts: list[str] = []
        run: list[int] = []
        for dim in shape:
            if isinstance(dim, int):
                run.append(dim)
                continue
            if run:
                parts.append(self.to.ints(*run))
                run = []
            parts.append(self.vector(dim))
        if run:
            parts.append(self.to.ints(*run))
        return parts[0] if len(parts) == 1 else self.to("Concat", *parts, axis=0)

    def reshape_target(self, before: Sequence[Dim], after: Sequence[Dim]) -> tuple[str, bool]:
        """(target vector, whether a 0 in it means the size 0): constants, 0 (keep) and one -1 where they do."""
        target = [self._constant(i, d, before) for i, d in enumerate(after)]
        unknown = target.count(None)
        if unknown == 0 and 0 not in after:
            return self.to.ints(*(t or 0 for t in target)), False
        if unknown == 1 and all(self._positive(d) for d in after):
            return self.to.ints(*(-1 if t is None else t for t in target)), False
        return self.shape(after), True

    def _constant(self, axis: int, dim: Dim, before: Sequence[Dim]) -> int | None:
        if isinstance(dim, int):
            return dim
        return 0 if axis < len(before) and before[axis] == dim else None

    def _positive(self, dim: Dim) -> bool:
        low, _ = dims.bounds(dim, self.to.ranges)
        return low is not None and low >= 1

    def _atom(self, atom: Atom) -> str:
        if not atom.fn:
            if atom.name not in self._sources:
                raise BuildError(
                    f"the size {atom.name!r} cannot be read from any input's shape", where=self.to.where,
                    hint="an input must have it as one of its sizes",
                )  # fmt: skip
            name, axis = self._sources[atom.name]
            return self.to("Shape", name, start=axis, end=axis + 1)
        left, right = self.vector(atom.left), self.vector(atom.right)
        if atom.fn in ("min", "max"):
            return self.to(atom.fn.capitalize(), left, right)
        if atom.fn == "mod":
            return self.to("Mod", left, right)
        low, _ = dims.bounds(atom.left, self.to.ranges)
        if low is None or low < 0:  # Div rounds to zero, the size to the floor
            left = self.to("Sub", left, self.to("Mod", left, right))
        return self.to("Div", left, right)
