"""Ops that tie a graph to its program: weights, scalars, sizes as data, calls."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..dims import Dim
from ..dtypes import DType, i64
from ..op import DIM, STRINGS, Attr, Op, op
from ..tensor import TensorType, Work


class Source(Op):
    """Base of ops that bring a value into being; their consumers count the bytes."""

    pure_move = True

    def flops(self, out: TensorType, *types: Any, **attrs: Any) -> Dim:
        return 0

    def work(self, outs: Any, types: Any, attrs: Any) -> Work:
        return Work()


@op
class weight(Source):
    """An entry of the program's weight table, by name. Its type is the table's."""

    attrs = {"name": str}
    axes = "-> *r"


@op
class constant(Source):
    """A scalar, rank 0. Anything larger is a weight."""

    attrs = {"value": float, "dtype": DType}
    axes = "->"

    def infer(self, *, value: float, dtype: DType) -> TensorType:
        return TensorType(dtype)

    def reference(self, *, value: float, dtype: DType) -> np.ndarray:
        return np.asarray(value).astype(dtype.numpy)


@op
class dim_value(Source):
    """A symbolic size as an i64 scalar."""

    attrs = {"dim": DIM}
    axes = "->"

    def infer(self, *, dim: Dim) -> TensorType:
        return TensorType(i64)

    def reference(self, *, dim: int) -> np.ndarray:
        return np.asarray(dim, np.int64)


class Call(Op):
    """Base of the ops that run a function of the program; the types are that graph's outputs.

    function:  its name.
    index:     which of the repeated layers this is; `{i}` and `{i+1}` in the body's module paths stand for it.
    elsewhere: pairs (place in the body, place really meant) where that rule does not give the user's place.

    FLOPs and bytes are its body's, counted by whoever walks the program.
    """

    inputs = ("*args",)
    attrs = {"function": str, "index": Attr(int, -1), "elsewhere": Attr(STRINGS, ())}
    axes = "*args -> *outs"

    def flops(self, out: TensorType, *types: Any, **attrs: Any) -> Dim:
        return 0

    def work(self, outs: Any, types: Any, attrs: Any) -> Work:
        return Work()


@op
class call(Call):
    """Runs a function: a repeated layer, with that layer's weights and caches."""


@op
class fused(Call):
    """Runs a small function as one kernel: an anchor op and its epilogue, by the names a backend looks up.

    anchor: the op that does the work; epilogue: the names of the ops after it, in order.
    """

    attrs = {**Call.attrs, "anchor": str, "epilogue": STRINGS}
