"""The form of a translation of an ONNX op, and the decorator that enters one in a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ...diagnostics import CaptureError
from ...dtypes import DTYPES

if TYPE_CHECKING:
    from ...dims import Dim
    from ...graph import Value
    from ..from_onnx import Importer
    from ..onnx_terms import Term

    Translated = Value | Term | Sequence[Value | Term | None]
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
    """The axis counted from the front; a scalar has none. Raises: CaptureError outside of the tensor."""
    if not -max(rank, 1) <= index < max(rank, 1):
        raise CaptureError(f"axis {index} is outside a tensor of {rank} axes")
    return index % rank if rank else 0


def scalar(to: Importer, number: float, like: Value, dtype: str = "") -> Value:
    """A number in the element type of `like`, or in that of the name."""
    return to.constant(number, DTYPES[dtype] if dtype else like.type.dtype)


def number(to: Importer, i: int, what: str) -> Any:
    """The one element of input i. Raises: Unsettled; CaptureError where there are more."""
    array = to.content(i, what)
    if array.size != 1:
        raise CaptureError(f"{to.op}: its {what} is one number, got {array.size}")
    return array.item()


def sizes(to: Importer, i: int, what: str) -> tuple[Dim, ...]:
    """The elements of input i as sizes. Raises: Unsettled; CaptureError on a negative one."""
    found = to.dims(i, what)
    if any(isinstance(d, int) and d < 0 for d in found):
        raise CaptureError(f"{to.op}: its {what} is {list(map(str, found))}, with a negative size")
    return found


def one_size(to: Importer, i: int, what: str) -> Dim:
    """The one element of input i, as a size or what else is computed from sizes. Raises: as `number`."""
    found = to.dims(i, what)
    if len(found) != 1:
        raise CaptureError(f"{to.op}: its {what} is one number, got {len(found)}")
    return found[0]
