"""Casts that a decomposition puts in where statistics must stay in f32."""

from __future__ import annotations

from typing import Any

from ..dtypes import DType, f32


def statistics_dtype(dtype: DType) -> DType:
    """What sums and exponentials over values of this type are kept in: f32 or wider."""
    return f32 if dtype.bits < 32 else dtype


def as_type(b: Any, x: Any, dtype: DType) -> Any:
    """The value in that type; itself where it has it already."""
    return x if x.type.dtype == dtype else b.emit("cast", x, dtype=dtype)
