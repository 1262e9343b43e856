"""Elements as their bits, and logic on each bit."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..diagnostics import GraphError
from ..dims import Dim
from ..dtypes import DType
from ..op import Op, op
from ..tensor import TensorType
from .checks import INTEGERS
from .elementwise import Binary


@op
class bitcast(Op):
    """The same bits read as another element type of the same width. A move: no FLOPs.

    source: x's element type, which says what the bits are where f64 stands in for narrower floats.
    """

    inputs = ("x",)
    attrs = {"source": DType, "target": DType}
    axes = "*r -> *r"
    pure_move = True

    def infer(self, x: TensorType, *, source: DType, target: DType) -> TensorType:
        if x.dtype != source:
            raise GraphError(f"bitcast: the source is {x.dtype}, the attribute says {source}", found=str(x))
        if source.bits != target.bits or source.bits < 8:
            raise GraphError(f"bitcast: {source} and {target} are not of one width of whole bytes", found=str(x))
        return x.with_dtype(target)

    def flops(self, out: TensorType, *types: Any, **attrs: Any) -> Dim:
        return 0

    def reference(self, x: np.ndarray, *, source: DType, target: DType) -> np.ndarray:
        narrow = np.asarray(x).astype(source.numpy, order="C", copy=False)
        return narrow.reshape(-1).view(target.numpy).reshape(x.shape)


class Bitwise(Binary):
    """Base of logic on each bit of two whole numbers: no FLOPs."""

    commutes = True
    takes = INTEGERS
    cost = 0


@op
class bit_and(Bitwise):
    """The bits that both have."""

    fn = np.bitwise_and


@op
class bit_or(Bitwise):
    """The bits that either has."""

    fn = np.bitwise_or


@op
class bit_xor(Bitwise):
    """The bits that exactly one has."""

    fn = np.bitwise_xor
