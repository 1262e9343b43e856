"""Inputs for a bundle from arrays, files, or seeded chance."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir import dims
from ..ir.diagnostics import LoadError
from .signature import Signature, TensorSpec

if TYPE_CHECKING:
    from .bundle import Bundle

_MOST_NUMBERS, _MOST_AXES = 1 << 27, 32
_SIZES = {"batch": 2, "seq": 16, "past": 16}  # what a size is by name, cut to its range; others take 4


def arrays(bundle: Bundle, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays from arrays, .npy files and the word "random". Raises: LoadError."""
    drawn = random_inputs(next(iter(bundle.entries.values())))
    return {name: _array(name, value, drawn) for name, value in inputs.items()}


def _array(name: str, value: Any, drawn: Mapping[str, np.ndarray]) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    if str(value) != "random":
        return _npy(name, Path(value))
    if name not in drawn:
        raise LoadError(f"the bundle has no input {name!r}", hint=f"it has {', '.join(drawn)}")
    return drawn[name]


def _npy(name: str, path: Path) -> np.ndarray:
    try:
        loaded = np.load(path, allow_pickle=False)
    except OSError as error:
        raise LoadError(f"input {name!r}: cannot read {path}: {error.strerror or error}") from error
    except (ValueError, EOFError) as error:
        raise LoadError(f"input {name!r}: {path} is not a .npy file of plain numbers",
                        hint="write it with numpy.save; pickled objects are never read") from error  # fmt: skip
    if not isinstance(loaded, np.ndarray):
        raise LoadError(f"input {name!r}: {path} holds several arrays", hint="give a .npy file")
    return loaded


def random_inputs(
    signature: Signature, seed: int = 0, sizes: Mapping[str, int] | None = None,
    like: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Arrays for every input: floats are normal, masks one, other integers 0 or 1 (valid in any vocabulary).

    sizes: of the symbols; by default small ones. like: arrays whose integers show from where to where they go.
    Raises: LoadError where the least sizes that an input allows are too many numbers to draw.
    """
    rng = np.random.default_rng(seed)
    chosen = _usual(signature) if sizes is None else dict(sizes)
    return {spec.name: _draw(spec, chosen, rng, (like or {}).get(spec.name)) for spec in signature.inputs}


def _usual(signature: Signature) -> dict[str, int]:
    sizes = {}
    for name, (low, high) in signature.symbols.items():
        size = max(low, _SIZES.get(name, 4))
        sizes[name] = size if high is None else min(size, high)
    return sizes


def _draw(
    spec: TensorSpec, sizes: dict[str, int], rng: np.random.Generator, like: np.ndarray | None = None
) -> np.ndarray:
    try:
        shape = tuple(dims.evaluate(d, sizes) for d in spec.type.shape)
    except ZeroDivisionError as error:
        raise LoadError(f"input {spec.name!r} has no size where {sizes}", found=str(spec)) from error
    if min(shape, default=0) < 0 or len(shape) > _MOST_AXES or prod(shape) > _MOST_NUMBERS:
        raise LoadError(f"input {spec.name!r} cannot be drawn at random", found=f"{spec} with the sizes {sizes}",
                        hint="give a .npy file")  # fmt: skip
    dtype = spec.type.dtype
    if dtype.is_float:
        return rng.standard_normal(shape).astype(dtype.numpy)
    if "mask" in spec.name:
        return np.ones(shape, dtype.numpy)
    low, high = (0, 1) if like is None or not like.size else (int(like.min()), int(like.max()))
    if "position" in spec.name:  # one text a row
        return np.broadcast_to(low + np.arange(shape[-1]) % (high - low + 1), shape).astype(dtype.numpy)
    return rng.integers(low, high, shape, endpoint=True).astype(dtype.numpy)
