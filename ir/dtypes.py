"""Element types, by their short names (`f32`, `bf16`, `i64`, `bool`)."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np


@dataclass(frozen=True, slots=True)
class DType:
    """One element type. `bits` is the storage width; `kind` is one of float, int, uint, bool."""

    name: str
    bits: int
    kind: str

    @property
    def numpy(self) -> np.dtype:
        """The numpy type that holds it (ml_dtypes for what numpy lacks)."""
        return _NUMPY[self.name]

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_int(self) -> bool:
        return self.kind in ("int", "uint")

    def __str__(self) -> str:
        return self.name


f64 = DType("f64", 64, "float")
f32 = DType("f32", 32, "float")
f16 = DType("f16", 16, "float")
bf16 = DType("bf16", 16, "float")
i64 = DType("i64", 64, "int")
i32 = DType("i32", 32, "int")
i16 = DType("i16", 16, "int")
i8 = DType("i8", 8, "int")
u8 = DType("u8", 8, "uint")
i4 = DType("i4", 4, "int")
u4 = DType("u4", 4, "uint")
boolean = DType("bool", 8, "bool")

DTYPES: dict[str, DType] = {
    d.name: d for d in (f64, f32, f16, bf16, i64, i32, i16, i8, u8, i4, u4, boolean)
}

_NUMPY: dict[str, np.dtype] = {
    "f64": np.dtype(np.float64),
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "i64": np.dtype(np.int64),
    "i32": np.dtype(np.int32),
    "i16": np.dtype(np.int16),
    "i8": np.dtype(np.int8),
    "u8": np.dtype(np.uint8),
    "i4": np.dtype(ml_dtypes.int4),
    "u4": np.dtype(ml_dtypes.uint4),
    "bool": np.dtype(np.bool_),
}
_BY_NUMPY = {v: DTYPES[k] for k, v in _NUMPY.items()}


def from_numpy(dtype: np.dtype | type) -> DType:
    """The DType of a numpy dtype. Raises: KeyError for one that no tensor of ours can hold."""
    return _BY_NUMPY[np.dtype(dtype)]
