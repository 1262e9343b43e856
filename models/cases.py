"""Inputs on which a compiled model is held against its original: seeded, random and adversarial."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from .source import DTYPES, InputSpec, Source, to_numpy, to_torch

if TYPE_CHECKING:
    import torch

Span = tuple[int, int]
# Tokens in a case at most, so that producing the original's answers stays cheap; the longest case is one row.
BUDGET_TOKENS = 128
STORED_BYTES = 16 << 20  # of inputs in the longest case, since a bundle holds them; what a decoder keeps is large


@dataclass(frozen=True, slots=True)
class Case:
    """A named set of inputs."""

    name: str
    inputs: dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a case, and which positions of each row are real: bool [batch, seq]."""

    sizes: dict[str, int]
    real: np.ndarray


# What differs between the cases of a model whose inputs have no length, as those of images do.
_OF_FIXED_SIZE = frozenset({"no padding", "shortest", "extreme values", "largest batch"})

# The cases of a model whose rows hold several texts, which are never padded: name -> (what it is then, how to draw).
_OF_PACKED_ROWS = {
    "no padding": ("packed rows", "random"), "padding right": ("one text a row", "one text"),
    "ragged": ("many short texts", "short texts"), "shortest": ("shortest", "random"),
    "longest": ("longest", "random"), "extreme values": ("extreme values", "extreme"),
    "largest batch": ("largest batch", "random"),
}  # fmt: skip


