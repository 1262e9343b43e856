"""Image models: every family in one of its smallest forms, two heads of ViT as bundles, against eager transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tundish
from tundish.ir.diagnostics import CaptureError, RunError
from tundish.ir.dims import Range
from tundish.ir.walk import op_counts
from tundish.models.open import open_model
from tundish.models.transformers_source import transformers_source
from tundish.originals import captured

from .build_kit import compiled, opened

SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
STAGES = {"image_size": 64, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
HEADS = {**STAGES, "num_attention_heads": [1, 2, 3, 4]}
WINDOWS = {
    "image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4,
}  # fmt: skip
# class -> model type, what differs from its config's defaults, how many attentions there are
FAMILIES: dict[str, tuple[str, dict[str, Any], int]] = {
    "ViTModel": ("vit", SMALL, 2),
    "DeiTForImageClassificationWithTeacher": ("deit", SMALL, 2),
    "BeitForImageClassification": ("beit", {**SMALL, "use_relative_position_bias": True}, 2),
    "Dinov2Model": ("dinov2", SMALL, 2),
    "SwinForImageClassification": ("swin", WINDOWS, 4),
    "ConvNextV2ForImageClassification": ("convnextv2", {**STAGES, "image_size": 32}, 0),
    "CLIPVisionModel": ("clip_vision_model", SMALL, 2),
    "SiglipVisionModel": ("siglip_vision_model", SMALL, 3),
    "PvtForImageClassification": ("pvt", HEADS, 4),
    "PoolFormerForImageClassification": ("poolformer", STAGES, 0),
    "LevitForImageClassification": (
        "levit", {"image_size": 32, "hidden_sizes": [16, 32, 48], "num_attention_heads": [2, 3, 4],
                  "depths": [1, 1, 1], "key_dim": [8, 8, 8]}, 5),
}  # fmt: skip
MORE: dict[str, tuple[str, dict[str, Any], int]] = {
    "Data2VecVisionModel": ("data2vec-vision", {**SMALL, "use_shared_relative_position_bias": True}, 2),
    "Dinov2WithRegistersModel": ("dinov2_with_registers", SMALL, 2),
    "DINOv3ViTModel": ("dinov3_vit", SMALL, 2),
    "ViTMSNForImageClassification": ("vit_msn", SMALL, 2),
    "IJepaForImageClassification": ("ijepa", SMALL, 2),
    "Swinv2ForImageClassification": ("swinv2", WINDOWS, 2),  # shifted windows add their mask seen from five axes
    "ConvNextModel": ("convnext", {**STAGES, "image_size": 32}, 0),
    "CLIPForImageClassification": ("clip", {"vision_config": SMALL}, 2),
    "SiglipForImageClassification": ("siglip", {"vision_config": SMALL}, 2),
    "PvtV2ForImageClassification": ("pvt_v2", HEADS, 4),
    "SegformerForImageClassification": ("segformer", HEADS, 4),
    "MobileViTForImageClassification": (
        "mobilevit", {"image_size": 64, "hidden_sizes": [16, 24, 32],
                      "neck_hidden_sizes": [8, 8, 16, 16, 16, 16, 64]}, 9),
    "CvtForImageClassification": ("cvt", {"image_size": 64}, 13),
    "ResNetForImageClassification": (
        "resnet", {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1],
                   "layer_type": "basic"}, 0),
    "HieraForImageClassification": (
        "hiera", {"image_size": [64, 64], "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]}, 4),
    "FocalNetForImageClassification": (
        "focalnet", {"image_size": 32, "embed_dim": 16, "hidden_sizes": [16, 32], "depths": [1, 1]}, 0),
    "YolosModel": ("yolos", {**SMALL, "image_size": [32, 32], "num_detection_tokens": 4}, 2),
}  # fmt: skip


def source(name: str) -> Any:
    """The model with random weights and statistics, large enough that every layer shows in the output."""
    import torch
    import transformers

    kind, options, _ = {**FAMILIES, **MORE}[name]
    config = transformers.AutoConfig.for_model(kind, **options)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        module = getattr(transformers, name)._from_config(config, attn_implementation="eager")
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.05)
            else:
                parameter.mul_(3)
        for key, buffer in module.named_buffers():
            if "running" in key:
                buffer.add_(torch.rand_like(buffer) * 0.2)
    return transformers_source(module, name=name, kind="test")


def pixels(of: Any, batch: int) -> dict[str, np.ndarray]:
    (spec,) = of.inputs
    return {spec.name: np.random.default_rng(batch).standard_normal((batch, *spec.dims[1:])).astype(np.float32)}


def assert_close(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    assert set(got) == set(want)
    for key, array in want.items():
        largest = float(np.abs(array).max())
        error = float(np.abs(got[key] - array).max())
        assert error <= 1e-5 * max(1.0, largest) and error <= 1e-4 * largest, (key, error, largest)


def check(name: str, folder: Path) -> None:
    of = source(name)
    plan = compiled(captured(of, {"batch": Range(1, 8)}))
    counts = op_counts(plan.program)
    assert counts["conv"] >= 1 and counts.get("attention", 0) == {**FAMILIES, **MORE}[name][2]
    runner = opened(plan, folder)
    for batch in (1, 2, 5):
        given = pixels(of, batch)
        assert_close(runner.run("forward", given), of.call(given))


@pytest.mark.parametrize("name", FAMILIES)
def test_family_equals_eager(name: str, tmp_path: Path):
    check(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_further_family_equals_eager(name: str, tmp_path: Path):
    check(name, tmp_path)


@pytest.mark.parametrize("task", ["image-classification", "embeddings"])
def test_bundle_of_each_head(task: str, tmp_path: Path):
    bundle = tundish.compile("vit-tiny", tmp_path / "b", task=task, verified=True)
    of = open_model("vit-tiny", task)
    for batch in (1, 3, 8):
        assert_close(bundle.run(pixels(of, batch)), of.call(pixels(of, batch)))
    assert len(bundle.cases().cases) == 4
    with pytest.raises(RunError, match="pixel_values"):
        bundle.run({"pixel_values": np.zeros((1, 3, 40, 40), np.float32)})


def test_a_random_mask_is_refused_by_its_line():
    import transformers

    config = transformers.AutoConfig.for_model("vit_mae", **SMALL)
    of = transformers_source(transformers.ViTMAEModel._from_config(config), name="mae", kind="test")
    with pytest.raises(CaptureError, match=r"modeling_vit_mae\.py:\d+ \(in embeddings\): aten\.rand"):
        captured(of, {})
