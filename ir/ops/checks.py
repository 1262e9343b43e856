"""What the ops check of their inputs, worded once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .. import dims
from ..diagnostics import GraphError
from ..dims import Dim
from ..tensor import TensorType


def normal_axis(op: str, axis: int, x: TensorType) -> int:
    """The axis counted from the front. Raises: GraphError when there is none such."""
    if not -x.rank <= axis < x.rank:
        raise GraphError(f"{op}: axis {axis} is outside {x}, which has {x.rank} axes")
    return axis % x.rank


def normal_axes(op: str, axes: Iterable[int], x: TensorType) -> tuple[int, ...]:
    """Axes counted from the front, ascending. Raises: GraphError on one outside, or named twice."""
    found = sorted(normal_axis(op, a, x) for a in axes)
    if len(set(found)) != len(found):
        raise GraphError(f"{op}: an axis is named twice in {list(axes)}", found=str(x))
    return tuple(found)


def same_dtype(op: str, *types: TensorType | None) -> None:
    """Raises: GraphError where present inputs differ in element type."""
    present = [t for t in types if t is not None]
    if len({t.dtype for t in present}) > 1:
        names = " and ".join(dict.fromkeys(str(t.dtype) for t in present))
        raise GraphError(
            f"{op}: needs equal element types, got {names}",
            found=", ".join(map(str, present)), hint="cast one side",
        )  # fmt: skip


def of_kind(op: str, what: str, x: TensorType, kinds: tuple[str, ...]) -> None:
    """Raises: GraphError where the element type is of none of these kinds (float, int, uint, bool)."""
    if x.dtype.kind not in kinds:
        raise GraphError(f"{op}: {what} is one of {', '.join(kinds)}, got {x.dtype}", found=str(x))


def same_but(op: str, axis: int, a: TensorType, b: TensorType) -> None:
    """Raises: GraphError where shapes differ on another axis than this one."""
    if a.rank != b.rank or any(p != q for i, (p, q) in enumerate(zip(a.shape, b.shape, strict=True)) if i != axis):
        raise GraphError(f"{op}: shapes may differ on axis {axis} only, got {a} and {b}")


def within(op: str, low: Dim, high: Dim, what: str) -> None:
    """Raises: GraphError where low <= high is known to be false for every size of the symbols."""
    if dims.at_most(low, high, {}) is False:
        raise GraphError(f"{op}: {what}: {low} is more than {high}")


def check_indices(op: str, indices: np.ndarray, size: int) -> None:
    """Raises: GraphError where an index is outside the axis."""
    if indices.size and (indices.min() < 0 or indices.max() >= size):
        raise GraphError(f"{op}: indices {indices.min()}..{indices.max()} are outside 0..{size - 1}")


FLOATS, NUMBERS, INTEGERS, BOOL = ("float",), ("float", "int", "uint"), ("int", "uint"), ("bool",)
ANY = (*NUMBERS, *BOOL)