def cases(source: Source, batch: Span = (1, 4), seq: Span = (1, 128), *, seed: int = 0) -> tuple[Case, ...]:
    """Ten cases: no padding, padding on the left, right and both, ragged, shortest, longest, one real token,
    extreme ids, the largest batch.

    Where a second length varies (a target's), it differs from the first in most cases, and is padded in another way;
    the names speak of the first. Without any length, four of them; of rows that hold several texts, seven.
    batch, seq: (low, high), both included; the longest case has `high` tokens in `low` rows, the widest `high` rows.
    The same arguments give the same arrays.
    """
    longest = min(seq[1], source.max_seq) if source.max_seq else seq[1]
    longest = min(longest, STORED_BYTES // (_bytes_each(source) * max(batch[0], 1)))
    seq = (seq[0], max(seq[0], longest))
    rows = _between(batch, 3)
    length = _fit(seq, rows)
    pad = _fit(seq, max(rows, 2))
    few = max(batch[0], 1)
    wide = _fit(seq, batch[1])
    plan: tuple[tuple[str, int, int, Callable[..., np.ndarray], str], ...] = (
        ("no padding", rows, length, _full, "random"),
        ("padding right", rows, pad, _right, "random"),
        ("padding left", rows, pad, _left, "random"),
        ("ragged", rows, pad, _ragged, "random"),
        ("padding both sides", rows, pad, _both, "random"),
        ("shortest", few, seq[0], _full, "random"),
        ("longest", few, seq[1], _full, "random"),
        ("one real token", rows, pad, _single, "random"),
        ("extreme values", rows, length, _full, "extreme"),
        ("largest batch", batch[1], wide, _right, "random"),
    )
    if not _lengths(source):
        plan = tuple(row for row in plan if row[0] in _OF_FIXED_SIZE)
    if any(s.role == "positions" for s in source.inputs):
        named = ((*_OF_PACKED_ROWS[row[0]], row) for row in plan if row[0] in _OF_PACKED_ROWS)
        plan = tuple((name, row[1], row[2], _full, draw) for name, draw, row in named)
    made = []
    for i, (name, b, s, mask, draw) in enumerate(plan):
        rng = np.random.default_rng((seed, i))
        real = mask(rng, b, s)
        others = {n: _SECOND[mask](rng, b, _beside(seq, s, i)) for n in _lengths(source)[1:]}
        made.append(Case(name, make(source, b, s, rng, real=real, draw=draw, others=others)))
    return tuple(made)


def make(
    source: Source,
    batch: int,
    seq: int,
    rng: np.random.Generator,
    *,
    real: np.ndarray | None = None,
    draw: str = "random",
    others: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Inputs of one shape; `real` marks the positions that are no padding, bool [batch, seq].

    others: the same for other lengths, by name. Sizes other than `batch` that vary and are not among them take `seq`.
    """
    reals = dict(others or {})
    sizes = {"batch": batch, **{name: own.shape[1] for name, own in reals.items()}}
    first = np.ones((batch, seq), bool) if real is None else real
    drawn = {
        s.name: _DRAWS[s.role](s, Shape(sizes, reals.get(_length(s), first)), seq, rng, draw) for s in source.inputs
    }
    return drawn if source.phase == "prefill" or source.on_meta else drawn | _kept(source, first, rng, draw)


def _kept(source: Source, real: np.ndarray, rng: np.random.Generator, draw: str) -> dict[str, np.ndarray]:
    """What a decoder keeps of a drawn text: no arrays at random, by which a trained model would be thrown off."""
    import torch

    spec = next(s for s in source.inputs if s.role == "ids")
    ids = _data(replace(spec, dims=real.shape), Shape({}, real), 0, rng, draw)
    module: Any = source.module
    with torch.no_grad():
        kept = module.prefill(to_torch(ids), to_torch(real.astype(np.int64)))
    return {name: to_numpy(tensor) for name, tensor in kept.items()}


def samples(source: Source) -> dict[str, torch.Tensor]:
    """Small example tensors for tracing, on the model's device: two rows, and lengths that differ from each other.

    A size of 1 or two equal sizes would be taken for a rule of the model.
    """
    if hasattr(source, "traced"):
        given: Mapping[str, np.ndarray] = source.traced()
        return {name: to_torch(array).to("meta" if source.on_meta else "cpu") for name, array in given.items()}
    sizes = {name: 7 + 2 * i for i, name in enumerate(_lengths(source))}
    others = {name: np.ones((2, size), bool) for name, size in sizes.items()}
    drawn = make(source, 2, sizes.get("seq", 7), np.random.default_rng(0), others=others)
    device = "meta" if source.on_meta else "cpu"
    return {name: to_torch(array).to(device) for name, array in drawn.items()}


def _lengths(source: Source) -> tuple[str, ...]:
    """The sizes other than `batch` that vary, `seq` first."""
    names = dict.fromkeys(d for s in source.inputs for d in s.dims if isinstance(d, str) and d.isidentifier())
    names.pop("batch", None)
    return tuple(sorted(names, key=lambda name: name != "seq"))


def _bytes_each(source: Source) -> int:
    """Bytes of all inputs for each step of their lengths, in one row."""
    each = [
        DTYPES[s.dtype].itemsize * prod(d for d in s.dims if isinstance(d, int))
        for s in source.inputs if any(d != "batch" for d in s.dims if isinstance(d, str))
    ]  # fmt: skip
    return max(1, sum(each))


def _length(spec: InputSpec) -> str:
    """The name of the size along a spec's second axis, or nothing."""
    second = spec.dims[1] if len(spec.dims) > 1 else ""
    return second if isinstance(second, str) else ""


def _beside(seq: Span, length: int, index: int) -> int:
    """A second length beside the first: shorter and longer in turns, the least and the greatest beside their like."""
    return length if length in seq else _between(seq, length * (2 + 2 * (index % 2)) // 3)


def _between(span: Span, wanted: int) -> int:
    return max(span[0], min(span[1], wanted))


def _fit(seq: Span, rows: int) -> int:
    """A middling length that keeps the case within the budget."""
    return _between(seq, max(1, min(48, BUDGET_TOKENS // max(rows, 1))))


def _full(rng: np.random.Generator, batch: int, seq: int) -> np.ndarray:
    return np.ones((batch, seq), bool)


def _right(rng: np.random.Generator, batch: int, seq: int) -> np.ndarray:
    lengths = rng.integers(1, max(seq, 2), (batch, 1))
    return np.arange(seq) < lengths


def _left(rng: np.random.Generator, batch: int, seq: int) -> np.ndarray:
    return _right(rng, batch, seq)[:, ::-1]


def _ragged(rng: np.random.Generator, batch: int, seq: int) -> np.ndarray:
    """Each row of its own length, from one token to full."""
    lengths = np.linspace(1, seq, batch).round().astype(int) if batch > 1 else np.array([max(1, seq // 2)])
    return np.arange(seq) < rng.permutation(lengths)[:, None]


def _both(rng: np.random.Generator, batch: int, seq: int) -> np.ndarray:
    starts = rng.integers(0, max(seq // 2, 1), (batch, 1))
    lengths = rng.integers(1, max(seq - seq // 2, 2), (batch, 1))
    at = np.arange(seq)
    return (at >= starts) & (at < starts + lengths)


def _single(rng: np.random.Generator, batch: int, seq: int) -> np.ndarray:
    return np.arange(seq) == rng.integers(0, seq, (batch, 1))


_SECOND = {_full: _full, _right: _left, _left: _full, _ragged: _both, _both: _right, _single: _ragged}


def _sizes(spec: InputSpec, shape: Shape, seq: int) -> tuple[int, ...]:
    return tuple(d if isinstance(d, int) else _size(d, shape, seq) for d in spec.dims)


def _size(dim: str, shape: Shape, seq: int) -> int:
    """`past`, `past+1` or `past+seq`."""
    return sum(int(part) if part.isdigit() else shape.sizes.get(part, seq) for part in dim.split("+"))


def _mask(spec: InputSpec, shape: Shape, seq: int, rng: np.random.Generator, draw: str) -> np.ndarray:
    rows, size = _sizes(spec, shape, seq)
    real = np.ones((rows, size), bool)  # another length than the ids': what reaches beyond them is real
    real[:, : shape.real.shape[1]] = shape.real[:, :size]
    return np.ascontiguousarray(real != spec.inverted).astype(DTYPES[spec.dtype])


def _ids(spec: InputSpec, shape: Shape, seq: int, rng: np.random.Generator, draw: str) -> np.ndarray:
    """As a tokenizer pads them: some models find the end of a text by its padding."""
    ids = ended(spec, shape.real, _data(spec, shape, seq, rng, draw))
    if spec.pad is None or shape.real.all() or ids.shape != shape.real.shape:
        return ids
    other = spec.pad + 1 if spec.pad < spec.high else spec.low
    return np.where(shape.real, np.where(ids == spec.pad, other, ids), spec.pad).astype(ids.dtype)


def ended(spec: InputSpec, real: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """With the end at the last real position of each row, and nowhere else."""
    if spec.end is None or ids.shape != real.shape:
        return ids
    ids = np.where(ids == spec.end, spec.end - 1 if spec.end > spec.low else spec.high, ids)
    last = real.shape[1] - 1 - real[:, ::-1].argmax(axis=1)
    ids[np.arange(len(ids)), last] = spec.end
    return ids


def _positions(spec: InputSpec, shape: Shape, seq: int, rng: np.random.Generator, draw: str) -> np.ndarray:
    """Rows that hold one to four texts end to end, or as `draw` says; each text is counted from 0 on."""
    rows, size = _sizes(spec, shape, seq)
    texts = {"one text": 0, "short texts": size / 2}.get(draw, 3)
    starts = rng.random((rows, size)) < texts / max(size, texts, 1)
    if texts and size > 1:
        starts[-1, size // 2] = True  # at least one row holds two
    starts[:, 0] = True
    at = np.arange(size)
    return (at - np.maximum.accumulate(np.where(starts, at, 0), axis=1)).astype(DTYPES[spec.dtype])


def _data(spec: InputSpec, shape: Shape, seq: int, rng: np.random.Generator, draw: str) -> np.ndarray:
    sizes, dtype = _sizes(spec, shape, seq), DTYPES[spec.dtype]
    extreme = draw == "extreme"
    if spec.dtype.startswith(("f", "bf")):
        values = rng.standard_normal(sizes) * spec.high
        return (np.sign(values) * 8 * spec.high if extreme else values).astype(dtype)
    if extreme:
        return rng.choice(np.array([spec.low, spec.high]), sizes).astype(dtype)
    return rng.integers(spec.low, spec.high, sizes, endpoint=True).astype(dtype)


_DRAWS = {"ids": _ids, "data": _data, "mask": _mask, "positions": _positions}
