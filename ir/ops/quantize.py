"""Weights held in few bits.

A quantised weight is its plain array of whole numbers (one element a number, packing is a backend's) and scales.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..diagnostics import GraphError
from ..dims import Dim
from ..dtypes import i64
from ..op import Attr, Op, op
from ..tensor import TensorType, Work
from .checks import FLOATS, INTEGERS, normal_axis, of_kind
from .letters import letters, spell
from .widen import as_type

SCHEMES = ("symmetric", "asymmetric")


def _check(name: str, q: TensorType, scale: TensorType, zero: TensorType | None, *, bits: int, group: int,
           axis: int, scheme: str) -> int:  # fmt: skip
    """The axis from the front. Raises: GraphError where the parts do not belong together."""
    of_kind(name, "q", q, INTEGERS)
    of_kind(name, "scale", scale, FLOATS)
    if scheme not in SCHEMES:
        raise GraphError(f"{name}: scheme is one of {', '.join(SCHEMES)}, got {scheme!r}")
    if (zero is not None) != (scheme == "asymmetric"):
        raise GraphError(f"{name}: a zero point belongs to scheme asymmetric, and only there, got {scheme}")
    if not 1 <= bits <= q.dtype.bits or group < 0:
        raise GraphError(
            f"{name}: bits are 1..{q.dtype.bits} of {q.dtype}, group is 0 or more", found=f"bits {bits}, group {group}"
        )
    at = normal_axis(name, axis, q)
    count = 1 if group == 0 else (q.shape[at] + (group - 1)) // group
    wanted = (*q.shape[:at], count, *q.shape[at + 1 :])
    for what, part in (("scale", scale), ("zero", zero)):
        if part is not None and part.shape != wanted:
            raise GraphError(
                f"{name}: {what} is {list(map(str, wanted))} for groups of {group or 'all'} along axis {at}",
                found=f"{part} for {q}",
            )
    return at


def _flops(q: TensorType, scheme: str) -> Dim:
    return (1 if scheme == "symmetric" else 2) * q.elements


def _read(q: TensorType, *rest: TensorType | None, bits: int) -> Dim:
    """The bytes of the numbers when packed, and of what stands beside them."""
    return (q.elements * bits + 7) // 8 + sum((t.bytes for t in rest if t is not None), start=0)


def _spread(x: np.ndarray, size: int, group: int, axis: int) -> np.ndarray:
    """Each group's value beside every number of the group."""
    return x if group == 0 else np.take(x, np.arange(size) // group, axis)


def _numbers(q: np.ndarray, scale: np.ndarray, zero: np.ndarray | None, group: int, axis: int) -> np.ndarray:
    wide, size = q.astype(np.float64), q.shape[axis]
    if zero is not None:
        wide = wide - _spread(zero.astype(np.float64), size, group, axis)
    return wide * _spread(scale.astype(np.float64), size, group, axis)


@op
class dequantize(Op):
    """The numbers that q stands for: q · scale, or (q - zero) · scale.

    Shapes: q integer [*r], scale and zero as q but with ceil(n / group) along `axis`, n being q's size there.
      group 0: one scale for the whole axis. The result is [*r] in scale's type.
    bits: how many of each number are used; what is read is counted in them.
    scheme: "symmetric" (no zero) or "asymmetric".
    Flops: 1 per element, 2 with a zero point.
    """

    inputs = ("q", "scale", "zero?")
    attrs = {"bits": int, "group": Attr(int, 0), "axis": Attr(int, 0), "scheme": Attr(str, "symmetric")}
    axes = "*r!, *r!, *r! -> *r!"

    def infer(self, q: TensorType, scale: TensorType, zero: Any = None, **attrs: Any) -> TensorType:
        _check("dequantize", q, scale, zero, **attrs)
        return TensorType(scale.dtype, q.shape)

    def axes_for(self, q: TensorType, scale: TensorType, zero: Any = None, **attrs: Any) -> str:
        at = attrs["axis"] % q.rank
        own = letters(q.rank, {at})
        groups = [*own[:at], *letters(1, {0}, first=q.rank), *own[at + 1 :]]
        return spell([own, groups, groups], [own])

    def flops(self, out: TensorType, q: TensorType, *rest: Any, scheme: str, **attrs: Any) -> Dim:
        return _flops(q, scheme)

    def work(self, outs: Any, types: Any, attrs: Any) -> Work:
        return Work(_flops(types[0], attrs["scheme"]), _read(*types, bits=attrs["bits"]), outs[0].bytes)

    def reference(self, q: np.ndarray, scale: np.ndarray, zero: Any = None, *, bits: int, group: int, axis: int,
                  scheme: str) -> np.ndarray:  # fmt: skip
        return _numbers(q, scale, zero, group, axis)

    def decompose(self, b: Any, q: Any, scale: Any, zero: Any = None, *, bits: int, group: int, axis: int,
                  scheme: str) -> Any:  # fmt: skip
        dtype, at = scale.type.dtype, axis % q.type.rank

        def spread(x: Any) -> Any:
            if group == 0:
                return x
            at_each = b.emit("iota", length=q.type.shape[at], dtype=i64)
            return b.emit("gather", x, b.emit("div", at_each, b.constant(group, i64)), axis=at)

        numbers = as_type(b, q, dtype)
        if zero is not None:
            numbers = b.emit("sub", numbers, spread(as_type(b, zero, dtype)))
        return b.emit("mul", numbers, spread(scale))


@op
class quantized_matmul(Op):
    """x · dequantize(q, scale, zero) + bias, the groups along q's first axis.

    Shapes: x [*r, k], q integer [k, n], scale and zero [ceil(k / group), n] ([1, n] for group 0), bias [n] -> [*r, n].
    Flops: 2 · rows · k · n, one per output for the bias, and those of dequantize.
    """

    inputs = ("x", "q", "scale", "zero?", "bias?")
    attrs = {"bits": int, "group": Attr(int, 0), "scheme": Attr(str, "symmetric")}
    axes = "*r k!, k! n, g! n, g! n, n -> *r n"

    def infer(self, x: TensorType, q: TensorType, scale: TensorType, zero: Any = None, bias: Any = None,
              **attrs: Any) -> TensorType:  # fmt: skip
        if q.rank != 2 or x.rank < 1 or x.shape[-1] != q.shape[0]:
            raise GraphError(
                f"quantized_matmul: needs equal inner sizes, got {x.shape[-1:]} and {q.shape[:1]}", found=f"{x} @ {q}"
            )
        of_kind("quantized_matmul", "x", x, FLOATS)
        _check("quantized_matmul", q, scale, zero, axis=0, **attrs)
        if bias is not None and bias.shape != q.shape[1:]:
            raise GraphError("quantized_matmul: the bias does not fit the weight", found=f"{bias} for {q}")
        return x.with_shape(*x.shape[:-1], q.shape[1])

    def flops(self, out: TensorType, x: TensorType, q: TensorType, scale: Any, zero: Any = None, bias: Any = None, *,
              scheme: str, **attrs: Any) -> Dim:  # fmt: skip
        product = 2 * x.shape[-1] * out.elements + _flops(q, scheme)
        return product if bias is None else product + out.elements

    def work(self, outs: Any, types: Any, attrs: Any) -> Work:
        x, *rest = types
        return Work(self.flops(outs[0], *types, **attrs), x.bytes + _read(*rest, bits=attrs["bits"]), outs[0].bytes)

    def reference(self, x: np.ndarray, q: np.ndarray, scale: np.ndarray, zero: Any = None, bias: Any = None, *,
                  bits: int, group: int, scheme: str) -> np.ndarray:  # fmt: skip
        y = x.astype(np.float64) @ _numbers(q, scale, zero, group, 0)
        return y if bias is None else y + bias

    def decompose(self, b: Any, x: Any, q: Any, scale: Any, zero: Any = None, bias: Any = None, **attrs: Any) -> Any:
        weight = b.emit("dequantize", q, scale, zero, axis=0, **attrs)
        return b.emit("linear", x, as_type(b, weight, x.type.dtype), bias)
