"""Comparisons of positions: which keys a mask lets each query see, read off `iota`s and sums of them."""

from __future__ import annotations

from typing import NamedTuple

from ...ir.dims import Dim
from ...ir.graph import Node, Value
from ..pattern import Producers, scalar

DEEPEST = 12
_RENAMES = ("reshape", "expand", "cast")


class Positions(NamedTuple):
    """A value that is `query · i + key · j + offset` at [..., i, j]."""

    query: int
    key: int
    offset: Dim

    def plus(self, other: Positions, times: int) -> Positions:
        added = times * other.offset
        return Positions(self.query + times * other.query, self.key + times * other.key, self.offset + added)


def positions(value: Value, made_by: Producers, depth: int = 0) -> Positions | None:
    """Reads indices along the last two axes, put there by reshapes and added up; None for anything else."""
    node = made_by.get(value)
    if depth > DEEPEST or value.type.dtype.kind not in ("int", "float") or value.type.dtype.bits < 32:
        return None  # narrower numbers wrap around, or round
    number = scalar(value, made_by)
    if number is not None:
        return Positions(0, 0, int(number)) if number.is_integer() else None
    if node is None:
        return None
    if node.op.name == "dim_value":
        return Positions(0, 0, node.attrs["dim"])
    if node.op.name == "iota":
        return Positions(0, 1, node.attrs["start"]) if node.attrs["step"] == 1 else None
    if node.op.name in _RENAMES:
        return _renamed(node, made_by, depth)
    return _sum(node, made_by, depth)


def _sum(node: Node, made_by: Producers, depth: int) -> Positions | None:
    if node.op.name not in ("add", "sub", "neg"):
        return None
    parts = [None if v is None else positions(v, made_by, depth + 1) for v in node.inputs]
    if any(p is None for p in parts):
        return None
    nothing = Positions(0, 0, 0)
    first, second = (nothing, parts[0]) if node.op.name == "neg" else parts
    assert first is not None and second is not None
    return first.plus(second, 1 if node.op.name == "add" else -1)


def _renamed(node: Node, made_by: Producers, depth: int) -> Positions | None:
    """Through a cast, an expand, or a reshape that only puts axes of one around the index."""
    (source,) = node.inputs
    inner = None if source is None else positions(source, made_by, depth + 1)
    if source is None or inner is None or (inner.query == 0 == inner.key):
        return inner
    before, after = source.type.shape, node.output.type.shape
    uses = (-2, -1) if inner.query and inner.key else (-2,) if inner.query else (-1,)
    kept = max(-uses[0], 2 if len(before) > 1 else 1)
    if node.op.name == "cast" or after[-kept:] == before[-kept:]:
        return inner
    if node.op.name == "expand":
        return inner if all(after[a] == before[a] for a in uses) else None
    return _placed(inner, before, after) if len(uses) == 1 else None


def _placed(inner: Positions, before: tuple[Dim, ...], after: tuple[Dim, ...]) -> Positions | None:
    """An index along one axis of many ones, to whichever axis of many ones it moved."""
    own = [i - len(after) for i, d in enumerate(after) if d != 1]
    if sum(d != 1 for d in before) != 1 or own not in ([-1], [-2]):
        return None
    by = inner.query + inner.key
    return inner._replace(query=by if own == [-2] else 0, key=by if own == [-1] else 0)


class Band(NamedTuple):
    """Which distances (query - key) a mask allows: low <= distance <= high, None being no end."""

    low: Dim | None
    high: Dim | None


SWAPPED = {"ge": "le", "le": "ge", "gt": "lt", "lt": "gt"}
OPPOSITE = {"ge": "lt", "lt": "ge", "gt": "le", "le": "gt"}  # of whole numbers


def band(mask: Value, made_by: Producers, negated: bool = False) -> Band | None:
    """The band that a boolean mask is exactly, its axes of queries and keys spelt out; None where it is none."""
    compared = _comparison(mask, made_by, negated)
    if compared is None:
        return None
    order, left, right = compared
    one, two = positions(left, made_by), positions(right, made_by)
    return None if one is None or two is None else _ordered(order, one.plus(two, -1))


