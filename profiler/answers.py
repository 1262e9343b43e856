"""Whether competitors give the same answer: every output that two of them have, at positions that are real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .parity import MOST, NOISE, ROW_TOLERANCE, TOLERANCE

Arrays = Mapping[str, np.ndarray]
Named = Sequence[tuple[str, np.ndarray]]
ANSWER = "answer.npz"  # the file of a competitor's outputs, under names with their number before them


@dataclass(frozen=True, eq=False)
class Reference:
    """What the model answers. noise: how far its own rounding takes each output from the same model in f64."""

    origin: str
    outputs: Arrays
    noise: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Difference:
    """max_abs: the largest over all outputs compared, None where there was none to compare. problem: "" where it is
    within the tolerance, else a sentence."""

    max_abs: float | None
    problem: str = ""


def read_answer(file: Path) -> list[tuple[str, np.ndarray]]:
    """What a competitor's process wrote there: its outputs in order."""
    with np.load(file, allow_pickle=False) as held:
        return [(key.partition(":")[2], held[key]) for key in held.files]


def reference(origin: str, outputs: Arrays, exact: Arrays | None) -> Reference:
    """The answer with its noise, where the same model has answered in f64."""
    noise = {k: _apart(v, exact[k]) for k, v in outputs.items() if exact is not None and v.dtype.kind == "f"}
    return Reference(origin, outputs, noise)


def difference(found: Named, wanted: Reference, inputs: Arrays, dtype: str = "f32") -> Difference:
    """Holds an answer against the reference, by the tolerances of `parity`, for computing in `dtype`.

    Outputs go by name; where none has a name of the reference's, by order, if there are as many.
    """
    pairs = _paired(found, wanted.outputs)
    if not pairs:
        return Difference(None, f"gives no output of {wanted.origin}'s: {', '.join(n for n, _ in found)[:120]}")
    worst, problems = 0.0, []
    for name, array in pairs.items():
        want = wanted.outputs[name]
        if array.shape != want.shape:
            problems.append(f"{name} is {list(array.shape)}, not {list(want.shape)}")
            continue
        real = _real(want, inputs)
        apart = _apart(array[real], want[real])
        if dtype in ROW_TOLERANCE:
            worst, off = max(worst, apart), _median_row(array[real], want[real])
            problems += [] if off <= ROW_TOLERANCE[dtype] else [f"{name} is {off:.2g} of its length off"]
            continue
        least = TOLERANCE[dtype] * max(1.0, float(np.abs(_finite(want[real])).max(initial=0.0)))
        allowed = min(max(least, NOISE * wanted.noise.get(name, 0.0)), MOST * least)
        worst = float(np.maximum(worst, apart))  # unlike max(), it keeps a NaN
        if not apart <= allowed:
            problems.append(f"{name} differs from {wanted.origin} by {apart:.3g} where {allowed:.3g} is allowed")
    return Difference(worst, "; ".join(problems))


def _paired(found: Named, wanted: Arrays) -> dict[str, np.ndarray]:
    named = {name: array for name, array in found if name in wanted}
    if not named and len(found) == len(wanted):
        return {name: array for name, (_, array) in zip(wanted, found, strict=True)}
    return named


def _real(array: np.ndarray, inputs: Arrays) -> np.ndarray:
    """Which of its leading positions count: [batch, length] where a mask has them, else all, as bool."""
    for name, mask in inputs.items():
        if name.endswith("attention_mask") and mask.ndim == 2 and array.shape[:2] == mask.shape:
            return np.asarray(mask != 0)
    return np.ones(array.shape[:1], bool) if array.ndim else np.ones((), bool)


def _median_row(found: np.ndarray, wanted: np.ndarray) -> float:
    """The median over rows of the last axis of |difference| / |wanted|, in l2."""
    a, b = (x.astype(np.float64).reshape(-1, x.shape[-1]) for x in (found, wanted))
    return float(np.median(np.linalg.norm(a - b, axis=1) / np.maximum(np.linalg.norm(b, axis=1), 1e-30)))


def _finite(array: np.ndarray) -> np.ndarray:
    wide = array.astype(np.float64)
    return np.where(np.isfinite(wide), wide, 0.0)


def _apart(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference where the wanted one is finite; NaN where the found one then is not."""
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    return float(np.abs(np.where(np.isfinite(b), a - b, 0.0)).max(initial=0.0))
