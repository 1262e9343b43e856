"""Element-wise ops as expressions of vectors, and short chains of them.

One table says what each op computes; a kernel of its own and the epilogue of a product both take it from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import tirx

from . import vector_math as vm
from .formulas import FORMULAS as _MORE
from .script import Expr, number, wide

Formula = Callable[..., Expr]
FORMULAS: dict[str, Formula] = {**_MORE}


@dataclass(frozen=True)
class Step:
    """One op of a chain. inputs: places of values: the arrays', then the constants', then those of steps before."""

    op: str
    inputs: tuple[int, ...]
    attrs: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Chain:
    """Arrays and constants, and steps from them to one result, that of the last step (of the last value without one).

    dtypes: TVM's names, of the arrays. constants: (value, dtype).
    """

    dtypes: tuple[str, ...]
    constants: tuple[tuple[float, str], ...]
    steps: tuple[Step, ...]

    def stored(self, dtype: str) -> Chain:
        """Without a last cast to a type of 16 bits in which the result is stored: storing rounds to it."""
        values = len(self.dtypes) + len(self.constants) + len(self.steps)
        last = self.steps[-1] if self.steps else Step("", ())
        rounds = last.op == "cast" and dict(last.attrs)["dtype"] == dtype != wide(dtype)
        return replace(self, steps=self.steps[:-1]) if rounds and last.inputs == (values - 2,) else self

    def evaluate(self, arrays: Sequence[Expr], lanes: int) -> Expr:
        """The result, given vectors of the arrays' elements; those of 16 bits are given, and come, as f32."""
        values = [*arrays, *(number(_rounded(v, d), lanes, wide(d)) for v, d in self.constants)]
        for step in self.steps:
            values.append(FORMULAS[step.op](*(values[i] for i in step.inputs), **dict(step.attrs)))
        return values[-1]


def _rounded(value: float, dtype: str) -> float:
    """As a type of 16 bits holds it."""
    return value if wide(dtype) == dtype else float(np.asarray(value).astype(dtype))


def _formula(*names: str) -> Callable[[Formula], Formula]:
    def enter(function: Formula) -> Formula:
        FORMULAS.update(dict.fromkeys(names, function))
        return function

    return enter


_PLAIN: Mapping[str, Formula] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
    "maximum": vm.most, "minimum": vm.least, "neg": lambda x: vm.constant(-1.0, x) * x, "abs": tirx.abs,
    "sqrt": tirx.sqrt,
    "rsqrt": lambda x: vm.constant(1.0, x) / tirx.sqrt(x), "reciprocal": lambda x: vm.constant(1.0, x) / x,
    "exp": vm.exp, "tanh": vm.tanh, "erf": vm.erf, "sigmoid": vm.sigmoid, "silu": lambda x: x * vm.sigmoid(x),
    "relu": lambda x: tirx.max(vm.constant(0.0, x), x), "floor": tirx.floor, "ceil": tirx.ceil,
    "round": tirx.nearbyint,
}  # fmt: skip
FORMULAS.update(_PLAIN)


@_formula("gelu")
def _gelu(x: Expr, *, approximate: str = "none") -> Expr:
    """x / 2 · (1 + erf(x / sqrt 2)), or its form with tanh.

    Source: Hendrycks and Gimpel 2016, "Gaussian Error Linear Units".
    """
    half, one = vm.constant(0.5, x), vm.constant(1.0, x)
    if approximate == "none":
        return half * x * (one + vm.erf(x * vm.constant(0.7071067811865476, x)))
    # 1 + tanh(u) is 2 sigmoid(2 u), which loses nothing where they cancel.
    twice = vm.constant(1.5957691216057308, x) * (x + vm.constant(0.044715, x) * x * x * x)
    return x * vm.sigmoid(twice)
