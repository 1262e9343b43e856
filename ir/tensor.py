"""The type of a value, and the count of work that an op does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import dims
from .dims import Dim
from .dtypes import DType

SAME: Any = object()  # stands for "as many as the other column"

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
    """What one run of an op does: counts, never seconds. Symbolic in the program's symbols.

    flops:          what the model asks for: of causal attention the pairs that the mask allows.
    hardware_flops: what a dense kernel does; the same as `flops` where nothing else is given.
    """

    flops: Dim = 0
    read_bytes: Dim = 0
    written_bytes: Dim = 0
    hardware_flops: Dim = SAME

    def __post_init__(self) -> None:
        if self.hardware_flops is SAME:
            object.__setattr__(self, "hardware_flops", self.flops)

    @property
    def bytes(self) -> Dim:
        """Read and written."""
        return self.read_bytes + self.written_bytes

    @property
    def counts(self) -> dict[str, Dim]:
        """By name, in the order in which tables show them."""
        return {
            "flops": self.flops, "hardware_flops": self.hardware_flops, "read_bytes": self.read_bytes,
            "written_bytes": self.written_bytes,
        }  # fmt: skip

    def __add__(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(self._parts, other._parts, strict=True)))

    def __mul__(self, times: Dim) -> Work:
        return Work(*(a * times for a in self._parts))

    def at(self, bindings: dims.Bindings) -> Work:
        """The same with all symbols bound to sizes."""
        return Work(*(dims.evaluate(d, bindings) for d in self._parts))

    def substituted(self, bindings: dims.Bindings) -> Work:
        """The same with some symbols bound; the others stay."""
        return Work(*(dims.substitute(d, bindings) for d in self._parts))

    @property
    def _parts(self) -> tuple[Dim, Dim, Dim, Dim]:
        return self.flops, self.read_bytes, self.written_bytes, self.hardware_flops
