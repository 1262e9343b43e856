"""torch's symbolic sizes as dims of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import dims
from ..diagnostics import CaptureError
from ..dims import Dim


class Sizes:
    """Translates sizes; `names` maps torch's symbol (`s43`) to the user's (`batch`)."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = dict(names)

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
            if name not in self.names:
                raise CaptureError(
                    f"the size {name} depends on the values of a tensor",
                    hint="rewrite the model so that shapes depend on input shapes only",
                )
            return dims.symbol(self.names[name])
        args = expr.args
        if expr.is_Add:
            return sum((self._walk(a) for a in args), start=0)
        if expr.is_Mul:
            return dims.product(self._walk(a) for a in args)
        if expr.is_Pow and args[1].is_Integer and int(args[1]) > 0:
            return dims.product([self._walk(args[0])] * int(args[1]))
        function = _FUNCTIONS.get(type(expr).__name__)
        if function is None:
            raise CaptureError(f"the size {expr} cannot be written with + * // % min max")
        value = self._walk(args[0])
        for a in args[1:]:
            value = function(value, self._walk(a))
        return value


_FUNCTIONS = {
    "FloorDiv": dims.floordiv, "CleanDiv": dims.floordiv, "Mod": dims.mod, "PythonMod": dims.mod,
    "Min": dims.minimum, "Max": dims.maximum,
}  # fmt: skip
