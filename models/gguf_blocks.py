"""The blocks of a gguf file as plain arrays: whole numbers, and what each group is multiplied by and moved by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from .errors import ModelError
from .gguf_header import Header, Tensor, tensor_bytes

Unpack = Callable[[np.ndarray], np.ndarray]  # blocks u8[n, bytes] -> [n, numbers] or [n, groups]
Rearrange = Callable[[np.ndarray], np.ndarray]
DTYPES: Mapping[str, Any] = {
    "i4": ml_dtypes.int4, "u4": ml_dtypes.uint4, "i8": np.int8, "u8": np.uint8, "f16": np.float16, "f32": np.float32,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Form:
    """A type of block. A number is q · scale (symmetric), (q - 2^(bits-1)) · scale (centred) or q · scale + zero
    (offset), each rounded to f32 once. Four and eight bits are held centred, as kernels for them take them.

    numbers, size_bytes: of a block. group: numbers that share a scale. dtype, bits: of q; scale_dtype: of the others.
    """

    numbers: int
    size_bytes: int
    group: int
    dtype: str
    bits: int
    scale_dtype: str
    q: Unpack
    scale: Unpack
    zero: Unpack | None = None

    @property
    def scheme(self) -> str:
        if self.zero is not None:
            return "offset"
        return "centred" if self.dtype in ("u4", "u8") else "symmetric"


@dataclass(frozen=True, slots=True)
class Part:
    """One plain array of a weight, read from the file each time that it is asked for."""

    header: Header
    tensor: Tensor
    dtype: str
    shape: tuple[int, ...]
    unpack: Unpack
    rearrange: Rearrange

    def read(self) -> np.ndarray:
        """The array, of this shape and element type. Raises: ModelError when the file is gone."""
        return self.rearrange(_plain(self.header, self.tensor, self.unpack, self.dtype))


@dataclass(frozen=True, slots=True)
class Blocks:
    """A quantised weight: what `dequantize(q, scale, zero)` needs. zero is there for scheme "offset" alone."""

    bits: int
    group: int
    axis: int
    scheme: str
    q: Part
    scale: Part
    zero: Part | None = None


def blocks_of(header: Header, tensor: Tensor, rearrange: Rearrange) -> Blocks | str:
    """The tensor's plain arrays, in the order of the parameter that `rearrange` makes of it; or why that cannot be.

    rearrange: moves whole rows, or turns the matrix; what it does to the numbers it must do to the scales.
    """
    form = FORMS.get(tensor.type)
    if form is None:
        return f"{tensor.type} blocks have no plain form"
    try:
        shapes = [rearrange(placeholder(shape)).shape for shape in (tensor.shape, _groups(tensor, form))]
    except (ValueError, IndexError):
        return "its rows are cut into other shapes"
    apart = [i for i, (a, b) in enumerate(zip(*shapes, strict=True)) if a != b]
    if len(apart) != 1 or shapes[0][apart[0]] != shapes[1][apart[0]] * form.group:
        return "its blocks do not stay along one axis"

    def part(unpack: Unpack, dtype: str, shape: tuple[int, ...]) -> Part:
        return Part(header, tensor, dtype, shape, unpack, rearrange)

    zero = None if form.zero is None else part(form.zero, form.scale_dtype, shapes[1])
    return Blocks(form.bits, form.group, apart[0], form.scheme, part(form.q, form.dtype, shapes[0]),
                  part(form.scale, form.scale_dtype, shapes[1]), zero)  # fmt: skip


def placeholder(shape: tuple[int, ...]) -> np.ndarray:
    """An array of that shape which takes no memory."""
    return np.broadcast_to(np.uint8(0), shape)


def _groups(tensor: Tensor, form: Form) -> tuple[int, ...]:
    return (*tensor.shape[:-1], tensor.shape[-1] // form.group)


def _plain(header: Header, tensor: Tensor, unpack: Unpack, dtype: str) -> np.ndarray:
    form = FORMS[tensor.type]
    try:
        raw = tensor_bytes(header, tensor)
    except (OSError, ValueError) as error:
        raise ModelError(f"{header.path} was changed after it was read") from error
    found = unpack(raw.reshape(-1, form.size_bytes))
    return np.ascontiguousarray(found).astype(DTYPES[dtype], copy=False).reshape(*tensor.shape[:-1], -1)


# -- what stands where in a block ------------------------------------------------------------------------
# Source: ggml's block structures, https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h


def _half(at: int) -> Unpack:
    """The f16 at a byte."""
    return lambda b: np.ascontiguousarray(b[:, at : at + 2]).view(np.float16)


def _planes(b: np.ndarray, at: int, run: int, count: int, bits: int) -> np.ndarray:
    """Numbers packed in planes: runs of `run` bytes whose lowest bits are the first `run` numbers, and so on.

    u8[n, numbers], from `count` bytes at `at`.
    """
    runs = b[:, at : at + count].reshape(len(b), -1, 1, run)
    shifts = np.arange(0, 8, bits, dtype=np.uint8).reshape(-1, 1)
    return ((runs >> shifts) & np.uint8((1 << bits) - 1)).reshape(len(b), -1)


def _nibbles(at: int) -> Unpack:
    return lambda b: _planes(b, at, 16, 16, 4)


def _five(high_at: int, less: int = 0) -> Unpack:
    """Four low bits after the 32 fifth bits."""

    def unpack(b: np.ndarray) -> np.ndarray:
        high = np.unpackbits(b[:, high_at : high_at + 4], axis=1, bitorder="little")
        return (_planes(b, high_at + 4, 16, 16, 4) | (high << np.uint8(4))).view(np.int8) - np.int8(less)

    return unpack


_NONLINEAR = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8
)  # fmt: skip


def _q3(b: np.ndarray) -> np.ndarray:
    """Two low bits; the third, at the start of the block, says that 4 is not taken off."""
    keep = _planes(b, 0, 32, 32, 1).view(np.int8)
    return _planes(b, 32, 32, 64, 2).view(np.int8) - np.int8(4) * (np.int8(1) - keep)


def _q3_scale(b: np.ndarray) -> np.ndarray:
    """16 scales of six bits: the low four in 8 bytes, the high two in 4."""
    six = _planes(b, 96, 8, 8, 4) | (_planes(b, 104, 4, 4, 2) << np.uint8(4))
    return _half(108)(b).astype(np.float32) * (six.view(np.int8) - np.int8(32)).astype(np.float32)


def _q5k(b: np.ndarray) -> np.ndarray:
    return _planes(b, 48, 32, 128, 4) | (_planes(b, 16, 32, 32, 1) << np.uint8(4))


def _six(b: np.ndarray, at: int) -> np.ndarray:
    """8 numbers of six bits in 12 bytes: scales for at 0, minima for at 4."""
    low, top = b[:, 4 + at : 8 + at], b[:, 12:16]
    first = low & np.uint8(0x3F)
    last = ((top >> np.uint8(at)) & np.uint8(0x0F)) | ((low >> np.uint8(2)) & np.uint8(0x30))
    return np.concatenate([first, last], axis=1)


def _k_scale(b: np.ndarray) -> np.ndarray:
    return _half(0)(b).astype(np.float32) * _six(b, 0).astype(np.float32)


def _k_zero(b: np.ndarray) -> np.ndarray:
    return -(_half(2)(b).astype(np.float32) * _six(b, 4).astype(np.float32))


def _q6(b: np.ndarray) -> np.ndarray:
    return (_planes(b, 0, 64, 128, 4) | (_planes(b, 128, 32, 64, 2) << np.uint8(4))).view(np.int8) - np.int8(32)


def _q6_scale(b: np.ndarray) -> np.ndarray:
    return _half(208)(b).astype(np.float32) * b[:, 192:208].view(np.int8).astype(np.float32)


def _q2_scale(b: np.ndarray) -> np.ndarray:
    return _half(80)(b).astype(np.float32) * (b[:, :16] & np.uint8(0x0F)).astype(np.float32)


def _q2_zero(b: np.ndarray) -> np.ndarray:
    return -(_half(82)(b).astype(np.float32) * (b[:, :16] >> np.uint8(4)).astype(np.float32))


FORMS: Mapping[str, Form] = {
    "Q4_0": Form(32, 18, 32, "u4", 4, "f16", _nibbles(2), _half(0)),
    "Q4_1": Form(32, 20, 32, "u4", 4, "f16", _nibbles(4), _half(0), _half(2)),
    "Q5_0": Form(32, 22, 32, "i8", 5, "f16", _five(2, 16), _half(0)),
    "Q5_1": Form(32, 24, 32, "u8", 5, "f16", _five(4), _half(0), _half(2)),
    "Q8_0": Form(32, 34, 32, "u8", 8, "f16", lambda b: b[:, 2:] ^ np.uint8(0x80), _half(0)),
    "IQ4_NL": Form(32, 18, 32, "i8", 8, "f16", lambda b: _NONLINEAR[_planes(b, 2, 16, 16, 4)], _half(0)),
    "Q2_K": Form(256, 84, 16, "u4", 2, "f32", lambda b: _planes(b, 16, 32, 64, 2), _q2_scale, _q2_zero),
    "Q3_K": Form(256, 110, 16, "i4", 3, "f32", _q3, _q3_scale),
    "Q4_K": Form(256, 144, 32, "u4", 4, "f32", lambda b: _planes(b, 16, 32, 128, 4), _k_scale, _k_zero),
    "Q5_K": Form(256, 176, 32, "u8", 5, "f32", _q5k, _k_scale, _k_zero),
    "Q6_K": Form(256, 210, 16, "i8", 6, "f32", _q6, _q6_scale),
}  # fmt: skip
