"""The form of a translation, and the decorator that enters one in a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_torch import Translator
    from ..triangles import Triangle

    Translated = Value | Triangle | tuple[Value, ...] | list[Value]
    Translation = Callable[[Translator], Translated]


def enters(table: dict[str, Any], *names: str) -> Callable[[Translation], Translation]:
    """Registers a translation under ATen names, given without `aten.`."""

    def register(function: Translation) -> Translation:
        for name in names:
            full = name if name.startswith("tundish.") else f"aten.{name}"
            if full in table:
                raise AssertionError(f"{full} is translated twice")
            table[full] = function
        return function

    return register


def axis(index: int, rank: int) -> int:
    """A non-negative axis."""
    return index % rank if rank else 0


def axes(dims: Any, rank: int) -> tuple[int, ...]:
    """Non-negative, ascending axes; none given means all."""
    if dims is None or dims == []:
        return tuple(range(rank))
    listed = dims if isinstance(dims, (list, tuple)) else [dims]
    return tuple(sorted(axis(int(d), rank) for d in listed))
