"""Seeded inputs for a bundle about whose model nothing else is known."""

from __future__ import annotations

import numpy as np

from ..ir import dims
from .signature import Signature, TensorSpec

_SIZES = {"batch": 2, "seq": 16}  # what a size is by name, cut to its range; others take 4


def random_inputs(signature: Signature, seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays for every input: floats are normal, masks one, other integers 0 or 1 (valid in any vocabulary)."""
    sizes = {}
    for name, (low, high) in signature.symbols.items():
        size = max(low, _SIZES.get(name, 4))
        sizes[name] = size if high is None else min(size, high)
    rng = np.random.default_rng(seed)
    return {spec.name: _draw(spec, sizes, rng) for spec in signature.inputs}


def _draw(spec: TensorSpec, sizes: dict[str, int], rng: np.random.Generator) -> np.ndarray:
    shape = tuple(dims.evaluate(d, sizes) for d in spec.type.shape)
    dtype = spec.type.dtype
    if dtype.is_float:
        return rng.standard_normal(shape).astype(dtype.numpy)
    if "mask" in spec.name:
        return np.ones(shape, dtype.numpy)
    return rng.integers(0, 2, shape).astype(dtype.numpy)
