"""Every family of models with experts on both backends, at numbers of tokens for which kernels take different ways."""

from __future__ import annotations

from pathlib import Path

import moe_kit as kit
import numpy as np
import pytest

import tundish
from tundish.models.cases import make
from tundish.models.open import open_model

SHAPES = ((1, 1), (1, 2), (1, 7), (2, 16), (2, 65))  # batch, sequence: 1 to 130 tokens
QUICK = ("gpt_oss",)  # biases, a clamped activation, matrices of which one is a transpose
FAMILIES = [name for name in kit.FAMILIES if name != "jamba"]  # whose length is fixed when it is captured


@pytest.mark.parametrize("backend", ["onnxruntime", "tvm"])
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in FAMILIES])
def test_a_bundle_equals_eager(name: str, backend: str, tmp_path: Path) -> None:
    kit.of_transformers(name).save_pretrained(tmp_path / "model")
    source = open_model(tmp_path / "model")
    bundle = tundish.compile(tmp_path / "model", tmp_path / "b.tundish", batch="1..4", seq="1..128", backend=backend)
    for shape in SHAPES:
        given = make(source, *shape, np.random.default_rng(sum(shape)))
        wanted, got = source.call(given), bundle.run(given)
        for key, array in wanted.items():
            bound = 1e-5 * max(1.0, np.abs(array).max())
            np.testing.assert_allclose(got[key], array, atol=bound, rtol=0, err_msg=f"{key}, {shape}")
