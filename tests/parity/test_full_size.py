"""Full-size models: our rounding against the original's own, both judged by the same model in f64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tundish
from tundish.models.cases import make
from tundish.models.open import open_model
from tundish.profiler.parity import attends


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert-base", "gpt2"])
def test_error_is_at_most_twice_the_originals_own(name: str, tmp_path: Path) -> None:
    bundle, source = tundish.compile(name, tmp_path / "full.tundish", seq="1..128"), open_model(name)
    rng = np.random.default_rng(3)
    left = np.arange(64) >= np.array([[0], [40]])
    for batch, seq, real in ((1, 128, None), (2, 64, left), (2, 64, left[:, ::-1])):
        arrays = make(source, batch, seq, rng, real=real)
        exact, eager, ours = source.float64().call(arrays), source.call(arrays), bundle.run(arrays)
        keep = attends(bundle.program, arrays["attention_mask"])
        for key, want in exact.items():
            rows = keep if want.shape[:2] == keep.shape else np.ones(want.shape[:1], bool)
            own = np.abs(eager[key][rows] - want[rows]).max()
            assert np.abs(ours[key][rows] - want[rows]).max() <= 2 * own, (key, batch, seq)
