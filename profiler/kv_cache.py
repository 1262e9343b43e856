"""What a decoder keeps between tokens, read off the attention nodes of its graph."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir import dims
from ..ir.dims import Bindings, Dim
from ..ir.graph import Node, Program
from ..ir.tensor import TensorType
from ..ir.walk import steps


@dataclass(frozen=True, slots=True)
class Kept:
    """The keys and values of one attention.

    bytes_per_token: of one token of one row. window: how many tokens are kept at most, 0 for all of them.
    bytes: of all rows and tokens, once the run is over.
    """

    module: str
    bytes_per_token: Dim
    window: int
    bytes: Dim


def kv_cache(
    program: Program, sizes: Bindings | None = None, *, entry: str | None = None, decoder: bool = False
) -> tuple[Kept, ...]:
    """One entry for each attention whose keys and values a decoder keeps, in the order in which they run.

    decoder: every attention is one over the model's own past. Where that is not known, those count that are causal,
    and those of a single query: a bidirectional model keeps nothing. Sizes that are not given stay symbols.
    """
    found = []
    for step in steps(program, entry):
        if step.node.op.name == "attention" and (decoder or _looks_back(step.node)):
            found.append(_kept(step.where.module, step.node, sizes or {}))
    return tuple(found)


def _looks_back(node: Node) -> bool:
    q, k = _types(node)[:2]
    return bool(node.attrs["causal"]) or (q.shape[1] == 1 != k.shape[1])


def _kept(module: str, node: Node, sizes: Bindings) -> Kept:
    """k [b, t, g, d] and v [b, t, g, e] are g·(d + e) numbers a token; a window keeps its last tokens only."""
    _, k, v = _types(node)
    rows, tokens = k.shape[:2]
    each = sum((t.with_shape(*t.shape[2:]).bytes for t in (k, v)), start=0)
    window = int(node.attrs["window"])
    kept = dims.minimum(tokens, window) if window else tokens
    return Kept(module, dims.substitute(each, sizes), window, dims.substitute(rows * kept * each, sizes))


def _types(node: Node) -> tuple[TensorType, TensorType, TensorType]:
    q, k, v = (value.type for value in node.inputs[:3] if value is not None)
    return q, k, v
