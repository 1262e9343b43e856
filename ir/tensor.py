"""The type of a value, and the count of work that an op does."""

from __future__ import annotations

from dataclasses import dataclass

from . import dims
from .dims import Dim
from .dtypes import DType


@dataclass(frozen=True, slots=True)
class TensorType:
    """An element type and a shape of dims: `f32[batch, seq, 768]`."""

    dtype: DType
    shape: tuple[Dim, ...] = ()

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def elements(self) -> Dim:
        return dims.product(self.shape)

    @property
    def bytes(self) -> Dim:
        """Storage in bytes; types under 8 bits are packed, and rounded up."""
        if self.dtype.bits >= 8:
            return self.elements * (self.dtype.bits // 8)
        return (self.elements * self.dtype.bits + 7) // 8

    def with_shape(self, *shape: Dim) -> TensorType:
        return TensorType(self.dtype, shape)

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, slots=True)
class Work:
    """What one run of an op does: counts, never seconds. Symbolic in the program's symbols."""

    flops: Dim = 0
    read_bytes: Dim = 0
    written_bytes: Dim = 0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.flops + other.flops,
            self.read_bytes + other.read_bytes,
            self.written_bytes + other.written_bytes,
        )

    def __mul__(self, times: Dim) -> Work:
        return Work(self.flops * times, self.read_bytes * times, self.written_bytes * times)

    def at(self, bindings: dims.Bindings) -> Work:
        """The same with all symbols bound to sizes."""
        return Work(
            *(
                dims.evaluate(d, bindings)
                for d in (self.flops, self.read_bytes, self.written_bytes)
            )
        )
