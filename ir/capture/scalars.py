"""Sizes that a model keeps in tensors of one element, read back as sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .. import dims
from ..dims import Dim
from ..graph import Node, Value

_BINARY: dict[str, Callable[[Dim, Dim], Dim]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
    "minimum": dims.minimum, "maximum": dims.maximum, "mod": dims.mod,
}  # fmt: skip


def as_size(value: Value, nodes: Iterable[Node]) -> Dim | None:
    """The size that a tensor of one whole number is; None where it hangs on anything but shapes and numbers."""
    made_by = {out: node for node in nodes for out in node.outputs} if _is_one(value) else {}
    return _read(value, made_by)


def _is_one(value: Value) -> bool:
    return value.type.dtype.is_int and all(d == 1 for d in value.type.shape)


def _read(value: Value | None, made_by: dict[Value, Node]) -> Dim | None:
    node = made_by.get(value) if value is not None and _is_one(value) else None
    if node is None:
        return None
    name = node.op.name
    if name == "dim_value":
        dim: Dim = node.attrs["dim"]
        return dim
    if name == "constant":
        return int(node.attrs["value"])
    if name in ("cast", "reshape", "expand"):
        return _read(node.inputs[0], made_by)
    if name not in _BINARY:
        return None
    left, right = (_read(v, made_by) for v in node.inputs)
    return None if left is None or right is None else _BINARY[name](left, right)
