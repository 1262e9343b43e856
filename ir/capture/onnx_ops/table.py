"""The form of a translation of an ONNX op, and the decorator that enters one in a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...graph import Value
    from ..from_onnx import Importer
    from ..onnx_terms import Term

    Translated = Value | Term | tuple[Value | Term | None, ...] | list[Value | Term | None]
    Translation = Callable[[Importer], Translated]


def enters(table: dict[str, Any], *names: str) -> Callable[[Translation], Translation]:
    """Registers a translation under op types; those of another domain are written with it (`com.microsoft.Gelu`)."""

    def register(function: Translation) -> Translation:
        for name in names:
            if name in table:
                raise AssertionError(f"{name} is translated twice")
            table[name] = function
        return function

    return register


def axis(index: int, rank: int) -> int:
    """A non-negative axis; a scalar has none."""
    return index % rank if rank else 0
