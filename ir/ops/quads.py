"""Quantised matrices as dot-product instructions read them: four numbers along k beside each other, in panels.

Such an instruction multiplies four bytes of a column with four of x, and adds all to one sum. Eight numbers of four
bits lie in four bytes: those of the lower halves first, then those of the upper.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..diagnostics import GraphError
from ..dims import Dim
from ..dtypes import DTYPES, DType, f32, u8
from ..op import Attr, Op, get, op
from ..tensor import TensorType, Work
from .checks import INTEGERS, check_indices, of_kind

QUAD = 4
BITS = (4, 8)


def deep_of(bits: int) -> int:
    """Numbers along k in the four bytes of a column."""
    return QUAD * 8 // bits


@op
class to_quads(Op):
    """Numbers [n, k] as panels of `width` columns of quads; columns that are missing in the last panel are 0.

    Shapes: q [n, k] -> u8 [ceil(n / width), k / deep, width, 4], deep = 32 / bits.
    """

    inputs = ("q",)
    attrs = {"width": int, "bits": int}
    axes = "n! k! -> p! d! w! z!"
    pure_move = True

    def infer(self, q: TensorType, *, width: int, bits: int) -> TensorType:
        of_kind("to_quads", "q", q, INTEGERS)
        n, k = (*q.shape, 0, 0)[:2]
        if q.rank != 2 or not (isinstance(n, int) and isinstance(k, int)) or bits not in BITS or width < 1:
            raise GraphError("to_quads: takes a matrix of numbers of 4 or 8 bits", found=str(q))
        if k % deep_of(bits):
            raise GraphError(f"to_quads: {k} numbers are no multiple of {deep_of(bits)}")
        return TensorType(u8, (-(-n // width), k // deep_of(bits), width, QUAD))

    def flops(self, out: TensorType, *types: Any, **attrs: Any) -> Dim:
        return 0

    def reference(self, q: np.ndarray, *, width: int, bits: int) -> np.ndarray:
        n, k = q.shape
        panels = -(-n // width)
        wide = np.zeros((panels * width, k), np.uint8)
        wide[:n] = q.astype(np.uint8)
        cut = wide.reshape(panels, width, k // deep_of(bits), -1, QUAD)  # p w d half z
        packed = cut[:, :, :, 0] if bits == 8 else cut[:, :, :, 0] | (cut[:, :, :, 1] << 4)
        return np.ascontiguousarray(packed.transpose(0, 2, 1, 3))


@op
class from_quads(Op):
    """The matrix of so many columns that quads were made of.

    Shapes: x u8 [ceil(n / width), k / deep, width, 4] -> [n, k] of u8, n = columns.
    """

    inputs = ("x",)
    attrs = {"columns": int, "bits": int}
    axes = "p! d! w! z! -> n! k!"
    pure_move = True

    def infer(self, x: TensorType, *, columns: int, bits: int) -> TensorType:
        if x.rank != 4 or x.shape[3] != QUAD or not all(isinstance(d, int) for d in x.shape) or bits not in BITS:
            raise GraphError("from_quads: takes quads [p, d, width, 4]", found=str(x))
        panels, deep, width, _ = x.shape
        if columns < 1 or -(-columns // width) != panels:
            raise GraphError(f"from_quads: {panels} panels of {width} do not make {columns} columns")
        return TensorType(DTYPES[f"u{bits}"], (columns, deep * deep_of(bits)))

    def flops(self, out: TensorType, *types: Any, **attrs: Any) -> Dim:
        return 0

    def reference(self, x: np.ndarray, *, columns: int, bits: int) -> np.ndarray:
        panels, deep, width, _ = x.shape
        halves = [x] if bits == 8 else [x & 15, x >> 4]
        wide = np.stack(halves, 3).transpose(0, 2, 1, 3, 4)  # p w d half z
        rows = wide.reshape(panels * width, deep * deep_of(bits))[:columns]
        return np.ascontiguousarray(rows).astype(DTYPES[f"u{bits}"].numpy)


def _plain(b: Any, quads: Any, parts: Any, columns: int, bits: int) -> list[Any]:
    """q [n, k], and what stands beside it [n, k / group]."""
    rows = [None if p is None else b.emit("transpose", b.emit("from_panels", p, columns=columns), perm=(1, 0))
            for p in parts]  # fmt: skip
    return [b.emit("from_quads", quads, columns=columns, bits=bits), *rows]


def _arrays(quads: Any, parts: Any, columns: int, bits: int) -> list[Any]:
    plain = get("from_panels")
    rows = [None if p is None else np.asarray(plain.reference(p, columns=columns)).T for p in parts]
    return [get("from_quads").reference(quads, columns=columns, bits=bits), *rows]


def _types(quads: TensorType, parts: Any, columns: int, bits: int) -> list[Any]:
    found: list[Any] = [get("from_quads").infer(quads, columns=columns, bits=bits)]
    for p in parts:
        wide: Any = None if p is None else get("from_panels").infer(p, columns=columns)
        found.append(None if wide is None else wide.with_shape(wide.shape[1], wide.shape[0]))
    return found


@op
class quad_linear(Op):
    """`quantized_matmul` of a weight that is held in quads, its scales and zeros in panels.

    Shapes: x [*r, k], quads [p, k / deep, width, 4], scale and zero [p, k / group, width], bias [n] -> [*r, n],
    n = columns. Flops and bytes: those of `quantized_matmul`.
    """

    inputs = ("x", "quads", "scale", "zero?", "bias?")
    attrs = {"columns": int, "bits": int, "group": int, "scheme": Attr(str, "centred"), "x_bits": Attr(int, 0)}
    axes = "*r k!, p! d! w! z!, p! g! w!, p! g! w!, n! -> *r n!"

    def infer(self, x: TensorType, quads: TensorType, scale: TensorType, zero: Any = None, bias: Any = None, *,
              columns: int, bits: int, **attrs: Any) -> TensorType:  # fmt: skip
        rows = _types(quads, (scale, zero), columns, bits)
        y: Any = get("quantized_matmul").infer(x, *rows, bias, bits=bits, **attrs)
        return y

    def flops(self, out: TensorType, x: TensorType, quads: TensorType, scale: Any, zero: Any = None, bias: Any = None,
              *, columns: int, bits: int, **attrs: Any) -> Dim:  # fmt: skip
        rows = _types(quads, (scale, zero), columns, bits)
        return get("quantized_matmul").flops(out, x, *rows, bias, bits=bits, **attrs)

    def work(self, outs: Any, types: Any, attrs: Any) -> Work:
        read = sum((t.bytes for t in types if t is not None), start=0)
        return Work(self.flops(outs[0], *types, **attrs), read, outs[0].bytes)

    def reference(self, x: np.ndarray, quads: Any, scale: Any, zero: Any = None, bias: Any = None, *, columns: int,
                  bits: int, **attrs: Any) -> np.ndarray:  # fmt: skip
        rows = _arrays(quads, (scale, zero), columns, bits)
        return np.asarray(get("quantized_matmul").reference(x, *rows, bias, bits=bits, **attrs))

    def decompose(self, b: Any, x: Any, quads: Any, scale: Any, zero: Any = None, bias: Any = None, *, columns: int,
                  bits: int, **attrs: Any) -> Any:  # fmt: skip
        return b.emit("quantized_matmul", x, *_plain(b, quads, (scale, zero), columns, bits), bias, bits=bits, **attrs)


@op
class quad_gather(Op):
    """`quantized_gather` of a table that is held in quads, as a tied embedding is.

    Shapes: quads [p, k / deep, width, 4], indices integer [*i], scale and zero [p, k / group, width] -> [*i, k].
    Reads the columns that it takes, not all of the quads.
    """

    inputs = ("quads", "indices", "scale", "zero?")
    attrs = {"columns": int, "bits": int, "group": int, "scheme": Attr(str, "centred"), "dtype": Attr(DType, f32)}
    axes = "p! d! w! z!, *i, p! g! w!, p! g! w! -> *i k!"

    def infer(self, quads: TensorType, indices: TensorType, scale: TensorType, zero: Any = None, *, columns: int,
              bits: int, **attrs: Any) -> TensorType:  # fmt: skip
        q, *rows = _types(quads, (scale, zero), columns, bits)
        y: Any = get("quantized_gather").infer(q, indices, *rows, bits=bits, **attrs)
        return y

    def flops(self, out: TensorType, *types: Any, scheme: str, **attrs: Any) -> Dim:
        return get("quantized_gather").flops(out, scheme=scheme)

    def work(self, outs: Any, types: Any, attrs: Any) -> Work:
        row = outs[0].elements
        read = types[1].bytes + row * attrs["bits"] // 8 + row // attrs["group"] * (types[2].dtype.bits // 8)
        return Work(self.flops(outs[0], scheme=attrs["scheme"]), read, outs[0].bytes)

    def reference(self, quads: np.ndarray, indices: np.ndarray, scale: Any, zero: Any = None, *, columns: int,
                  bits: int, **attrs: Any) -> np.ndarray:  # fmt: skip
        check_indices("quad_gather", indices, columns)
        q, *rows = _arrays(quads, (scale, zero), columns, bits)
        return np.asarray(get("quantized_gather").reference(q, indices, *rows, bits=bits, **attrs))

    def decompose(self, b: Any, quads: Any, indices: Any, scale: Any, zero: Any = None, *, columns: int, bits: int,
                  **attrs: Any) -> Any:  # fmt: skip
        q, *rows = _plain(b, quads, (scale, zero), columns, bits)
        return b.emit("quantized_gather", q, indices, *rows, bits=bits, **attrs)
