"""What stands between the two products of an expert, on vectors: the op's own formula through the table of `steps`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ....ir.dtypes import f32
from ....ir.ops.moe import ACTIVATIONS
from ..script import Expr, bind, lanes_of, number
from ..steps import FORMULAS


@dataclass(frozen=True)
class _Type:
    dtype: Any = f32


@dataclass(frozen=True)
class _Lanes:
    """A vector, where a builder's value is expected."""

    value: Expr
    type: _Type = _Type()


class _Formulas:
    """Takes the ops that an activation emits, and computes them at once."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes

    def constant(self, value: float, dtype: Any) -> _Lanes:
        return _Lanes(number(value, self.lanes))

    def emit(self, op: str, *values: _Lanes, **attrs: Any) -> _Lanes:
        return _Lanes(bind(FORMULAS[op](*(v.value for v in values), **attrs)))


def activated(name: str, gate: Expr, up: Expr | None) -> Expr:
    """The activation of vectors of f32; their own numbers where it has no name."""
    if not name:
        return gate
    found: _Lanes = ACTIVATIONS[name].emit(
        _Formulas(lanes_of(gate)), _Lanes(gate), None if up is None else _Lanes(up)
    )
    return found.value
