"""The text form of programs: `from_text(to_text(p))` is `p`. Golden tests, bug reports and bundles all use it."""

from __future__ import annotations

from .graph import Program
from .text_parse import from_text
from .text_print import to_text

parse = from_text


def same(left: Program, right: Program) -> bool:
    """Whether two programs are one: names, order, types, attributes, places, weights' sources, symbols.

    Arrays held in memory are not compared, only that they are held.
    """
    return to_text(left) == to_text(right)


__all__ = ["from_text", "parse", "same", "to_text"]
