"""Putting a matrix into few bits: a scale for each group of numbers, and the numbers in units of it.

Both are done once, when something is built; `dequantize` with scheme "centred" is the way back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..diagnostics import GraphError
from ..dims import Dim
from ..dtypes import f32, u4, u8
from ..op import Op, op
from ..tensor import TensorType
from .checks import FLOATS, of_kind
from .quantize import middle

CHUNK = 1 << 18  # numbers worked on at a time: they stay in the cache
STARTS = (0.8, 0.86, 0.92, 0.97, 1.0, 1.06, -0.8, -0.86, -0.92, -0.97, -1.0, -1.06)  # shares of the plain scale


def _check(name: str, w: TensorType, bits: int, group: int) -> None:
    """Raises: GraphError on what cannot be cut into such groups."""
    of_kind(name, "w", w, FLOATS)
    if w.rank != 2 or not 2 <= bits <= 8 or group < 1 or (isinstance(w.shape[1], int) and w.shape[1] % group):
        raise GraphError(f"{name}: a matrix whose rows are cut into groups of {group}, 2..8 bits a number",
                         found=f"{w}, {bits} bits")  # fmt: skip


def _groups(w: np.ndarray, group: int) -> Iterator[tuple[slice, np.ndarray]]:
    """(rows, these rows' numbers [rows, groups, group] in f32), as many rows as stay in the cache."""
    step = max(1, CHUNK // max(1, w.shape[1]))
    for start in range(0, len(w), step):
        at = slice(start, start + step)
        yield at, w[at].astype(np.float32, copy=False).reshape(-1, w.shape[1] // group, group)


def _rounded(w: np.ndarray, scale: np.ndarray, bits: int) -> np.ndarray:
    """w in units of its group's scale, whole and within what `bits` hold around 0; 0 where the scale is 0."""
    half = middle(bits)
    units = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)
    return np.clip(np.rint(w * units[..., None]), -half, half - 1)


@op
class quantize_scale(Op):
    """The scale of each group: under it the numbers of the group lie close to whole ones.

    Shapes: w [n, k], groups of `group` along k, which it divides -> f32 [n, k / group].
    The number of the largest size becomes -2^(bits-1), the one end of what the bits hold, so a scale may be negative.
    That is where a search starts: of several shares of it, and for each the least-squares scale for the whole numbers
    that it gives, the one of the least squared error is taken.
    Flops: 7 per number and start.
    Source: ours; the scale of least squares for given whole numbers q is (w · q) / (q · q).
    """

    inputs = ("w",)
    attrs = {"bits": int, "group": int}
    axes = "n k! -> n g!"

    def infer(self, w: TensorType, *, bits: int, group: int) -> TensorType:
        _check("quantize_scale", w, bits, group)
        return TensorType(f32, (w.shape[0], w.shape[1] // group))

    def flops(self, out: TensorType, w: TensorType, **attrs: Any) -> Dim:
        return 7 * len(STARTS) * w.elements

    def reference(self, w: np.ndarray, *, bits: int, group: int) -> np.ndarray:
        scale = np.empty((len(w), w.shape[1] // group), np.float32)
        for at, x in _groups(w, group):
            extreme = np.take_along_axis(x, np.abs(x).argmax(-1)[..., None], -1)[..., 0]
            scale[at] = _searched(x, extreme / np.float32(-middle(bits)), bits)
        return scale


def _searched(x: np.ndarray, plain: np.ndarray, bits: int) -> np.ndarray:
    """The best of several scales for each group of x [rows, groups, group].

    For whole numbers q the least squared error that any scale gives is x · x - (x · q)² / (q · q).
    """
    best, gained = plain, np.full(plain.shape, -1, np.float32)
    for share in STARTS:
        q = _rounded(x, plain * np.float32(share), bits)
        along, size = np.einsum("rgi,rgi->rg", x, q), np.einsum("rgi,rgi->rg", q, q)
        fitted = np.divide(along, size, out=np.zeros_like(along), where=size > 0)
        gain = along * fitted
        best, gained = np.where(gain > gained, fitted, best), np.maximum(gain, gained)
    return best


@op
class quantize(Op):
    """The whole numbers that stand for w: round(w / scale) + 2^(bits-1), within 0..2^bits - 1.

    Shapes: w [n, k], scale [n, k / group] -> u4 [n, k] for up to four bits, u8 [n, k] for more.
    Flops: 4 per number.
    """

    inputs = ("w", "scale")
    attrs = {"bits": int, "group": int}
    axes = "n k!, n g! -> n k!"

    def infer(self, w: TensorType, scale: TensorType, *, bits: int, group: int) -> TensorType:
        _check("quantize", w, bits, group)
        if scale.dtype != f32 or scale.shape != (w.shape[0], w.shape[1] // group):
            raise GraphError(f"quantize: the scale does not belong to groups of {group}", found=f"{scale} for {w}")
        return w.with_dtype(u4 if bits <= 4 else u8)

    def flops(self, out: TensorType, *types: Any, **attrs: Any) -> Dim:
        return 4 * out.elements

    def reference(self, w: np.ndarray, scale: np.ndarray, *, bits: int, group: int) -> np.ndarray:
        q = np.empty(w.shape, np.uint8)
        for at, x in _groups(w, group):
            q[at] = (_rounded(x, scale[at], bits) + middle(bits)).astype(np.uint8).reshape(len(x), -1)
        return q.astype((u4 if bits <= 4 else u8).numpy)
