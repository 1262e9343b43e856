"""Element types, by their short names (`f32`, `bf16`, `i64`, `bool`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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
    def computes(self) -> bool:
        """Whether arithmetic is done in it: a float of 8 bits or less is a code, which is rounded to on purpose."""
        return self.is_float and self.bits >= 16

    @property
    def is_int(self) -> bool:
        return self.kind in ("int", "uint")

    @property
    def significand(self) -> int:
        """Bits of a float's significand, the hidden one included."""
        return int(ml_dtypes.finfo(self.numpy).nmant) + 1

    @property
    def exponent(self) -> int:
        """Bits of a float's exponent."""
        return int(ml_dtypes.finfo(self.numpy).nexp)

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest finite number that it holds; exact for all but 64-bit integers."""
        if self.kind == "bool":
            return 0.0, 1.0
        info: Any = ml_dtypes.finfo(self.numpy) if self.is_float else ml_dtypes.iinfo(self.numpy)
        return float(info.min), float(info.max)

    def __str__(self) -> str:
        return self.name


# name, bits, kind, and the numpy type that holds it.
_ROWS: tuple[tuple[str, int, str, Any], ...] = (
    ("f64", 64, "float", np.float64),
    ("f32", 32, "float", np.float32),
    ("f16", 16, "float", np.float16),
    ("bf16", 16, "float", ml_dtypes.bfloat16),
    ("f8e4m3", 8, "float", ml_dtypes.float8_e4m3fn),
    ("f8e5m2", 8, "float", ml_dtypes.float8_e5m2),
    ("f8e4m3fnuz", 8, "float", ml_dtypes.float8_e4m3fnuz),
    ("f8e5m2fnuz", 8, "float", ml_dtypes.float8_e5m2fnuz),
    ("f8e8m0", 8, "float", ml_dtypes.float8_e8m0fnu),
    ("f4e2m1", 4, "float", ml_dtypes.float4_e2m1fn),
    ("i64", 64, "int", np.int64),
    ("i32", 32, "int", np.int32),
    ("i16", 16, "int", np.int16),
    ("i8", 8, "int", np.int8),
    ("i4", 4, "int", ml_dtypes.int4),
    ("i2", 2, "int", ml_dtypes.int2),
    ("u64", 64, "uint", np.uint64),
    ("u32", 32, "uint", np.uint32),
    ("u16", 16, "uint", np.uint16),
    ("u8", 8, "uint", np.uint8),
    ("u4", 4, "uint", ml_dtypes.uint4),
    ("u2", 2, "uint", ml_dtypes.uint2),
    ("bool", 8, "bool", np.bool_),
)
DTYPES: dict[str, DType] = {name: DType(name, bits, kind) for name, bits, kind, _ in _ROWS}
_NUMPY: dict[str, np.dtype] = {name: np.dtype(held) for name, _, _, held in _ROWS}
_BY_NUMPY = {v: DTYPES[k] for k, v in _NUMPY.items()}

f64, f32, f16, bf16 = (DTYPES[n] for n in ("f64", "f32", "f16", "bf16"))
i64, i32, i16, i8, i4 = (DTYPES[n] for n in ("i64", "i32", "i16", "i8", "i4"))
u64, u32, u16, u8, u4 = (DTYPES[n] for n in ("u64", "u32", "u16", "u8", "u4"))
boolean = DTYPES["bool"]


def from_numpy(dtype: np.dtype | type) -> DType:
    """The DType of a numpy dtype. Raises: KeyError for one that no tensor of ours can hold."""
    return _BY_NUMPY[np.dtype(dtype)]
