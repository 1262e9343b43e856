"""Experts' matrices cut into panels of columns, as kernels for layers of experts read them.

Where an expert gates, a panel holds half as many columns of the gate and, after them, the same of what it gates: a
kernel has both in registers when it puts them together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..diagnostics import GraphError
from ..dims import Dim
from ..op import Attr, Op, get, op
from ..tensor import TensorType, Work
from .moe import ACTIVATIONS
from .widen import as_type


def panels_of(n: int, width: int, gated: bool) -> int:
    """How many panels hold n columns of an expert, gate and what is gated counted together."""
    return -(-(n // 2) // (width // 2)) if gated else -(-n // width)


def _check(name: str, n: Any, width: int, gated: bool) -> None:
    if not isinstance(n, int) or width < 1 or (gated and (n % 2 or width % 2)):
        raise GraphError(f"{name}: takes so many columns, an even number where they are gates and what is gated",
                         found=f"{n} columns, width {width}")  # fmt: skip


def _cut(x: np.ndarray, width: int, gated: bool) -> np.ndarray:
    """[e, k, n] -> [e, p, k, width]."""
    e, k, n = x.shape
    parts = 2 if gated else 1
    panels, each = panels_of(n, width, gated), width // parts
    wide = np.zeros((e, k, parts, panels * each), x.dtype)
    wide[..., : n // parts] = x.reshape(e, k, parts, n // parts)
    cut = wide.reshape(e, k, parts, panels, each).transpose(0, 3, 1, 2, 4)
    return np.ascontiguousarray(cut.reshape(e, panels, k, width))


def _joined(x: np.ndarray, columns: int, gated: bool) -> np.ndarray:
    """[e, p, k, width] -> [e, k, columns]."""
    e, panels, k, width = x.shape
    parts = 2 if gated else 1
    wide = x.reshape(e, panels, k, parts, width // parts).transpose(0, 2, 3, 1, 4).reshape(e, k, parts, -1)
    return np.ascontiguousarray(wide[..., : columns // parts].reshape(e, k, columns))


@op
class to_expert_panels(Op):
    """Matrices as panels of `width` columns; columns that are missing in a last panel are 0.

    gated: the first half of the columns are gates, and each panel holds width / 2 of them and, after them, of the rest.
    Shapes: x [e, k, n] -> [e, p, k, width], p = ceil(n / width).
    """

    inputs = ("x",)
    attrs = {"width": int, "gated": Attr(bool, False)}
    axes = "e k n! -> e p! k w!"
    pure_move = True

    def infer(self, x: TensorType, *, width: int, gated: bool) -> TensorType:
        if x.rank != 3:
            raise GraphError("to_expert_panels: takes matrices [e, k, n]", found=str(x))
        e, k, n = x.shape
        _check("to_expert_panels", n, width, gated)
        assert isinstance(n, int)
        return x.with_shape(e, panels_of(n, width, gated), k, width)

    def flops(self, out: TensorType, *types: Any, **attrs: Any) -> Dim:
        return 0

    def reference(self, x: np.ndarray, *, width: int, gated: bool) -> np.ndarray:
        return _cut(x, width, gated)


@op
class from_expert_panels(Op):
    """The matrices of so many columns that panels were cut from.

    Shapes: x [e, p, k, width] -> [e, k, n], n = columns.
    """

    inputs = ("x",)
    attrs = {"columns": int, "gated": Attr(bool, False)}
    axes = "e p! k w! -> e k n!"
    pure_move = True

    def infer(self, x: TensorType, *, columns: int, gated: bool) -> TensorType:
        if x.rank != 4 or not all(isinstance(d, int) for d in x.shape):
            raise GraphError("from_expert_panels: takes panels [e, p, k, width]", found=str(x))
        e, panels, k, width = x.shape
        assert isinstance(width, int)
        _check("from_expert_panels", columns, width, gated)
        if columns < 1 or panels_of(columns, width, gated) != panels:
            raise GraphError(f"from_expert_panels: {panels} panels of {width} do not make {columns} columns")
        return x.with_shape(e, k, columns)

    def flops(self, out: TensorType, *types: Any, **attrs: Any) -> Dim:
        return 0

    def reference(self, x: np.ndarray, *, columns: int, gated: bool) -> np.ndarray:
        return _joined(x, columns, gated)


def wide_of(inner: int, activation: str) -> int:
    """The columns of the first product of experts whose second takes `inner`."""
    if activation not in ACTIVATIONS:
        raise GraphError(f"moe: activation is one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    return 2 * inner if ACTIVATIONS[activation].gated else inner


@op
class panel_moe(Op):
    """`moe` of experts that are held in panels, of fewer bits than x maybe; their biases lie in panels of one row.

    inner: the rows of `down`, which are the columns of `gate_up`, or half of them where it gates.
    Shapes: x [*t, d], indices and weights [*t, k], gate_up [e, p, d, width], down [e, q, inner, width], gate_up_bias
      [e, p, 1, width], down_bias [e, q, 1, width] -> [*t, d]. Flops and bytes: those of `moe`.
    """

    inputs = ("x", "indices", "weights", "gate_up", "down", "gate_up_bias?", "down_bias?")
    attrs = {"inner": int, "activation": Attr(str, "swiglu")}
    axes = "*t d!, *t k!, *t k!, e! p! d! w!, e! q! f! w!, e! p! 1 w!, e! q! 1 w! -> *t d!"

    def infer(self, x: TensorType, indices: TensorType, weights: TensorType, *parts: Any, inner: int,
              activation: str) -> TensorType:  # fmt: skip
        y = get("moe").infer(x, indices, weights, *_types(x, parts, inner, activation), activation=activation)
        assert isinstance(y, TensorType)
        return y

    def flops(self, out: TensorType, x: TensorType, indices: TensorType, weights: Any, *parts: Any, inner: int,
              activation: str) -> Dim:  # fmt: skip
        plain = _types(x, parts, inner, activation)
        return get("moe").flops(out, x, indices, weights, *plain, activation=activation)

    def work(self, outs: Any, types: Any, attrs: Any) -> Work:
        x, indices, weights, *parts = types
        own = get("moe").complete_attrs({"activation": attrs["activation"]})
        plain = _types(x, parts, attrs["inner"], attrs["activation"], as_held=True)
        return get("moe").work(outs, [x, indices, weights, *plain], own)

    def reference(self, x: Any, indices: Any, weights: Any, *parts: Any, inner: int, activation: str) -> Any:
        plain = matrices_of(_joined, parts, x.shape[-1], inner, activation)
        plain = [a if a is None or i < 2 else a[:, 0] for i, a in enumerate(plain)]
        return get("moe").reference(x, indices, weights, *plain, activation=activation)

    def decompose(self, b: Any, x: Any, indices: Any, weights: Any, *parts: Any, inner: int, activation: str) -> Any:
        plain = matrices_of(
            lambda v, columns, gated: b.emit("from_expert_panels", v, columns=columns, gated=gated), parts,
            x.type.shape[-1], inner, activation,
        )  # fmt: skip
        for i in (2, 3):
            if plain[i] is not None:
                (e, _, n) = plain[i].type.shape
                plain[i] = b.emit("reshape", plain[i], shape=(e, n))
        plain = [None if v is None else as_type(b, v, x.type.dtype) for v in plain]
        return b.emit("moe", x, indices, weights, *plain, activation=activation)


def matrices_of(
    joined: Callable[[Any, int, bool], Any], parts: Sequence[Any], d: int, inner: int, activation: str
) -> list[Any]:  # fmt: skip
    """The two matrices of all experts and their two biases, None where there is none, from their panels."""
    wide, gated = wide_of(inner, activation), ACTIVATIONS[activation].gated
    sizes = ((wide, gated), (d, False)) * 2
    return [None if p is None else joined(p, *size) for p, size in zip((*parts, None, None)[:4], sizes, strict=True)]


def _types(x: TensorType, parts: Sequence[Any], inner: int, activation: str, *, as_held: bool = False) -> list[Any]:
    """The types that `moe` takes; as_held: the matrices in the type in which they are held, else in x's."""

    def joined(type: TensorType, columns: int, gated: bool) -> TensorType:
        found = get("from_expert_panels").infer(type, columns=columns, gated=gated)
        assert isinstance(found, TensorType)
        return found if as_held else found.with_dtype(x.dtype)

    if not isinstance(x.shape[-1], int):
        raise GraphError("panel_moe: the size of a token is a number", found=str(x))
    plain = matrices_of(joined, parts, x.shape[-1], inner, activation)
    for i in (2, 3):
        if plain[i] is not None:
            plain[i] = plain[i].with_shape(plain[i].shape[0], plain[i].shape[2])
    return plain
