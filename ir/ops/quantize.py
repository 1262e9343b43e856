"""Weights held in few bits.

A quantised weight is its plain array of whole numbers (one element a number, packing is a backend's) and scales.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import numpy as np

from ..diagnostics import GraphError
from ..dims import Dim
from ..dtypes import DType, f32, i64
from ..op import Attr, Op, op
from ..tensor import TensorType, Work
from .checks import FLOATS, INTEGERS, NUMBERS, check_indices, normal_axis, of_kind
from .letters import letters, spell
from .widen import as_type

SCHEMES = ("symmetric", "centred", "asymmetric", "offset")
PLAIN = ("symmetric", "centred")  # those without a zero beside the scale
CHUNK = 1 << 22  # numbers widened at a time


def _check(name: str, q: TensorType, scale: TensorType, zero: TensorType | None, *, bits: int, group: int,
           axis: int, scheme: str) -> int:  # fmt: skip
    """The axis from the front. Raises: GraphError where the parts do not belong together."""
    of_kind(name, "q", q, INTEGERS)
    of_kind(name, "scale", scale, FLOATS)
    if scheme not in SCHEMES:
        raise GraphError(f"{name}: scheme is one of {', '.join(SCHEMES)}, got {scheme!r}")
    if (zero is not None) == (scheme in PLAIN):
        raise GraphError(f"{name}: a zero point belongs to scheme asymmetric or offset, and only there, got {scheme}")
    if zero is not None:
        of_kind(name, "zero", zero, FLOATS if scheme == "offset" else NUMBERS)
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


def middle(bits: int) -> int:
    """The number that stands for 0 in scheme "centred".

    >>> middle(4)
    8
    """
    return 1 << (bits - 1)


def _flops(q: TensorType, scheme: str) -> Dim:
    return (1 if scheme in PLAIN else 2) * q.elements


def _read(q: TensorType, *rest: TensorType | None, bits: int) -> Dim:
    """The bytes of the numbers when packed, and of what stands beside them."""
    return (q.elements * bits + 7) // 8 + sum((t.bytes for t in rest if t is not None), start=0)


def _spread(x: np.ndarray, size: int, group: int, axis: int) -> np.ndarray:
    """Each group's value, in f64, beside every number of the group."""
    x = x.astype(np.float64)
    return x if group == 0 else np.take(x, np.arange(size) // group, axis)


def _numbers(q: np.ndarray, scale: np.ndarray, zero: np.ndarray | None, *, bits: int, group: int, axis: int,
             scheme: str, dtype: Any = np.float64) -> np.ndarray:  # fmt: skip
    """What q stands for: computed in f64, rounded once, and a slab at a time, for q may be a whole embedding."""
    out = np.empty(q.shape, dtype)
    for at in _slabs(q.shape, axis % q.ndim):
        wide = q[at].astype(np.float64) - (middle(bits) if scheme == "centred" else 0)
        spread = [None if x is None else _spread(x[at], q.shape[axis], group, axis) for x in (scale, zero)]
        out[at] = _FORMS[scheme](wide, *spread)
    return out


_FORMS: dict[str, Callable[..., np.ndarray]] = {
    "symmetric": lambda q, scale, zero: q * scale,
    "centred": lambda q, scale, zero: q * scale,
    "asymmetric": lambda q, scale, zero: (q - zero) * scale,
    "offset": lambda q, scale, zero: q * scale + zero,
}


def _slabs(shape: tuple[int, ...], axis: int) -> Iterator[tuple[slice, ...]]:
    """Cuts across the longest of the other axes, of about CHUNK numbers each."""
    others = [i for i in range(len(shape)) if i != axis]
    if not others or 0 in shape:
        yield ()
        return
    cut = max(others, key=lambda i: shape[i])
    step = max(1, CHUNK * shape[cut] // prod(shape))
    for start in range(0, shape[cut], step):
        yield (*[slice(None)] * cut, slice(start, start + step))


@op
class dequantize(Op):
    """The numbers that q stands for: q · scale, (q - middle) · scale, (q - zero) · scale, or q · scale + zero.

    Shapes: q integer [*r], scale and zero as q but with ceil(n / group) along `axis`, n being q's size there.
      group 0: one scale for the whole axis. The result is [*r] in `dtype`, rounded once.
    bits: how many of each number are used; what is read is counted in them.
    scheme: "symmetric" (no zero), "centred" (the zero is the middle of what so many bits hold, 2^(bits-1), and is
      stored nowhere), "asymmetric" (the zero is subtracted from q) or "offset" (a float zero is added).
    Flops: 1 per element, 2 with a zero.
    """

    inputs = ("q", "scale", "zero?")
    attrs = {
        "bits": int, "group": Attr(int, 0), "axis": Attr(int, 0), "scheme": Attr(str, "symmetric"),
        "dtype": Attr(DType, f32),
    }  # fmt: skip
    axes = "*r!, *r!, *r! -> *r!"

    def infer(self, q: TensorType, scale: TensorType, zero: Any = None, *, dtype: DType, **attrs: Any) -> TensorType:
        _check("dequantize", q, scale, zero, **attrs)
        if not dtype.is_float:
            raise GraphError(f"dequantize: dtype is a float type, got {dtype}")
        return TensorType(dtype, q.shape)

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
                  scheme: str, dtype: DType) -> np.ndarray:  # fmt: skip
        return _numbers(q, scale, zero, bits=bits, group=group, axis=axis, scheme=scheme, dtype=dtype.numpy)

    def decompose(self, b: Any, q: Any, scale: Any, zero: Any = None, *, bits: int, group: int, axis: int,
                  scheme: str, dtype: DType) -> Any:  # fmt: skip
        at, wide = axis % q.type.rank, max(scale.type.dtype, dtype, key=lambda d: d.bits)

        def spread(x: Any) -> Any:
            x = as_type(b, x, wide)
            if group == 0:
                return x
            at_each = b.emit("iota", length=q.type.shape[at], dtype=i64)
            return b.emit("gather", x, b.emit("div", at_each, b.constant(group, i64)), axis=at)

        numbers = as_type(b, q, wide)
        if scheme in ("asymmetric", "centred"):
            numbers = b.emit("sub", numbers, spread(zero) if zero is not None else b.constant(middle(bits), wide))
        product = b.emit("mul", numbers, spread(scale))
        return as_type(b, b.emit("add", product, spread(zero)) if scheme == "offset" else product, dtype)


@op
class quantized_matmul(Op):
    """x · dequantize(q, scale, zero)ᵀ + bias, a row of q for each output. The result is in x's type.

    x_bits: how kernels that compute in whole numbers take x: each group of it rounded to so many bits, in units of
      its largest size / (2^(x_bits-1) - 1); 0 where x is taken as it is.
    Shapes: x [*r, k], q integer [n, k], scale and zero [n, ceil(k / group)] ([n, 1] for group 0), bias [n] -> [*r, n].
    Flops: 2 · rows · k · n, one per output for the bias, and those of dequantize.
    """

    inputs = ("x", "q", "scale", "zero?", "bias?")
    attrs = {"bits": int, "group": Attr(int, 0), "scheme": Attr(str, "symmetric"), "x_bits": Attr(int, 0)}
    axes = "*r k!, n k!, n g!, n g!, n -> *r n"

    def infer(self, x: TensorType, q: TensorType, scale: TensorType, zero: Any = None, bias: Any = None, *,
              x_bits: int, **attrs: Any) -> TensorType:  # fmt: skip
        if q.rank != 2 or x.rank < 1 or x.shape[-1] != q.shape[1]:
            raise GraphError(
                f"quantized_matmul: needs equal inner sizes, got {x.shape[-1:]} and {q.shape[1:]}", found=f"{x} @ {q}ᵀ"
            )
        of_kind("quantized_matmul", "x", x, FLOATS)
        whole = attrs["group"] and isinstance(q.shape[1], int) and q.shape[1] % attrs["group"] == 0
        if x_bits and not (2 <= x_bits <= 16 and whole):
            raise GraphError("quantized_matmul: x_bits is 0, or 2..16 where the groups divide x's features",
                             found=f"{x_bits} bits, groups of {attrs['group']} in {q.shape[1]}")  # fmt: skip
        _check("quantized_matmul", q, scale, zero, axis=1, **attrs)
        if bias is not None and bias.shape != q.shape[:1]:
            raise GraphError("quantized_matmul: the bias does not fit the weight", found=f"{bias} for {q}")
        return x.with_shape(*x.shape[:-1], q.shape[0])

    def flops(self, out: TensorType, x: TensorType, q: TensorType, scale: Any, zero: Any = None, bias: Any = None, *,
              scheme: str, **attrs: Any) -> Dim:  # fmt: skip
        product = 2 * x.shape[-1] * out.elements + _flops(q, scheme)
        return product if bias is None else product + out.elements

    def work(self, outs: Any, types: Any, attrs: Any) -> Work:
        x, *rest = types
        return Work(self.flops(outs[0], *types, **attrs), x.bytes + _read(*rest, bits=attrs["bits"]), outs[0].bytes)

    def reference(self, x: np.ndarray, q: np.ndarray, scale: np.ndarray, zero: Any = None, bias: Any = None, *,
                  bits: int, group: int, scheme: str, x_bits: int) -> np.ndarray:  # fmt: skip
        weight = _numbers(q, scale, zero, bits=bits, group=group, axis=1, scheme=scheme)
        wide = x.astype(np.float64)
        y = (rounded(wide, x_bits, group) if x_bits else wide) @ weight.T
        return y if bias is None else y + bias

    def decompose(self, b: Any, x: Any, q: Any, scale: Any, zero: Any = None, bias: Any = None, *, x_bits: int,
                  **attrs: Any) -> Any:  # fmt: skip
        if x_bits:
            x = emit_rounded(b, x, x_bits, attrs["group"])
        weight = b.emit("dequantize", q, scale, zero, axis=1, dtype=x.type.dtype, **attrs)
        return b.emit("linear", x, b.emit("transpose", weight, perm=(1, 0)), bias)


def rounded(x: np.ndarray, bits: int, group: int) -> np.ndarray:
    """x with each group along the last axis rounded to whole multiples of its largest size / (2^(bits-1) - 1).

    >>> rounded(np.array([0.0, 1.0, 2.4, -3.0]), 3, 4)
    array([ 0.,  1.,  2., -3.])
    """
    cut = x.reshape(*x.shape[:-1], -1, group)
    unit = np.abs(cut).max(-1, keepdims=True) / (middle(bits) - 1)
    return (np.rint(np.divide(cut, unit, out=np.zeros_like(cut), where=unit != 0)) * unit).reshape(x.shape)


def emit_rounded(b: Any, x: Any, bits: int, group: int) -> Any:
    """The same in simpler ops; a group of zeros is divided by 1."""
    cut = b.emit("reshape", x, shape=(*x.type.shape[:-1], x.type.shape[-1] // group, group))
    dtype = x.type.dtype
    unit = b.emit("max", b.emit("abs", cut), axes=(cut.type.rank - 1,), keepdims=True)
    unit = b.emit("div", unit, b.constant(middle(bits) - 1, dtype))
    unit = b.emit("where", b.emit("eq", unit, b.constant(0, dtype)), b.constant(1, dtype), unit)
    return b.emit("reshape", b.emit("mul", b.emit("round", b.emit("div", cut, unit)), unit), shape=x.type.shape)


@op
class quantized_gather(Op):
    """Rows of dequantize(q, scale, zero) by their index: what an embedding is whose table is held in few bits.

    Shapes: q integer [n, k], indices integer [*i], scale and zero [n, ceil(k / group)] -> [*i, k] in `dtype`.
    Reads the rows that it takes, not all of q. Flops: those of dequantize on these rows.
    """

    inputs = ("q", "indices", "scale", "zero?")
    attrs = {
        "bits": int, "group": Attr(int, 0), "scheme": Attr(str, "symmetric"), "dtype": Attr(DType, f32),
    }  # fmt: skip
    axes = "n! k!, *i, n! g!, n! g! -> *i k!"

    def infer(self, q: TensorType, indices: TensorType, scale: TensorType, zero: Any = None, *, dtype: DType,
              **attrs: Any) -> TensorType:  # fmt: skip
        of_kind("quantized_gather", "indices", indices, INTEGERS)
        if q.rank != 2:
            raise GraphError("quantized_gather: q is a matrix", found=str(q))
        _check("quantized_gather", q, scale, zero, axis=1, **attrs)
        if not dtype.is_float:
            raise GraphError(f"quantized_gather: dtype is a float type, got {dtype}")
        return TensorType(dtype, (*indices.shape, q.shape[1]))

    def flops(self, out: TensorType, *types: Any, scheme: str, **attrs: Any) -> Dim:
        return _flops(out, scheme)

    def work(self, outs: Any, types: Any, attrs: Any) -> Work:
        q, indices, *scales = types
        rows = [TensorType(t.dtype, (*indices.shape, t.shape[1])) for t in (q, *scales) if t is not None]
        read = indices.bytes + _read(*rows, bits=attrs["bits"])
        return Work(self.flops(outs[0], **attrs), read, outs[0].bytes)

    def reference(self, q: np.ndarray, indices: np.ndarray, scale: np.ndarray, zero: Any = None, *, bits: int,
                  group: int, scheme: str, dtype: DType) -> np.ndarray:  # fmt: skip
        check_indices("quantized_gather", indices, len(q))
        zeros = None if zero is None else zero[indices]
        return _numbers(q[indices], scale[indices], zeros, bits=bits, group=group, axis=indices.ndim, scheme=scheme,
                        dtype=dtype.numpy)  # fmt: skip

    def decompose(self, b: Any, q: Any, indices: Any, scale: Any, zero: Any = None, **attrs: Any) -> Any:
        parts = [None if v is None else b.emit("gather", v, indices, axis=0) for v in (q, scale, zero)]
        return b.emit("dequantize", *parts, axis=indices.type.rank, **attrs)
