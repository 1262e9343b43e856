"""torch's symbolic sizes as dims of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .. import dims
from ..diagnostics import CaptureError
from ..dims import Dim, Ranges


class Sizes:
    """Translates sizes; `names` maps torch's symbol (`s43`) to the user's (`batch`), or to a sum (`past+seq`).

    ranges: what the sizes may be; a `min` or `max` that they decide is none.
    """

    def __init__(self, names: Mapping[str, str], ranges: Ranges) -> None:
        self.ranges = ranges
        self._known: dict[str, Dim] = {theirs: _parsed(ours) for theirs, ours in names.items()}

    def name(self, theirs: str) -> str | None:
        """The user's name of one of torch's symbols; None where it stands for no size of an input."""
        known = self._known.get(theirs)
        return str(known) if known is not None and len(dims.symbols(known)) == 1 and str(known) in self.ranges else None

    def knows(self, size: Any) -> bool:
        """Whether each of torch's symbols in it is known."""
        return isinstance(size, int) or all(str(s) in self._known for s in size.node.expr.free_symbols)

    def learn(self, size: Any, dim: Dim) -> None:
        """Says what a symbol is that torch invented for want of knowing better."""
        if not self.knows(size) and size.node.expr.is_Symbol:
            self._known[str(size.node.expr)] = dim

    def dim(self, size: Any) -> Dim:
        """An int, SymInt or sympy expression as a Dim. Raises: CaptureError on a size torch made from data."""
        if isinstance(size, int):
            return int(size)
        return self._walk(size.node.expr if hasattr(size, "node") else size)

    def _walk(self, expr: Any) -> Dim:
        if expr.is_Integer:
            return int(expr)
        if expr.is_Symbol:
            name = str(expr)
            if name not in self._known:
                raise CaptureError(
                    f"the size {name} depends on the values of a tensor",
                    hint="rewrite the model so that shapes depend on input shapes only",
                )
            return self._known[name]
        args = expr.args
        if expr.is_Add:
            return sum((self._walk(a) for a in args), start=0)
        if expr.is_Mul:
            return dims.product(self._walk(a) for a in args)
        if expr.is_Pow and args[1].is_Integer and int(args[1]) > 0:
            return dims.product([self._walk(args[0])] * int(args[1]))
        rounded = self._rounded(expr)
        if rounded is not None:
            return rounded
        function = _FUNCTIONS.get(type(expr).__name__)
        if function is None:
            raise CaptureError(f"the size {expr} cannot be written with + * // % min max")
        value = self._walk(args[0])
        for a in args[1:]:
            value = self._decided(type(expr).__name__, function, value, self._walk(a))
        return value

    def _rounded(self, expr: Any) -> Dim | None:
        """A quotient of whole numbers that went through floats, as in the length of `arange(n, 0, -1.0)`."""
        inner = expr.args[0] if type(expr).__name__ in ("CeilToInt", "FloorToInt") else None
        if inner is None or type(inner).__name__ != "FloatTrueDiv":
            return None
        left, right = (a.args[0] if type(a).__name__ == "ToFloat" else a for a in inner.args)
        if not right.is_number or not float(right).is_integer() or not float(right):
            return None
        above, by = (self._walk(left), int(right)) if right > 0 else (0 - self._walk(left), -int(right))
        return dims.floordiv(above, by) if type(expr).__name__ == "FloorToInt" else 0 - dims.floordiv(0 - above, by)

    def largest(self, left: Dim, right: Dim) -> Dim:
        """The larger of two sizes, which the ranges may tell."""
        return self._decided("Max", dims.maximum, left, right)

    def _decided(self, name: str, function: Callable[[Dim, Dim], Dim], left: Dim, right: Dim) -> Dim:
        if name in ("Min", "Max"):
            if dims.at_most(left, right, self.ranges):
                return left if name == "Min" else right
            if dims.at_most(right, left, self.ranges):
                return right if name == "Min" else left
        return function(left, right)


def _parsed(size: str) -> Dim:
    return sum((int(term) if term.isdigit() else dims.symbol(term) for term in size.split("+")), start=0)


_FUNCTIONS = {
    "FloorDiv": dims.floordiv, "CleanDiv": dims.floordiv, "Mod": dims.mod, "PythonMod": dims.mod,
    "Min": dims.minimum, "Max": dims.maximum,
}  # fmt: skip
