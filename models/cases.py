"""Inputs on which a compiled model is held against its original: seeded, random and adversarial."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .source import DTYPES, InputSpec, Source, to_torch

if TYPE_CHECKING:
    import torch

Span = tuple[int, int]
# Tokens in a case at most, so that producing the original's answers stays cheap; the longest case is one row.
BUDGET_TOKENS = 128


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


def cases(source: Source, batch: Span = (1, 4), seq: Span = (1, 128), *, seed: int = 0) -> tuple[Case, ...]:
    """Ten cases: no padding, padding on the left, right and both, ragged, shortest, longest, one real token,
    extreme ids, the largest batch.

    batch, seq: (low, high), both included; the longest case has `high` tokens in `low` rows, the widest `high` rows.
    The same arguments give the same arrays.
    """
    longest = min(seq[1], source.max_seq) if source.max_seq else seq[1]
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
    made = []
    for i, (name, b, s, mask, draw) in enumerate(plan):
        rng = np.random.default_rng((seed, i))
        made.append(Case(name, make(source, b, s, rng, real=mask(rng, b, s), draw=draw)))
    return tuple(made)


def make(
    source: Source,
    batch: int,
    seq: int,
    rng: np.random.Generator,
    *,
    real: np.ndarray | None = None,
    draw: str = "random",
) -> dict[str, np.ndarray]:
    """Inputs of one shape; `real` marks the positions that are no padding, bool [batch, seq].

    Sizes other than `batch` that vary take `seq`.
    """
    shape = Shape({"batch": batch}, np.ones((batch, seq), bool) if real is None else real)
    return {s.name: _DRAWS[s.role](s, shape, seq, rng, draw) for s in source.inputs}


def samples(source: Source) -> dict[str, torch.Tensor]:
    """Small example tensors for tracing, on the model's device: two rows, and lengths that differ from each other.

    A size of 1 or two equal sizes would be taken for a rule of the model.
    """
    names = dict.fromkeys(d for s in source.inputs for d in s.dims if isinstance(d, str) and d != "batch")
    sizes = {"batch": 2, **{name: 7 + 2 * i for i, name in enumerate(names)}}
    seq = sizes.get("seq", 7)
    shape = Shape(sizes, np.ones((2, seq), bool))
    rng = np.random.default_rng(0)
    device = "meta" if source.on_meta else "cpu"
    return {s.name: to_torch(_DRAWS[s.role](s, shape, seq, rng, "random")).to(device) for s in source.inputs}


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


def _sizes(spec: InputSpec, shape: Shape, seq: int) -> tuple[int, ...]:
    return tuple(d if isinstance(d, int) else shape.sizes.get(d, seq) for d in spec.dims)


def _mask(spec: InputSpec, shape: Shape, seq: int, rng: np.random.Generator, draw: str) -> np.ndarray:
    rows, size = _sizes(spec, shape, seq)
    real = np.ones((rows, size), bool)  # another length than the ids': what reaches beyond them is real
    real[:, : shape.real.shape[1]] = shape.real[:, :size]
    return np.ascontiguousarray(real != spec.inverted).astype(DTYPES[spec.dtype])


def _data(spec: InputSpec, shape: Shape, seq: int, rng: np.random.Generator, draw: str) -> np.ndarray:
    sizes, dtype = _sizes(spec, shape, seq), DTYPES[spec.dtype]
    extreme = draw == "extreme"
    if spec.dtype.startswith(("f", "bf")):
        values = rng.standard_normal(sizes) * spec.high
        return (np.sign(values) * 8 * spec.high if extreme else values).astype(dtype)
    if extreme:
        return rng.choice(np.array([spec.low, spec.high]), sizes).astype(dtype)
    return rng.integers(spec.low, spec.high, sizes, endpoint=True).astype(dtype)


_DRAWS = {"ids": _data, "data": _data, "mask": _mask}
