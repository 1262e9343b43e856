"""What the parity tests share: padded batches, and a bundle held against eager torch at the positions that count."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tundish.profiler.parity import all_see, counting

SIDES = ("", "left", "right")
SHAPES = ((1, 1), (3, 17), (2, 64))


def padded(source: Any, batch: int, seq: int, side: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Ids within the vocabulary and a mask padded on one side (or not at all), each row differently.

    The padding token's id is drawn like any other, also at real positions: a model may read positions off the ids.
    """
    lengths = rng.integers(1, seq + 1, batch) if side else np.full(batch, seq)
    places = np.arange(seq)
    real = places < lengths[:, None] if side != "left" else places >= seq - lengths[:, None]
    arrays = {
        "input_ids": rng.integers(0, source.vocab_size, (batch, seq)),
        "attention_mask": real.astype(np.int64),
        "token_type_ids": rng.integers(0, 2, (batch, seq)),
    }
    return {spec.name: arrays[spec.name] for spec in source.inputs}


def assert_equals_eager(
    bundle: Any, source: Any, shapes: Iterable[tuple[int, int]] = SHAPES, sides: Iterable[str] = SIDES, *, seed: int = 7
) -> None:
    """Each answer within 1e-5 * max(1, max|reference|) of eager torch where a position attends; finite everywhere."""
    rng = np.random.default_rng(seed)
    for side in sides:
        for batch, seq in shapes:
            assert_same_answers(bundle, source, padded(source, batch, seq, side, rng), (side, batch, seq))


def assert_same_answers(bundle: Any, source: Any, arrays: dict[str, np.ndarray], what: object = "") -> None:
    """One run of both on `arrays`."""
    wanted, got = source.call(arrays), bundle.run(arrays)
    counted = counting(bundle.program, arrays)
    assert set(got) == set(wanted)
    for key, want in wanted.items():
        answer = got[key]
        assert answer.shape == want.shape, (key, what)
        assert np.isfinite(answer).all(), ("padding rows too are finite", key, what)
        if key in counted:
            answer, want = answer[counted[key]], want[counted[key]]
        elif not all_see(bundle.program, arrays):
            continue
        error = np.abs(answer - want).max(initial=0.0)
        assert error <= 1e-5 * max(1.0, np.abs(want).max(initial=0.0)), (key, what, float(error))
