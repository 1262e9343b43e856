"""Image models as sources: the size of the image, its channels, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tundish.models.cases import cases
from tundish.models.errors import ModelError
from tundish.models.open import open_model
from tundish.models.vision import image_size, image_source


@pytest.mark.parametrize(("size", "found"), [
    (32, (32, 32, True)), ([32, 48], (32, 48, True)), ((16, 16), (16, 16, True)),
    ({"height": 24, "width": 40}, (24, 40, True)), ({"shortest_edge": 24}, (224, 224, False)),
    (None, (224, 224, False)),
])  # fmt: skip
def test_the_size_of_an_image_in_all_its_spellings(size, found):
    assert image_size(SimpleNamespace(image_size=size)) == found


def test_a_config_without_a_size_says_what_was_taken():
    import transformers

    config = transformers.ResNetConfig(
        num_channels=1, embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic"
    )
    source = image_source(transformers.ResNetModel(config), name="r", kind="test")
    assert source.inputs[0].dims == ("batch", 1, 224, 224)
    assert source.notes == ("compiled for images of 224 x 224: the config names no size",)


def test_pixels_come_in_the_dtype_of_the_weights():
    assert [open_model("vit-tiny", dtype=d).inputs[0].dtype for d in ("f32", "bf16")] == ["f32", "bf16"]


def test_cases_differ_in_batch_and_magnitude_alone():
    source = open_model("vit-tiny")
    made = cases(source, batch=(1, 6))
    shapes = {c.name: c.inputs["pixel_values"].shape[0] for c in made}
    assert shapes == {"no padding": 3, "shortest": 1, "extreme values": 3, "largest batch": 6}


def test_a_text_model_takes_no_images():
    with pytest.raises(ModelError, match="its main input is input_ids|does not take images"):
        image_source(open_model("bert-tiny").module, name="b", kind="test")
