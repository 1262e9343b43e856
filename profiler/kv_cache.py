"""What a decoder keeps between tokens, by layer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..ir import dims
from ..ir.dims import Bindings, Dim
from ..ir.graph import Node, Program
from ..ir.tensor import TensorType
from ..ir.walk import steps

_PAST = re.compile(r"past_(?:key|value)_(\d+)")  # the inputs of a decode step
_INDEX = re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Kept:
    """What one layer's attention keeps.

    bytes_per_token: of one token of one row. window: how many tokens are kept at most, 0 for all of them.
    bytes: of all rows and tokens, once the run is over.
    """

    module: str
    bytes_per_token: Dim
    window: int
    bytes: Dim


def kv_cache(
    program: Program, sizes: Bindings | None = None, *, entry: str | None = None,
    kept: Mapping[int, int] | None = None,
) -> tuple[Kept, ...]:  # fmt: skip
    """One entry for each attention that keeps something, in the order in which they run. Unbound sizes stay symbols.

    kept: layer -> the bytes that the model itself is seen to keep of a token; a latent that attention widens is less
    than its keys and values, and a layer that reads another's keeps nothing. Of a decode step they are its own inputs.
    Where neither is known, what is kept is taken to be the keys and values of every attention that looks back: one
    that is causal, or of a single query. A bidirectional model keeps nothing.
    """
    sizes, kept = sizes or {}, kept or _given(program, entry)
    found: dict[int | str, Kept] = {}
    for step in steps(program, entry):
        if step.node.op.name != "attention":
            continue
        layer = _layer(step.where.module)
        if kept and layer in kept and layer not in found:
            found[layer] = _kept(step.where.module, step.node, kept[layer], sizes)
        elif not kept and _looks_back(step.node):
            found[step.key] = _kept(step.where.module, step.node, None, sizes)
    rows, tokens = _lengths(program, entry)
    for layer in kept.keys() - found.keys():  # its attention is not one op, so that no window is known either
        each = kept[layer]
        found[layer] = Kept(f"layer {layer}", each, 0, dims.substitute(rows * tokens * each, sizes))
    return tuple(found.values())


def _lengths(program: Program, entry: str | None) -> tuple[Dim, Dim]:
    """Rows, and tokens of each once the run is over."""
    inputs = program.functions[entry or program.entries[0]].inputs
    past = next((v.type.shape for v in inputs if _PAST.fullmatch(v.name)), None)
    shape = next((v.type.shape for v in inputs if v.type.rank > 1), (1, 1))
    return (shape[0], shape[1]) if past is None else (past[0], past[2] + shape[1])


def _given(program: Program, entry: str | None) -> dict[int, int]:
    """layer -> bytes of a token in the past that an entry takes."""
    found: dict[int, int] = {}
    for value in program.functions[entry or program.entries[0]].inputs:
        name, shape = _PAST.fullmatch(value.name), value.type.shape
        if name and len(shape) == 4:
            each = dims.evaluate(value.type.with_shape(shape[1], shape[3]).bytes, {})
            found[int(name[1])] = found.get(int(name[1]), 0) + each
    return found


def _layer(module: str) -> int:
    """The first number in a module's path, as in `model.layers.3.self_attn`; -1 where there is none."""
    return next((int(part) for part in module.split(".") if _INDEX.fullmatch(part)), -1)


def _looks_back(node: Node) -> bool:
    q, k, _ = _types(node)
    return bool(node.attrs["causal"]) or (q.shape[1] == 1 != k.shape[1])


def _kept(module: str, node: Node, each: Dim | None, sizes: Bindings) -> Kept:
    """k [b, t, g, d] and v [b, t, g, e] are g·(d + e) numbers a token; a window keeps its last tokens only."""
    _, k, v = _types(node)
    rows, tokens = k.shape[:2]
    if each is None:
        each = sum((t.with_shape(*t.shape[2:]).bytes for t in (k, v)), start=0)
    window = int(node.attrs["window"])
    total = rows * (dims.minimum(tokens, window) if window else tokens) * each
    return Kept(module, dims.substitute(each, sizes), window, dims.substitute(total, sizes))


def _types(node: Node) -> tuple[TensorType, TensorType, TensorType]:
    q, k, v = (value.type for value in node.inputs[:3] if value is not None)
    return q, k, v
