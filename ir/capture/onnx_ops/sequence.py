"""ONNX's sequences and optionals: lists of tensors whose length is known while a file is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...diagnostics import CaptureError
from ...dims import Dim
from ...dtypes import boolean, i64
from ..onnx_terms import Term
from .pieces import joined, part, shaped, stacked
from .table import axis, enters

if TYPE_CHECKING:
    from ..from_onnx import Importer

TABLE: dict[str, Any] = {}


def _sequence(items: list[Term], like: Term | None = None) -> Term:
    first = items[0] if items else like
    return Term(first.dtype if first is not None else boolean, (), items=tuple(items))


def _items(to: Importer, i: int) -> list[Term]:
    term = to.term(i)
    if term.items is None:
        raise CaptureError(f"{to.op}: input {i} is no sequence")
    return list(term.items)


def _place(to: Importer, i: int, count: int, past_end: int = 0) -> int:
    """A known position counted from the front; `past_end` of 1 allows the end itself."""
    found = to.ints(i, "position")
    if len(found) != 1 or not -count <= found[0] < count + past_end:
        raise CaptureError(f"{to.op}: position {list(found)} is outside a sequence of {count}")
    return found[0] + count if found[0] < 0 else found[0]


@enters(TABLE, "SequenceConstruct")
def _(to: Importer) -> Term:
    return _sequence([to.term(i) for i in range(to.count)])


@enters(TABLE, "SequenceEmpty")
def _(to: Importer) -> Term:
    return Term(to.dtype(to.attr("dtype", 1)), (), items=())


@enters(TABLE, "SequenceAt")
def _(to: Importer) -> Term:
    items = _items(to, 0)
    return items[_place(to, 1, len(items))]


@enters(TABLE, "SequenceInsert")
def _(to: Importer) -> Term:
    items = _items(to, 0)
    at = _place(to, 2, len(items), past_end=1) if to.has(2) else len(items)
    return _sequence([*items[:at], to.term(1), *items[at:]])


@enters(TABLE, "SequenceErase")
def _(to: Importer) -> Term:
    items = _items(to, 0)
    at = _place(to, 1, len(items)) if to.has(1) else len(items) - 1
    if not items:
        raise CaptureError("SequenceErase: the sequence is empty")
    return _sequence(items[:at] + items[at + 1 :], to.term(0))


@enters(TABLE, "SequenceLength")
def _(to: Importer) -> Term:
    return Term(i64, (), content=np.asarray(len(_items(to, 0)), np.int64))


@enters(TABLE, "SplitToSequence")
def _(to: Importer) -> Term:
    """Pieces of one (whose axis may go), of one size, or of the sizes listed."""
    x = to.term(0)
    at = axis(to.attr("axis", 0), len(x.shape))
    if not x.shape:
        raise CaptureError("SplitToSequence: a scalar cannot be split")
    size, sizes = x.shape[at], None
    if to.has(1) and len(to.term(1).shape) == 1:
        sizes = list(to.dims(1, "split"))
    elif isinstance(size, int):
        each = to.ints(1, "split")[0] if to.has(1) else 1
        if each < 1 or size // each > _MOST:
            raise CaptureError(f"SplitToSequence: {size} elements in pieces of {each}")
        sizes = [min(each, size - i) for i in range(0, size, each)]
    if sizes is None:
        raise CaptureError(f"SplitToSequence: axis {at} is {size}, which varies", hint="fix that size")
    if any(isinstance(s, int) and s < 0 for s in sizes) or sum(sizes, start=0) != size:
        raise CaptureError(f"SplitToSequence: pieces of {', '.join(map(str, sizes))} do not make {size}")
    pieces: list[Term] = []
    start: Dim = 0
    for s in sizes:
        pieces.append(part(to, x, at, start, start + s))
        start = start + s
    if not to.has(1) and not to.attr("keepdims", 1):
        pieces = [shaped(to, p, (*p.shape[:at], *p.shape[at + 1 :])) for p in pieces]
    return _sequence(pieces, x)


_MOST = 4096


@enters(TABLE, "ConcatFromSequence")
def _(to: Importer) -> Term:
    items, new = _items(to, 0), bool(to.attr("new_axis", 0))
    if not items:
        raise CaptureError("ConcatFromSequence: the sequence is empty")
    at = axis(to.attr("axis"), len(items[0].shape) + new)
    return stacked(to, items, at) if new else joined(to, items, at)


@enters(TABLE, "SequenceMap")
def _(to: Importer) -> list[Term]:
    """The body on each element; further inputs are sequences of the same length, or tensors for all."""
    body, count = to.attr("body"), len(_items(to, 0))
    given = [to.term(i) for i in range(to.count)]
    if any(g.items is not None and len(g.items) != count for g in given):
        raise CaptureError("SequenceMap: the sequences differ in length")
    rows = [to.body(body, [g if g.items is None else g.items[i] for g in given]) for i in range(count)]
    kinds = [to.dtype(o.type.tensor_type.elem_type) for o in body.output] if not rows else [t.dtype for t in rows[0]]
    return [Term(kind, (), items=tuple(row[j] for row in rows)) for j, kind in enumerate(kinds)]


# -- optionals: the thing itself, or a term without anything -------------------------------------------


@enters(TABLE, "Optional")
def _(to: Importer) -> Term:
    return to.term(0) if to.has(0) else Term(boolean, ())


@enters(TABLE, "OptionalHasElement")
def _(to: Importer) -> Term:
    return Term(boolean, (), content=np.asarray(to.has(0) and not _absent(to.term(0))))


@enters(TABLE, "OptionalGetElement")
def _(to: Importer) -> Term:
    if _absent(to.term(0)):
        raise CaptureError("OptionalGetElement: the optional is empty")
    return to.term(0)


def _absent(term: Term) -> bool:
    return term.value is None and term.content is None and term.items is None