def _comparison(mask: Value, made_by: Producers, negated: bool) -> tuple[str, Value, Value] | None:
    """The order that a mask asks of two values of its own rank or less, through what only renames its axes."""
    node = made_by.get(mask)
    while node is not None and node.op.name in ("reshape", "expand", "not"):
        source = node.inputs[0]
        if source is None or source.type.shape[-2:] != mask.type.shape[-2:]:
            return None
        negated ^= node.op.name == "not"
        node = made_by.get(source)
    if node is None or node.op.name not in OPPOSITE or node.output.type.rank < 2:
        return None
    left, right = node.inputs[:2]
    assert left is not None and right is not None
    return OPPOSITE[node.op.name] if negated else node.op.name, left, right


def _ordered(order: str, difference: Positions) -> Band | None:
    """`difference` compared with 0."""
    if (difference.query, difference.key) == (-1, 1):
        order, difference = SWAPPED[order], Positions(0, 0, 0).plus(difference, -1)
    if (difference.query, difference.key) != (1, -1):
        return None
    edge = -difference.offset
    if order in ("ge", "gt"):
        return Band(edge if order == "ge" else edge + 1, None)
    return Band(None, edge if order == "le" else edge - 1)


def is_causal(mask: Value, queries: Dim, keys: Dim, made_by: Producers, negated: bool = False) -> bool:
    """Whether a mask says exactly: key <= query + keys - queries."""
    found = band(mask, made_by, negated) if mask.type.shape[-2:] == (queries, keys) else None
    return found is not None and found.high is None and found.low == queries - keys


def window_of(mask: Value, queries: Dim, keys: Dim, made_by: Producers) -> int | None:
    """w where a mask says exactly: query + keys - queries - key < w; None where it says anything else."""
    found = band(mask, made_by) if mask.type.shape[-2:] == (queries, keys) else None
    if found is None or found.low is not None or found.high is None:
        return None
    reach = found.high + (keys - queries) + 1
    return reach if isinstance(reach, int) and reach > 0 else None


def sees_own(mask: Value, length: Dim, made_by: Producers, negated: bool = False) -> bool:
    """Whether a mask over equally many queries and keys is a band that lets each query see its own key."""
    found = band(mask, made_by, negated) if mask.type.shape[-2:] == (length, length) else None
    if found is None:
        return False
    low, high = found.low or 0, found.high or 0
    return isinstance(low, int) and isinstance(high, int) and low <= 0 <= high


def rows_position(mask: Value, queries: Dim, keys: Dim, made_by: Producers, negated: bool = False) -> Value | None:
    """p [rows], each row's own, where a mask says exactly: key <= p + query; None where it says anything else."""
    compared = _comparison(mask, made_by, negated) if mask.type.shape[-2:] == (queries, keys) else None
    if compared is None:
        return None
    order, left, right = compared
    own: list[tuple[Value, int]] = []
    others: list[tuple[Value, int]] = []
    for value, sign in (*_terms(left, 1, made_by), *_terms(right, -1, made_by)):
        of_rows = _of_rows(value, made_by)
        (others if of_rows is None else own).append((value if of_rows is None else of_rows, sign))
    if len(own) != 1:
        return None
    ((position, by),) = own
    rest = Positions(0, 0, 0)
    for value, sign in others:
        found = positions(value, made_by)
        if found is None:
            return None
        rest = rest.plus(found, sign * by)
    if (rest.query, rest.key) != (1, -1):
        return None
    return position if _ordered(order if by == 1 else SWAPPED[order], rest) == Band(0, None) else None


def _terms(value: Value, sign: int, made_by: Producers) -> list[tuple[Value, int]]:
    """A sum as its terms, each with its sign."""
    node = made_by.get(value)
    if node is None or node.op.name not in ("add", "sub", "neg"):
        return [(value, sign)]
    signs = {"add": (sign, sign), "sub": (sign, -sign), "neg": (-sign,)}[node.op.name]
    return [t for v, s in zip(node.inputs, signs, strict=True) if v is not None for t in _terms(v, s, made_by)]


def _of_rows(value: Value, made_by: Producers) -> Value | None:
    """The numbers [rows] that are spread over a mask [rows, heads, queries, keys], one for each row."""
    node = made_by.get(value)
    source = node.inputs[0] if node is not None and node.op.name == "reshape" else None
    whole = source is not None and source.type.rank == 1 and source.type.dtype.is_int
    return source if whole and value.type.shape == (*source.type.shape, 1, 1, 1) else None  # type: ignore[union-attr]
