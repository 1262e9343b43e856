"""Ops that move elements and compute none, on sizes: run on the elements' numbers, which then tell where each went."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .onnx_terms import Term, objects, of_dims

if TYPE_CHECKING:
    from .from_onnx import Importer

# op -> the inputs whose elements it moves, None for all; the others say where to.
MOVES: dict[str, tuple[int, ...] | None] = {
    "Compress": (0,), "Concat": None, "Expand": (0,), "Flatten": (0,), "Gather": (0,), "GatherElements": (0,),
    "GatherND": (0,), "Reshape": (0,), "ReverseSequence": (0,), "ScatterElements": (0, 2), "ScatterND": (0, 2),
    "Slice": (0,), "Split": (0,), "Squeeze": (0,), "Tile": (0,), "Transpose": (0,), "Unsqueeze": (0,), "Where": (1, 2),
}  # fmt: skip
Run = Callable[[], list[Term | None]]


def moved(key: str, to: Importer, given: Sequence[Term | None], run: Run) -> list[Term | None] | None:
    """The outputs of the node at hand; None where it moves no sizes. `run` computes it on plain contents."""
    chosen = MOVES.get(key, ())
    places = [i for i in range(len(given)) if chosen is None or i in chosen]
    data = [given[i] for i in places]
    if not any(t is not None and t.content is not None and not t.plain for t in data):
        return None
    rest = [t for i, t in enumerate(given) if i not in places and t is not None]
    if not all(t is not None and t.small for t in data) or not all(t.plain for t in rest):
        return None
    if to.attr("reduction", "none") != "none":
        return None
    elements: list[Any] = []
    coded: dict[str, Term] = {}
    for i, term in zip(places, data, strict=True):
        assert term is not None and term.content is not None
        numbers = np.arange(len(elements), len(elements) + term.content.size, dtype=np.int64)
        elements.extend(objects(term).flat)
        coded[to.node.input[i]] = Term(term.dtype, term.shape, content=numbers.reshape(term.content.shape))
    outer, to.scope = to.scope, {**to.scope, **coded}
    try:
        results = run()
    finally:
        to.scope = outer
    return [None if r is None else _named(r, elements) for r in results]


def _named(result: Term, elements: Sequence[Any]) -> Term:
    """The result with the elements in the place of their numbers."""
    assert result.content is not None, "it was computed"
    found = np.empty(result.content.shape, object)
    for place, number in np.ndenumerate(result.content):
        found[place] = elements[int(number)]
    return of_dims(found, result.dtype)
