"""ONNX's branches and loops: what is known is taken or unrolled, a branch on data becomes a selection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...diagnostics import CaptureError
from ...dtypes import boolean, i64
from ..onnx_terms import Term, of_value
from .pieces import picked, stacked
from .table import axis, enters

if TYPE_CHECKING:
    from ..from_onnx import Importer

TABLE: dict[str, Any] = {}
MOST_TURNS = 4096


@enters(TABLE, "If")
def _(to: Importer) -> list[Term]:
    """The branch of a known condition; else both, and each output selected, where they agree in type."""
    then, other = to.attr("then_branch"), to.attr("else_branch")
    if to.term(0).plain:
        return to.body(then if _true(to, to.term(0)) else other, [])
    try:
        both = [to.body(g, []) for g in (then, other)]
    except CaptureError:
        to.content(0, "condition")
        raise
    if any(_kind(a) != _kind(b) or a.items is not None for a, b in zip(*both, strict=True)):
        to.content(0, "branch, whose outputs differ in type,")
    chosen = to.value(0)
    chosen = chosen if chosen.type.rank == 0 else to.emit("reshape", chosen, shape=())
    return [of_value(to.emit("where", chosen, to.valued(a), to.valued(b))) for a, b in zip(*both, strict=True)]


def _kind(term: Term) -> Any:
    return term.dtype, term.shape


def _true(to: Importer, term: Term) -> bool:
    if term.content is None or term.content.size != 1:
        raise CaptureError(f"{to.op}: a condition is one element, got {list(map(str, term.shape))}")
    return bool(term.content.item())


@enters(TABLE, "Loop")
def _(to: Importer) -> list[Term]:
    """Unrolled: the trip count and the condition must be known before each turn."""
    body, carried = to.attr("body"), [to.term(i) for i in range(2, to.count)]
    trips = _trips(to)
    going = Term(boolean, (), content=np.asarray(True))
    if to.has(1):
        going = to.term(1)
        to.content(1, "condition")
    gathered: list[list[Term]] = [[] for _ in range(len(body.output) - 1 - len(carried))]
    turn = 0
    while (trips is None or turn < trips) and _true(to, going):
        _spend(to, turn)
        counter = Term(i64, (), content=np.asarray(turn, np.int64))
        going, *made = to.body(body, [counter, going, *carried])
        if not going.plain:
            raise to.unsettled(going, "condition to go on")
        carried = made[: len(carried)]
        for rows, term in zip(gathered, made[len(carried) :], strict=True):
            rows.append(term)
        turn += 1
    outs = body.output[1 + len(carried) :]
    return [*carried, *(_rows(to, rows, 0, out) for rows, out in zip(gathered, outs, strict=True))]


def _trips(to: Importer) -> int | None:
    """None: as long as the condition holds."""
    if not to.has(0):
        return None
    term = to.term(0)
    if term.content is not None and not term.plain:
        raise CaptureError(f"Loop: it runs {term.content.flat[0]} times, which varies", hint="fix that size")
    counts = to.ints(0, "trip count")
    if len(counts) != 1:
        raise CaptureError(f"Loop: the trip count is one number, got {len(counts)}")
    return counts[0]


def _spend(to: Importer, turn: int) -> None:
    if turn >= MOST_TURNS:
        raise CaptureError(f"{to.op}: more than {MOST_TURNS} turns are not unrolled",
                           hint="export the model without the loop, or with fewer turns")  # fmt: skip


def _rows(to: Importer, rows: Sequence[Term], at: int, declared: Any) -> Term:
    """All turns' results as one tensor; of no turn, an empty one of the declared shape."""
    if rows:
        if any(r.shape != rows[0].shape for r in rows):
            raise CaptureError(f"{to.op}: {declared.name!r} changes its shape from turn to turn",
                               found=", ".join(str(list(map(str, r.shape))) for r in rows[:3]))  # fmt: skip
        return stacked(to, rows, at % (len(rows[0].shape) + 1))
    kind = declared.type.tensor_type
    shape = [d.dim_value for d in kind.shape.dim if d.HasField("dim_value")]
    if not kind.HasField("shape") or len(shape) != len(kind.shape.dim):
        raise CaptureError(f"{to.op}: without a turn the shape of {declared.name!r} is not known")
    array = np.zeros([*shape[:at], 0, *shape[at:]], to.dtype(kind.elem_type).numpy)
    return Term(to.dtype(kind.elem_type), array.shape, content=array)


@enters(TABLE, "Scan")
def _(to: Importer) -> list[Term]:
    """Unrolled along a length that is a number."""
    body, count = to.attr("body"), to.attr("num_scan_inputs")
    first = to.count - count
    if not 0 < count <= to.count or len(body.output) < first:
        raise CaptureError(f"Scan: {count} of {to.count} inputs are scanned, its body gives {len(body.output)} outputs")
    state, scanned = [to.term(i) for i in range(first)], [to.term(i) for i in range(first, to.count)]
    axes = [axis(a, len(t.shape)) for a, t in zip(_listed(to, "scan_input_axes", count), scanned, strict=True)]
    back = _listed(to, "scan_input_directions", count)
    length = _length(to, scanned, axes)
    outs = body.output[first:]
    gathered: list[list[Term]] = [[] for _ in outs]
    for turn in range(length):
        _spend(to, turn)
        slices = [picked(to, term, at, length - 1 - turn if reverse else turn)
                  for term, at, reverse in zip(scanned, axes, back, strict=True)]  # fmt: skip
        made = to.body(body, [*state, *slices])
        state = made[:first]
        for rows, term in zip(gathered, made[first:], strict=True):
            rows.append(term)
    places = _listed(to, "scan_output_axes", len(outs))
    turned = _listed(to, "scan_output_directions", len(outs))
    return [*state, *(_rows(to, rows[::-1] if b else rows, a, out)
                      for rows, a, b, out in zip(gathered, places, turned, outs, strict=True))]  # fmt: skip


def _listed(to: Importer, name: str, count: int) -> list[int]:
    values = list(to.attr(name, [0] * count))
    if len(values) != count:
        raise CaptureError(f"{to.op}: {name} has {len(values)} numbers for {count} tensors")
    return values


def _length(to: Importer, scanned: Sequence[Term], axes: Sequence[int]) -> int:
    if any(not t.shape for t in scanned):
        raise CaptureError("Scan: a scalar cannot be scanned")
    sizes = {t.shape[a] for t, a in zip(scanned, axes, strict=True)}
    (size, *more) = sizes
    if more or not isinstance(size, int):
        raise CaptureError(f"Scan: it runs over {', '.join(map(str, sizes))} elements, which must be one number",
                           hint="" if more else "fix that size")  # fmt: skip
    return size
