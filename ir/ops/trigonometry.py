"""The angles' functions beyond sine and cosine, the hyperbolic ones, and their inverses. Each counts one FLOP."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..op import op
from .elementwise import Unary


@op
class tan(Unary):
    """The tangent."""

    fn = np.tan

    def decompose(self, b: Any, x: Any) -> Any:
        return b.emit("div", b.emit("sin", x), b.emit("cos", x))


@op
class asin(Unary):
    """The angle in -π/2..π/2 whose sine is x; nan outside of -1..1."""

    fn = np.arcsin


@op
class acos(Unary):
    """The angle in 0..π whose cosine is x; nan outside of -1..1."""

    fn = np.arccos


@op
class atan(Unary):
    """The angle in -π/2..π/2 whose tangent is x."""

    fn = np.arctan


@op
class sinh(Unary):
    """(exp(x) - exp(-x)) / 2."""

    fn = np.sinh

    def decompose(self, b: Any, x: Any) -> Any:
        return b.emit("mul", b.emit("tanh", x), b.emit("cosh", x))


@op
class cosh(Unary):
    """(exp(x) + exp(-x)) / 2."""

    fn = np.cosh

    def decompose(self, b: Any, x: Any) -> Any:
        both = b.emit("add", b.emit("exp", x), b.emit("exp", b.emit("neg", x)))
        return b.emit("mul", both, b.constant(0.5, x.type.dtype))


@op
class asinh(Unary):
    """The number whose sinh is x."""

    fn = np.arcsinh


@op
class acosh(Unary):
    """The number, 0 or more, whose cosh is x; nan below 1."""

    fn = np.arccosh


@op
class atanh(Unary):
    """The number whose tanh is x; nan outside of -1..1."""

    fn = np.arctanh
