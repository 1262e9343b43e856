"""Slices and stacks of terms, which stay known where they are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...diagnostics import CaptureError
from ...dims import Dim
from ..onnx_terms import LARGEST, Term, of_value

if TYPE_CHECKING:
    from ..from_onnx import Importer


def part(to: Importer, term: Term, at: int, start: Dim, stop: Dim) -> Term:
    """Elements start..stop - 1 along one axis."""
    if term.content is not None and isinstance(start, int) and isinstance(stop, int):
        content = term.content[(*[slice(None)] * at, slice(start, stop))]
        return Term(term.dtype, content.shape, content=content)
    return of_value(to.emit("slice", to.valued(term), axis=at, start=start, stop=stop))


def shaped(to: Importer, term: Term, shape: Sequence[Dim]) -> Term:
    """The same elements in another shape."""
    if term.shape == tuple(shape):
        return term
    if term.content is not None and all(isinstance(d, int) for d in shape):
        content = term.content.reshape([int(str(d)) for d in shape])
        return Term(term.dtype, content.shape, content=content)
    return of_value(to.emit("reshape", to.valued(term), shape=tuple(shape)))


def joined(to: Importer, terms: Sequence[Term], at: int) -> Term:
    """One after the other along an axis. Raises: CaptureError where there are none."""
    if not terms:
        raise CaptureError(f"{to.op}: joins no tensors, whose shape is not known")
    if len(terms) == 1:
        return terms[0]
    arrays = [t.content for t in terms]
    if all(a is not None for a in arrays) and sum(a.size for a in arrays if a is not None) <= LARGEST:
        content = np.concatenate([a for a in arrays if a is not None], at)
        return Term(terms[0].dtype, content.shape, content=content)
    return of_value(to.emit("concat", *(to.valued(t) for t in terms), axis=at))


def picked(to: Importer, term: Term, at: int, i: int) -> Term:
    """Place i of an axis, which goes."""
    one = part(to, term, at, i, i + 1)
    return shaped(to, one, (*one.shape[:at], *one.shape[at + 1 :]))


def stacked(to: Importer, terms: Sequence[Term], at: int) -> Term:
    """Along a new axis."""
    return joined(to, [shaped(to, t, (*t.shape[:at], 1, *t.shape[at:])) for t in terms], at)
