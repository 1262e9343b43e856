"""Any einsum as transposes, reshapes, matrix products and sums; torch and ONNX write them alike.

Operands are taken two at a time from the left. Letters that both have and nothing later needs are contracted in one
`matmul`; where there are none the operands are multiplied element by element.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from .. import dims
from ..diagnostics import GraphError
from ..dims import Dim
from ..dtypes import i64
from ..graph import Value

Emit = Callable[..., Value]
Letters = tuple[str, ...]  # a name for each axis; those under an ellipsis are `.1`, `.2`, counted from the right


@dataclass(frozen=True, slots=True)
class Operand:
    """A value and what its axes are called, each once."""

    value: Value
    axes: Letters

    def size(self, letter: str) -> Dim:
        return self.value.type.shape[self.axes.index(letter)]


def einsum(emit: Emit, equation: str, values: Sequence[Value]) -> Value:
    """The value of `equation` (`bqhd,bkhd->bhqk`), emitted through `emit(op, *inputs, **attrs)`.

    Ellipses, implicit outputs, letters repeated in one operand (its diagonal) and axes of one that broadcast are
    read as torch and ONNX read them. Raises: GraphError where the equation does not fit the values.
    """
    inputs, output = parse(equation, [v.type.rank for v in values])
    operands = [_diagonal(emit, v, axes) for v, axes in zip(values, inputs, strict=True)]
    operands = _broadcast(emit, equation, operands)
    first, *rest = operands
    for i, other in enumerate(rest):
        needed = {*output, *(a for o in rest[i + 1 :] for a in o.axes)}
        first = _product(emit, _summed(emit, first, needed | {*other.axes}), _summed(emit, other, needed | {
            *first.axes}), needed, output)  # fmt: skip
    first = _summed(emit, first, set(output))
    return _arranged(emit, first, output)


def parse(equation: str, ranks: Sequence[int]) -> tuple[list[Letters], Letters]:
    """The letters of each operand's axes and of the result's. Raises: GraphError on an ill-formed equation."""
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise GraphError(f"einsum: {equation!r} names {len(terms)} operands, {len(ranks)} are given")
    inputs = [_axes(equation, term, rank) for term, rank in zip(terms, ranks, strict=True)]
    seen = [a for axes in inputs for a in axes]
    dots = sorted({a for a in seen if a.startswith(".")}, key=lambda a: -int(a[1:]))
    if arrow:
        output = _axes(equation, right, len(dots) + len(right.replace("...", "")) if "..." in right else len(right))
    else:
        output = (*dots, *sorted(a for a in seen if seen.count(a) == 1 and not a.startswith(".")))
    if len(set(output)) != len(output) or not {*output} <= {*seen}:
        raise GraphError(f"einsum: {equation!r} has an output letter twice, or one that no operand has")
    return inputs, output


def _axes(equation: str, term: str, rank: int) -> Letters:
    head, dots, tail = term.partition("...")
    if not (head + tail).isalpha() and head + tail:
        raise GraphError(f"einsum: {equation!r} is no equation of letters, commas and ellipses")
    hidden = rank - len(head) - len(tail)
    if hidden < 0 or (hidden and not dots):
        raise GraphError(f"einsum: {term!r} in {equation!r} does not fit an operand of {rank} axes")
    return (*head, *(f".{hidden - i}" for i in range(hidden)), *tail)


def _diagonal(emit: Emit, value: Value, axes: Letters) -> Operand:
    """With each letter once: of an axis that is named twice only the elements where both indices agree are kept."""
    for letter in dict.fromkeys(a for a in axes if axes.count(a) > 1):
        while axes.count(letter) > 1:
            i = axes.index(letter)
            j = axes.index(letter, i + 1)
            size, rank = value.type.shape[i], value.type.rank
            if value.type.shape[j] != size:
                raise GraphError(f"einsum: {letter!r} is {size} and {value.type.shape[j]} in one operand")
            at = [
                emit("reshape", emit("iota", length=size, start=0, dtype=i64), shape=(size, *(1,) * (rank - 1 - axis)))
                for axis in (i, j)
            ]
            zero = emit("constant", value=0.0, dtype=value.type.dtype)
            value = emit("sum", emit("where", emit("eq", *at), value, zero), axes=(i,), keepdims=False)
            axes = (*axes[:i], *axes[i + 1 :])
    return Operand(value, axes)


def _broadcast(emit: Emit, equation: str, operands: list[Operand]) -> list[Operand]:
    """An axis of one that is longer elsewhere is dropped where it is one. Raises: GraphError where sizes differ."""
    sizes: dict[str, Dim] = {}
    for operand in operands:
        for letter in operand.axes:
            size = operand.size(letter)
            known = sizes.get(letter, 1)
            if known != 1 and size != 1 and known != size:
                raise GraphError(f"einsum: {letter!r} in {equation!r} is {known} and {size}")
            sizes[letter] = size if known == 1 else known
    kept = []
    for operand in operands:
        wide = tuple(a for a in operand.axes if operand.size(a) != 1 or sizes[a] == 1)
        kept.append(Operand(_reshaped(emit, operand.value, [operand.size(a) for a in wide]), wide))
    return kept


def _summed(emit: Emit, operand: Operand, needed: Collection[str]) -> Operand:
    """Without the axes that nothing needs."""
    gone = tuple(i for i, a in enumerate(operand.axes) if a not in needed)
    if not gone:
        return operand
    value = emit("sum", operand.value, axes=gone, keepdims=False)
    return Operand(value, tuple(a for a in operand.axes if a in needed))


def _product(emit: Emit, a: Operand, b: Operand, needed: Collection[str], output: Letters) -> Operand:
    """Both in one, with the letters that are needed."""
    place = {letter: i for i, letter in enumerate(output)}

    def ordered(letters: Collection[str]) -> list[str]:
        listed = [x for x in (*a.axes, *b.axes) if x in letters]
        return sorted(dict.fromkeys(listed), key=lambda x: place.get(x, -1))

    shared = {*a.axes} & {*b.axes}
    batch, inner = ordered({x for x in shared if x in needed}), [x for x in a.axes if x in shared and x not in needed]
    rows, columns = ordered({*a.axes} - shared), ordered({*b.axes} - shared)
    if rows and columns and max(place.get(x, 0) for x in columns) < min(place.get(x, 0) for x in rows):
        a, b, rows, columns = b, a, columns, rows
    axes = (*batch, *rows, *columns)
    sizes = {x: o.size(x) for o in (a, b) for x in o.axes}
    left, right = _arranged(emit, a, [*batch, *rows, *inner]), _arranged(emit, b, [*batch, *inner, *columns])
    if not inner:
        tall = _reshaped(emit, left, [sizes[x] for x in (*batch, *rows)] + [1] * len(columns))
        flat = _reshaped(emit, right, [sizes[x] for x in batch] + [1] * len(rows) + [sizes[x] for x in columns])
        return Operand(emit("mul", tall, flat), axes)
    lead, depth = [sizes[x] for x in batch], dims.product(sizes[x] for x in inner)
    tops, wide = [sizes[x] for x in rows] or [1], dims.product(sizes[x] for x in columns)
    ones = [1] * (len(tops) - 1) if batch else []  # further rows are broadcast over, as attention's heads are
    y = emit("matmul", _reshaped(emit, left, [*lead, *tops, depth]),
             _reshaped(emit, right, [*lead, *ones, depth, wide]))  # fmt: skip
    return Operand(_reshaped(emit, y, [sizes[x] for x in axes]), axes)


def _arranged(emit: Emit, operand: Operand, axes: Sequence[str]) -> Value:
    """Its axes in another order."""
    perm = tuple(operand.axes.index(a) for a in axes)
    return operand.value if perm == tuple(range(len(perm))) else emit("transpose", operand.value, perm=perm)


def _reshaped(emit: Emit, value: Value, shape: Sequence[Dim]) -> Value:
    return value if value.type.shape == tuple(shape) else emit("reshape", value, shape=tuple(shape))
