"""Models with experts on every backend, at numbers of tokens that take its kernels through all of their forms."""

from __future__ import annotations

from pathlib import Path

import pytest

import tundish
from tundish.models.open import open_model

from .kit import assert_equals_eager

MODELS = ("mixtral-tiny", "qwen3-moe-tiny", "deepseek-v3-tiny")
SHAPES = ((1, 1), (1, 2), (1, 7), (1, 32), (2, 65))  # batch, sequence: 130 tokens at the end


@pytest.mark.parametrize("backend", ["onnxruntime", pytest.param("tvm", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", MODELS)
def test_a_bundle_equals_eager(name: str, backend: str, tmp_path: Path) -> None:
    bundle = tundish.compile(name, tmp_path / "b.tundish", batch="1..4", seq="1..128", backend=backend)
    assert_equals_eager(bundle, open_model(name), SHAPES, [""])
