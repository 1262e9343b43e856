"""Models with experts through the whole way, held against eager torch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import tundish
from tundish.ir.fold import fold
from tundish.ir.text import same
from tundish.ir.unfold import unfold
from tundish.ir.walk import op_counts, steps
from tundish.models.open import open_model as load
from tundish.models.zoo import load_named
from tundish.originals import captured

from .kit import assert_equals_eager

LAYERS = {"mixtral-tiny": range(3), "qwen3-moe-tiny": range(3), "deepseek-v3-tiny": range(1, 4)}  # of experts


@pytest.fixture(scope="module")
def programs() -> dict[str, tundish.Program]:
    return {name: tundish.capture(name) for name in LAYERS}


@pytest.mark.parametrize("name", LAYERS)
def test_a_bundle_equals_eager_and_verifies(name: str, tmp_path: Path) -> None:
    bundle = tundish.compile(name, tmp_path / "b.tundish", batch="1..4", seq="1..64")
    assert_equals_eager(bundle, load(name))
    assert tundish.verify(bundle).passed
    assert {n: str(r) for n, r in bundle.entries["forward"].ranges.items()} == {"batch": "1..4", "seq": "1..64"}


@pytest.mark.parametrize("name", LAYERS)
def test_one_node_for_each_layer_of_experts_at_its_place(name: str, programs) -> None:
    found = [s.where.module for s in steps(programs[name]) if s.node.op.name == "moe"]
    assert found == [f"model.layers.{i}.mlp.experts" for i in LAYERS[name]]


@pytest.mark.parametrize("name", LAYERS)
def test_one_attention_for_each_layer(name: str, programs) -> None:
    counts = op_counts(programs[name])
    layers = max(LAYERS[name]) + 1
    assert counts["attention"] == layers
    flat = unfold(programs[name])
    assert same(unfold(fold(flat)), flat)


def test_keys_and_values_of_latent_attention_differ_in_size(programs) -> None:
    nodes = [s.node for s in steps(programs["deepseek-v3-tiny"]) if s.node.op.name == "attention"]
    assert {(n.inputs[1].type.shape[3], n.inputs[2].type.shape[3]) for n in nodes} == {(12, 6)}


@pytest.mark.parametrize("name", LAYERS)
def test_routing_stands_outside_in_f32(name: str, programs) -> None:
    """What makes indices and weights are ordinary ops of the gate's module, on f32."""
    gate = [s.node for s in steps(programs[name]) if s.where.module.endswith("mlp.gate")]
    counts = Counter(n.op.name for n in gate)
    experts = len(LAYERS[name])
    if name.startswith("deepseek"):  # by group, within a group, and of those the experts
        assert (counts["sigmoid"], counts["topk"], counts["scatter_elements"]) == (experts, 3 * experts, experts)
    else:
        assert (counts["softmax"], counts["topk"]) == (experts, experts)
    for node in gate:
        if node.op.name in ("softmax", "sigmoid", "topk"):
            assert node.outputs[0].type.dtype.name == "f32"


@pytest.mark.parametrize("name", LAYERS)
def test_routing_is_f32_in_a_bf16_model_too(name: str) -> None:
    program = captured(load_named(name, dtype="bf16", shape_only=True), {})
    gate = [s.node for s in steps(program) if s.where.module.endswith("mlp.gate")]
    scores = [n for n in gate if n.op.name in ("softmax", "sigmoid")]
    assert len(scores) == len(LAYERS[name])
    assert {n.outputs[0].type.dtype.name for n in scores} == {"f32"}
    experts = [s.node for s in steps(program) if s.node.op.name == "moe"]
    assert {n.inputs[0].type.dtype.name for n in experts} == {"bf16"}
