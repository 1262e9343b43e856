"""Folders from disk: what loads, and what is refused with a way out."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from tundish.models import open as opening
from tundish.models import zoo
from tundish.models.errors import ModelError, ModelWarning
from tundish.models.huggingface import estimate_bytes, load_folder, model_class, read_config, weight_files
from tundish.models.source import odd_weights


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tiny BERT folder as save_pretrained writes it, and the source it came from."""
    source = zoo.load_named("bert-tiny")
    path = tmp_path_factory.mktemp("models") / "tiny"
    source.module.save_pretrained(path)
    (path / "tokenizer_config.json").write_text('{"padding_side": "left"}')
    return path, source


@pytest.fixture
def folder(saved, tmp_path):
    """A copy that a test may break."""
    import shutil

    return shutil.copytree(saved[0], tmp_path / "model")


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def test_a_saved_model_answers_as_the_one_it_was_saved_from(saved):
    path, before = saved
    after = load_folder(path)
    inputs = {s.name: np.ones((2, 7), np.int64) for s in before.inputs}
    for name, array in before.call(inputs).items():
        np.testing.assert_array_equal(after.call(inputs)[name], array)
    assert (after.name, after.kind, after.pad_side) == ("tiny", "huggingface", "left")
    assert list(after.tokenizer_files()) == ["tokenizer_config.json"]
    assert after.parameter_bytes == before.parameter_bytes


def test_the_estimate_from_headers_is_the_loaded_size(saved):
    path, source = saved
    weights = sum(p.numel() * 4 for p in source.module.parameters())
    assert estimate_bytes(path) == weights
    assert estimate_bytes(path, "bf16") == weights // 2
    assert opening.estimate_bytes("bert-tiny") == weights


def test_an_index_of_shards_is_followed(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [f.name for f in weight_files(folder)] == ["model-00001-of-00001.safetensors"]
    (folder / "model-00001-of-00001.safetensors").unlink()
    with pytest.raises(ModelError, match="lacks weight files"):
        weight_files(folder)


def test_pickled_weights_are_refused_and_never_opened(folder):
    class Bomb:
        def __reduce__(self):
            return (folder / "opened").write_text, ("x",)

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelError, match="pickles, which can run any code") as caught:
        load_folder(folder)
    assert "pytorch_model.bin" in caught.value.found and "save_pretrained" in caught.value.hint
    assert not (folder / "opened").exists()


def test_code_in_the_folder_is_never_run(folder):
    (folder / "modeling_evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    edit(
        folder,
        model_type="evil",
        auto_map={"AutoModel": "modeling_evil.Evil", "AutoConfig": "modeling_evil.C"},
    )
    with pytest.raises(ModelError, match="no model type 'evil'") as caught:
        load_folder(folder)
    assert "never run" in caught.value.hint
    edit(folder, model_type="bert")
    load_folder(folder)  # a known type loads from transformers' own code
    assert not (folder / "ran").exists()


def test_an_unknown_model_type_names_the_nearest(folder):
    edit(folder, model_type="bertt")
    with pytest.raises(ModelError) as caught:
        load_folder(folder)
    assert "bert" in caught.value.hint


def test_an_unknown_architecture_names_the_nearest(folder):
    edit(folder, architectures=["BertModle"])
    with pytest.raises(ModelError, match="no class 'BertModle'") as caught:
        load_folder(folder)
    assert "BertModel" in caught.value.hint


def test_no_architecture_asks_for_a_task(folder):
    edit(folder, architectures=None)
    with pytest.raises(ModelError, match="names no architecture") as caught:
        load_folder(folder)
    assert "--task" in caught.value.hint
    assert type(load_folder(folder, "embeddings").module).__name__ == "BertModel"


def test_a_head_that_was_not_trained_is_refused(folder):
    with pytest.raises(ModelError, match="would be random") as caught:
        load_folder(folder, "token-classification")
    assert "classifier.weight" in caught.value.found


@pytest.mark.parametrize(
    ("task", "match"), [("sing", "no task 'sing'"), ("causal-lm", "no causal-lm class for 'vit' models")]
)
def test_tasks_that_cannot_be(task, match):
    with pytest.raises(ModelError, match=match):
        model_class({"model_type": "vit"}, task)


def test_not_a_number_weights_are_named(folder):
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    key = next(k for k in tensors if "layer.1" in k and k.endswith("query.weight"))
    tensors[key][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.warns(ModelWarning, match="weights with NaN") as caught:
        (note,) = load_folder(folder).notes
    assert key in note and note == str(caught[0].message)
    module = torch.nn.BatchNorm1d(2)
    module.running_mean[:] = torch.tensor([float("inf"), float("-inf")])
    assert odd_weights("m", module) == []  # their sum is NaN, they are not; and in a buffer they may be a mask
    module.weight.data[:] = torch.tensor([3e38, 3e38])
    assert odd_weights("m", module) == []  # their sum is infinite, they are not


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x10\0\0\0\0\0\0\0{not json}......"])
def test_a_broken_header_is_an_error(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="not a safetensors file"):
        estimate_bytes(folder)
    with pytest.raises(ModelError):
        load_folder(folder)


def test_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(ModelError, match=r"has no config\.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="not JSON"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="names no model_type"):
        read_config(tmp_path)
    with pytest.raises(ModelError, match=r"no model\.safetensors"):
        weight_files(tmp_path)


def test_shapes_only_reads_no_weights(folder):
    (folder / "model.safetensors").unlink()
    source = load_folder(folder, shape_only=True)
    assert source.on_meta and source.outputs == ("last_hidden_state", "pooler_output")


@pytest.mark.parametrize(("kind", "name"), [("wav2vec2", "Wav2Vec2Model")])
def test_models_that_take_neither_text_nor_images_are_refused(kind, name, tmp_path):
    import transformers

    small = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "d_model": 16,
        "num_layers": 1,
    }
    config = transformers.AutoConfig.for_model(kind, **small)
    getattr(transformers, name)(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="takes neither text nor images"):
        load_folder(tmp_path)


def test_loading_shows_no_progress_bar(saved, capfd):
    load_folder(saved[0])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("model", ["org/name", "no/such/folder", "x.onnx"])
def test_what_is_no_model(model):
    with pytest.raises(ModelError, match="is no model|is neither a path|there is no file"):
        opening.open_model(model)


@pytest.mark.parametrize("text", [b"[" * 100_000, b"\xff", b"[]", b'{"padding_side": 1}'])
def test_a_tokenizer_config_that_is_none_pads_right(folder, text):
    (folder / "tokenizer_config.json").write_bytes(text)
    assert load_folder(folder).pad_side == "right"
