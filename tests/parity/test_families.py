"""Whole models through the whole way, held against eager torch: the proof that users get."""

from __future__ import annotations

from pathlib import Path

import pytest

import tundish
from tundish.ir.dims import Range
from tundish.ir.fold import fold
from tundish.ir.text import same
from tundish.ir.unfold import unfold
from tundish.models.open import open_model as load

from .kit import assert_equals_eager

FAMILIES = ("bert-tiny", "gpt2-tiny", "llama-tiny")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tundish.Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    return {name: tundish.compile(name, folder / f"{name}.tundish") for name in FAMILIES}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("side", ["", "left", "right"])
def test_bundle_equals_eager(bundles, name: str, side: str) -> None:
    assert_equals_eager(bundles[name], load(name), sides=(side,))


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_are_one_function_called_often(name: str) -> None:
    program = tundish.capture(name)
    calls = [n for n in program.entry.nodes if n.op.name == "call"]
    assert len(calls) == 3 and len({n.attrs["function"] for n in calls}) == 1
    flat = unfold(program)
    assert same(unfold(fold(flat)), flat)


@pytest.mark.parametrize("name", FAMILIES)
def test_verify_replays_the_originals_answers(bundles, name: str) -> None:
    report = tundish.verify(bundles[name])
    assert report.passed and report.cases >= 8 and report.origin.startswith("torch")
    assert {c.name for c in bundles[name].cases().cases} >= {"padding left", "padding right", "longest", "shortest"}


def test_a_layer_of_bert_is_called_twelve_times() -> None:
    from tundish.ir.capture.from_torch import capture  # noqa: F401

    program = tundish.capture("bert-base")
    assert [n.op.name for n in program.entry.nodes].count("call") == 12
    assert len(program.functions) == 2


def test_a_handwritten_transformer_folds_and_runs(tmp_path: Path) -> None:
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.n1, self.n2 = nn.LayerNorm(size), nn.LayerNorm(size)
            self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
            self.up, self.down = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            b, s, d = x.shape
            q, k, v = (t.view(b, s, 4, d // 4).transpose(1, 2) for t in self.qkv(self.n1(x)).chunk(3, -1))
            scores = (q @ k.transpose(-2, -1)) * (d // 4) ** -0.5
            scores = scores.masked_fill(torch.triu(torch.ones(s, s, dtype=torch.bool), 1), float("-inf"))
            x = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, s, d))
            return x + self.down(nn.functional.gelu(self.up(self.n2(x))))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(50, 32)
            self.blocks = nn.Sequential(*(Block(32) for _ in range(4)))
            self.norm = nn.LayerNorm(32)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.norm(self.blocks(self.embed(ids)))

    torch.manual_seed(0)
    model, sample = Model().eval(), {"ids": torch.randint(0, 50, (2, 9))}
    program = tundish.capture(model, inputs=sample)
    assert [n.op.name for n in program.entry.nodes].count("call") == 4
    bundle = tundish.compile(model, tmp_path / "hand.tundish", inputs=sample, seq=Range(1, 64))
    counts = [n.op.name for g in bundle.program.functions.values() for n in g.nodes]
    assert "softmax" not in counts and "attention" in counts, "hand-written attention is raised"
    assert tundish.verify(bundle).passed
