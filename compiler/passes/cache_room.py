"""What caches that stay in place take of memory: bytes for each place of a row, and how many places fit a machine."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ...ir import dims
from ...ir.dims import Expr
from ...ir.graph import Program
from ...ir.tensor import TensorType


@dataclass(frozen=True, slots=True)
class CacheRoom:
    """The caches of one row of one entry.

    place_bytes: by the size that says how long a cache is, what all caches of that length take for each place.
                 Caches of a fixed length are left out: nobody chooses it.
    longest:     the most places of `capacity` that fit beside the weights; None where no cache has that length.
    """

    place_bytes: dict[str, int]
    longest: int | None

    def __str__(self) -> str:
        each = ", ".join(f"{size:,} bytes for each of {name}" for name, size in self.place_bytes.items())
        return each if self.longest is None else f"{each}; {self.longest:,} places of a row fit"


def cache_room(program: Program, entry: str, held: Collection[str], free_bytes: int) -> CacheRoom:
    """held: the inputs that are caches, or are kept beside them. free_bytes: of memory, the weights taken off."""
    graph = program.functions[entry]
    each: dict[str, int] = {}
    for value in graph.inputs:
        name = _length(value.type) if value.name in held else None
        if name is not None:
            each[name] = each.get(name, 0) + _place_bytes(value.type)
    most = free_bytes // each["capacity"] if "capacity" in each else None
    high = program.symbols["capacity"].high if "capacity" in program.symbols else None
    longest = most if most is None or high is None else min(most, high)
    return CacheRoom(each, None if longest is None else max(0, longest))


def _length(type: TensorType) -> str | None:
    """The size that says how long a cache is; None where it is fixed, or several sizes vary beside its rows."""
    varying = {str(d) for d in type.shape[1:] if isinstance(d, Expr)}
    return varying.pop() if len(varying) == 1 else None


def _place_bytes(type: TensorType) -> int:
    """The bytes of one place of one row; a cache's first axis is the rows."""
    symbols = dims.symbols(dims.product(type.shape))
    return int(dims.evaluate(type.bytes, dict.fromkeys(symbols, 1)))
