"""Ops that move elements."""

from __future__ import annotations

from ...ir.dtypes import i64
from ...ir.graph import Node, Value
from .emit import Emit
from .lower import STANDARD, lowers


def one(node: Node, index: int = 0) -> Value:
    """An input that must be there."""
    value = node.inputs[index]
    assert value is not None
    return value


@lowers(STANDARD, "reshape")
def _reshape(to: Emit, node: Node) -> str:
    x = one(node)
    return to.reshape(x, x.type.shape, node.output.type.shape)


@lowers(STANDARD, "transpose")
def _transpose(to: Emit, node: Node) -> str:
    return to.transpose(node.inputs[0], *(p % len(node.attrs["perm"]) for p in node.attrs["perm"]))


@lowers(STANDARD, "expand")
def _expand(to: Emit, node: Node) -> str:
    x = one(node)
    before, after = x.type.shape, node.output.type.shape
    if before == after:
        return to.name(x)
    kept = (None,) * (len(after) - len(before)) + before
    # A 1 in the target of Expand keeps the input's size, whatever it is.
    return to("Expand", x, to.sizes.shape([1 if a == b else b for a, b in zip(kept, after, strict=True)]))


@lowers(STANDARD, "concat")
def _concat(to: Emit, node: Node) -> str:
    if len(node.inputs) == 1:
        return to.name(node.inputs[0])
    return to("Concat", *node.inputs, axis=node.attrs["axis"])


@lowers(STANDARD, "slice")
def _slice(to: Emit, node: Node) -> str:
    x, a = one(node), node.attrs
    if x.type.shape == node.output.type.shape and a["start"] == 0 and a["step"] == 1:
        return to.name(x)
    ends = [to.sizes.vector(a[k]) for k in ("start", "stop")]
    return to("Slice", x, *ends, to.ints(a["axis"] % x.type.rank), to.ints(a["step"]))


@lowers(STANDARD, "split")
def _split(to: Emit, node: Node) -> list[str]:
    sizes = node.attrs["sizes"]
    if len(sizes) == 1:
        return [to.name(node.inputs[0])]
    result: list[str] = to(
        "Split", node.inputs[0], to.sizes.shape(sizes), outputs=len(sizes), axis=node.attrs["axis"]
    )
    return result


@lowers(STANDARD, "pad")
def _pad(to: Emit, node: Node) -> str:
    x, a = one(node), node.attrs
    return to("Pad", x, to.ints(*a["before"], *a["after"]), to.scalar(a["value"], x.type.dtype))


@lowers(STANDARD, "iota")
def _iota(to: Emit, node: Node) -> str:
    a = node.attrs
    stop = a["start"] + a["length"] * a["step"]
    run: str = to("Range", to.sizes.scalar(a["start"]), to.sizes.scalar(stop), to.scalar(a["step"], i64))
    return run if a["dtype"] == i64 else to.cast(run, a["dtype"])
