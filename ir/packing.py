"""Numbers of less than a byte as bytes: as many in each as fit, the first in the lowest bits (as ONNX stores them)."""

from __future__ import annotations

from math import prod

import numpy as np

from .dtypes import from_numpy
from .tensor import TensorType


def is_packed(type: TensorType) -> bool:
    """Whether a file holds several of the tensor's numbers in a byte."""
    return type.dtype.bits < 8


def packed_bytes(type: TensorType) -> int:
    """How many bytes the packed numbers take."""
    return (prod(int(str(d)) for d in type.shape) * type.dtype.bits + 7) // 8


def pack(array: np.ndarray) -> np.ndarray:
    """An i4, u4, f4e2m1, i2 or u2 array of any shape as a flat u8; what is left of the last byte is 0."""
    bits = from_numpy(array.dtype).bits
    numbers = np.ascontiguousarray(array).reshape(-1).view(np.uint8) & np.uint8((1 << bits) - 1)
    each = 8 // bits
    numbers = np.append(numbers, np.zeros(-numbers.size % each, np.uint8)).reshape(-1, each)
    out = np.zeros(len(numbers), np.uint8)
    for i in range(each):
        out |= numbers[:, i] << np.uint8(i * bits)
    return out


def unpack(data: np.ndarray, type: TensorType) -> np.ndarray:
    """The inverse of `pack`: an array of the type's shape and element type."""
    shape, bits = tuple(int(str(d)) for d in type.shape), type.dtype.bits
    each, mask, sign = 8 // bits, (1 << bits) - 1, np.uint8(1 << (bits - 1))
    numbers = np.empty((data.size, each), np.uint8)
    for i in range(each):
        numbers[:, i] = (data >> np.uint8(i * bits)) & np.uint8(mask)
    flat = numbers.reshape(-1)[: prod(shape)]
    if type.dtype.is_float:
        return flat.view(type.dtype.numpy).reshape(shape)
    if type.dtype.kind == "int":
        flat = ((flat ^ sign) - sign).view(np.int8)
    return flat.astype(type.dtype.numpy, copy=False).reshape(shape)
