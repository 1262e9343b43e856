"""What is known of an ONNX tensor while a file is read: a value of the graph, its content, or both.

ONNX computes shapes with tensors. Their content is carried along where it follows from sizes: as plain numbers, or as
dims (`batch`, `2 * seq`) in an array of objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import dims
from ..dims import Dim, Expr
from ..dtypes import DType, i64
from ..graph import Value

# Content with more elements than this stays in the graph.
LARGEST = 4096


@dataclass(eq=False)
class Term:
    """An ONNX tensor as it was read.

    value:   where the graph computes it; made from the content when something first asks for it.
    content: its elements, plain or (dtype object) dims; None where they are known at run time only.
    kept:    the name of the weight that it is, or "".
    items:   the members where it is an ONNX sequence (never a tensor then).
    """

    dtype: DType
    shape: tuple[Dim, ...]
    value: Value | None = None
    content: np.ndarray | None = None
    kept: str = ""
    items: tuple[Term, ...] | None = None

    @property
    def plain(self) -> bool:
        """Whether its elements are known as numbers."""
        return self.content is not None and self.content.dtype != object

    @property
    def small(self) -> bool:
        return self.content is not None and self.content.size <= LARGEST


def of_value(value: Value) -> Term:
    return Term(value.type.dtype, value.type.shape, value)


def of_dims(values: Any, dtype: DType = i64) -> Term:
    """A Term of sizes, an int, a dim or a nested sequence of them; plain where no symbol is left."""
    array = values if isinstance(values, np.ndarray) else _objects(values)
    if array.dtype == object and not any(isinstance(v, Expr) for v in array.flat):
        array = np.array([int(v) for v in array.flat], np.int64).reshape(array.shape).astype(dtype.numpy)
    return Term(dtype, array.shape, content=array)


def _objects(values: Any) -> np.ndarray:
    array = np.empty(len(values) if isinstance(values, (tuple, list)) else (), object)
    if isinstance(values, (tuple, list)):
        for i, v in enumerate(values):
            array[i] = v
    else:
        array[()] = values
    return array


def objects(term: Term) -> np.ndarray:
    """The content with Python ints and dims as elements."""
    assert term.content is not None
    return term.content if term.content.dtype == object else term.content.astype(object)


# -- arithmetic on sizes --------------------------------------------------------------------------------

Symbolic = Callable[..., np.ndarray | None]
SYMBOLIC: dict[str, Symbolic] = {}


def symbolic(*names: str) -> Callable[[Symbolic], Symbolic]:
    """Registers how an op acts on arrays of dims; the function returns None where it cannot say."""

    def register(function: Symbolic) -> Symbolic:
        for name in names:
            SYMBOLIC[name] = function
        return function

    return register


def _each(function: Callable[..., Any], *arrays: np.ndarray) -> np.ndarray:
    """Element by element with broadcasting; the result holds objects."""
    wide = np.broadcast_arrays(*arrays)
    out = np.empty(wide[0].shape, object)
    for place in np.ndindex(out.shape):
        out[place] = function(*(a[place] for a in wide))
    return out


@symbolic("Add")
def _(node: Any, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return _each(lambda x, y: x + y, a, b)


@symbolic("Sub")
def _(node: Any, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return _each(lambda x, y: x - y, a, b)


@symbolic("Mul")
def _(node: Any, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return _each(lambda x, y: x * y, a, b)


@symbolic("Div")
def _(node: Any, a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    """Sizes are not negative, so that rounding down and rounding to zero agree; a known divisor must be positive."""
    if any(isinstance(y, int) and y <= 0 for y in b.flat) or any(isinstance(x, int) and x < 0 for x in a.flat):
        return None
    return _each(dims.floordiv, a, b)


@symbolic("Mod")
def _(node: Any, a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    return None if any(isinstance(y, int) and y <= 0 for y in b.flat) else _each(dims.mod, a, b)


@symbolic("Max")
def _(node: Any, *arrays: np.ndarray) -> np.ndarray:
    return _fold(dims.maximum, arrays)


@symbolic("Min")
def _(node: Any, *arrays: np.ndarray) -> np.ndarray:
    return _fold(dims.minimum, arrays)


def _fold(function: Callable[[Dim, Dim], Dim], arrays: Sequence[np.ndarray]) -> np.ndarray:
    out = arrays[0]
    for array in arrays[1:]:
        out = _each(function, out, array)
    return out


@symbolic("Neg")
def _(node: Any, a: np.ndarray) -> np.ndarray:
    return _each(lambda x: -x, a)


@symbolic("Equal")
def _(node: Any, a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    return _decided(a, b, lambda d: d == 0, node.ranges)


def _compared(swap: bool, strict: int) -> Symbolic:
    """Whether a (or with `swap` b) is at most the other less `strict`, where the ranges settle that."""

    def compare(node: Any, a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
        low, high = (b, a) if swap else (a, b)
        found = _each(lambda x, y: dims.at_most(x + strict, y, node.ranges), low, high)
        return None if any(f is None for f in found.flat) else found.astype(bool)

    return compare


for _op, _swap, _strict in (("Less", False, 1), ("LessOrEqual", False, 0), ("Greater", True, 1),
                            ("GreaterOrEqual", True, 0)):  # fmt: skip
    SYMBOLIC[_op] = _compared(_swap, _strict)


@symbolic("ReduceProd")
def _(node: Any, data: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray | None:
    if data.ndim != 1:
        return None
    out = np.empty((1,) if node.attr("keepdims", 1) else (), object)
    out.flat[0] = dims.product(data.flat)
    return out


def _decided(a: np.ndarray, b: np.ndarray, test: Callable[[int], bool], ranges: dims.Ranges) -> np.ndarray | None:
    """`test` of a - b where each difference is a number, or its range settles that it is not 0."""
    out = np.empty(np.broadcast_shapes(a.shape, b.shape), bool)
    for place, d in np.ndenumerate(_each(lambda x, y: x - y, a, b)):
        if isinstance(d, Expr):
            low, high = dims.bounds(d, ranges)
            if not ((low is not None and low > 0) or (high is not None and high < 0)):
                return None
            d = 1
        out[place] = test(d)
    return out


def _recast(term: Term | None, dtype: DType) -> Term | None:
    """Sizes in another type that holds them; what is known as numbers is computed."""
    if term is None or term.content is None or term.plain or not (dtype.is_int or dtype.is_float) or dtype.bits < 32:
        return None
    return Term(dtype, term.shape, content=term.content)


def settle(name: str, node: Any, terms: Iterable[Term | None]) -> Term | None:
    """The content of an op on sizes, or None where it has to be computed at run time."""
    function, given = SYMBOLIC.get(name), list(terms)
    if name == "Cast":
        return _recast(given[0], node.dtype(node.attr("to")))
    if function is None or any(t is not None and (t.content is None or t.dtype.is_float) for t in given):
        return None
    try:
        result = function(node, *(None if t is None else objects(t) for t in given))
    except (TypeError, ValueError, LookupError, ArithmeticError):  # the op's own translation says what is wrong
        return None
    if result is None:
        return None
    if not isinstance(result, np.ndarray):  # numpy hands out the element of an array without axes
        result = _objects(result)
    if result.dtype == bool:
        from ..dtypes import boolean

        return Term(boolean, result.shape, content=result)
    first = next((t for t in given if t is not None), None)
    return None if first is None else of_dims(result, first.dtype)
