"""Whole models for GPUs, their kernels simulated, held against what eager torch answered."""

from __future__ import annotations

from pathlib import Path

import pytest

import tundish
from tundish.backends import registry

from .device import Simulating
from .simulate import MIXED, needs_compiler

pytestmark = [needs_compiler, pytest.mark.slow]


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Simulating:
    """In the place of the TVM backend."""
    backend, real = Simulating(order=MIXED), registry.get
    monkeypatch.setattr(registry, "get", lambda name: backend if name == "tvm" else real(name))
    return backend


MODELS = ("bert-tiny", "llama-tiny", "gpt2-tiny", "qwen3-tiny", "gemma2-tiny", "gemma3-tiny", "vit-tiny", "t5-tiny",
          "gpt-neox-tiny", "bloom-tiny", "mistral-tiny", "palm-tiny", "transformer-tiny")  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_a_named_model_verifies(name: str, simulated: Simulating, tmp_path: Path) -> None:
    bundle = tundish.compile(name, tmp_path / "b.tundish", backend="tvm", target=simulated.target)
    report = tundish.verify(bundle)
    assert report.passed and report.cases >= 4 and report.origin.startswith("torch")


@pytest.mark.parametrize("name", ["bert-tiny", "llama-tiny"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_named_model_verifies_in_16_bits(name: str, precision: str, simulated: Simulating, tmp_path: Path) -> None:
    bundle = tundish.compile(name, tmp_path / "b", backend="tvm", target=simulated.target, precision=precision)
    report = tundish.verify(bundle)
    assert report.passed and report.cases >= 4


def test_a_text_goes_on_as_on_the_cpu(simulated: Simulating, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches stay on the device; steps of equal sizes are recorded once and run again as a whole."""
    ours = tundish.compile("llama-tiny", tmp_path / "gpu", backend="tvm", target=simulated.target)
    wanted = tundish.compile("llama-tiny", tmp_path / "cpu", backend="reference")
    prompts = [[3, 1, 4, 1, 5], [9, 2, 6]]
    tokens = [g.tokens for g in ours.generate(prompts, max_new_tokens=8)]
    assert tokens == [g.tokens for g in wanted.generate(prompts, max_new_tokens=8)]
    assert simulated.device.graphs >= 4
    assert simulated.device.managed > 0
