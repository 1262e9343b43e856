"""`export --with-past`: one graph for prefill and decode, in a folder whose names and files are the ecosystem's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import past_kit
import pytest

import tundish
from tundish.exporting import export_with_past
from tundish.ir.diagnostics import BuildError, CaptureError, TundishError
from tundish.models.open import open_model
from tundish.work import Asked

# (rows, padding before the last one, sizes of the chunks): prefill, a second chunk, single tokens; one row, one token.
WAYS = ((2, 0, (5, 3, 1, 1)), (2, 3, (6, 1, 4)), (1, 0, (1, 1, 1)), (3, 5, (12, 9, 1)), (1, 0, (9,)))
FAMILIES = ("llama-tiny", "mistral-tiny", "gpt2-tiny", "gpt-neox-tiny", "opt-tiny", "bloom-tiny", "qwen2-tiny",
            "qwen3-tiny", "gemma2-tiny", "gemma3-tiny", "mixtral-tiny", "qwen3-moe-tiny", "deepseek-v3-tiny")


def check_chunks(name: str, folder: Path) -> None:
    module, opened = open_model(name).module, past_kit.session(folder)
    for batch, padded, chunks in WAYS:
        ids, mask = past_kit.rows(batch, sum(chunks), padded)
        want, got = past_kit.whole(module, ids, mask), past_kit.in_chunks(opened, ids, mask, chunks)
        real = mask > 0
        assert np.abs(got - want)[real].max() <= 1e-5 * max(1.0, np.abs(want[real]).max()), (name, batch, chunks)


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "llama"
    tundish.export("llama-tiny", folder, with_past=True)
    return folder


def test_chunks_of_a_text_are_the_whole_text(llama):
    check_chunks("llama-tiny", llama)


def test_a_window_in_standard_ops(tmp_path):
    """mistral-tiny's window is shorter than these texts."""
    row = tundish.export("mistral-tiny", tmp_path / "m", with_past=True, portable=True, opset=17)
    check_chunks("mistral-tiny", tmp_path / "m")
    assert {n.domain for n in onnx.load(tmp_path / "m/onnx/model.onnx").graph.node} == {""} and row["portable"]


@pytest.mark.slow
@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_more_families(name, portable, tmp_path):
    tundish.export(name, tmp_path / "m", with_past=True, portable=portable)
    check_chunks(name, tmp_path / "m")


@pytest.mark.slow
def test_smollm2_says_what_torch_says(tmp_path):
    tundish.export("smollm2", tmp_path / "m", with_past=True)
    module, opened = open_model("smollm2").module, past_kit.session(tmp_path / "m")
    ids, mask = past_kit.rows(2, 24, 7)
    want, got = past_kit.whole(module, ids, mask), past_kit.in_chunks(opened, ids, mask, (16, 1, 6, 1))
    assert np.abs(got - want)[mask > 0].max() <= 1e-4 * np.abs(want).max()
    config = json.loads((tmp_path / "m/tokenizer_config.json").read_text())
    assert "<|im_start|>" in config["chat_template"] and config["eos_token"] == "<|im_end|>"
    assert (tmp_path / "m/chat_template.jinja").read_text() == config["chat_template"]


def test_names_and_shapes_are_the_ecosystems(llama):
    graph = onnx.load(llama / "onnx/model.onnx").graph
    types = {v.name: v.type.tensor_type.shape for v in (*graph.input, *graph.output)}
    shapes = {name: [d.dim_param or d.dim_value for d in shape.dim] for name, shape in types.items()}
    layers = [f"{i}.{kind}" for i in range(3) for kind in ("key", "value")]
    assert [v.name for v in graph.input] == [
        "input_ids", "attention_mask", "position_ids", *(f"past_key_values.{n}" for n in layers),
    ]  # fmt: skip
    assert [v.name for v in graph.output] == ["logits", *(f"present.{n}" for n in layers)]
    assert shapes["input_ids"] == shapes["position_ids"] == ["batch", "seq"]
    assert shapes["attention_mask"] == ["batch", "past+seq"] and shapes["logits"] == ["batch", "seq", 128]
    assert shapes["past_key_values.1.key"] == ["batch", 2, "past", 8]
    assert shapes["present.1.value"] == ["batch", 2, "past+seq", 8]


def test_configs_say_what_the_graph_is(llama):
    config, genai, made = (json.loads((llama / f"{n}.json").read_text()) for n in ("config", "genai_config", "tundish"))
    assert config["architectures"] == ["LlamaForCausalLM"] and config["model_type"] == "llama"
    assert config["transformers.js_config"] == {"dtype": "fp32", "use_external_data_format": 0}
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert not [key for key in config if key.startswith("_")]
    decoder = genai["model"]["decoder"]
    assert (llama / decoder["filename"]).is_file() and genai["search"]["past_present_share_buffer"] is False
    names = {v.name for v in onnx.load(llama / decoder["filename"]).graph.input}
    patterns = [name for key, name in decoder["inputs"].items()]
    assert {p.replace("%d", str(i)) for p in patterns for i in range(decoder["num_hidden_layers"])} == names
    assert (decoder["num_key_value_heads"], decoder["head_size"]) == (2, 8)
    assert set(made["files"]) == {str(p.relative_to(llama)) for p in llama.rglob("*.*") if p.name != "tundish.json"}


def test_weights_too_large_for_the_file_lie_where_transformers_js_looks(monkeypatch, tmp_path):
    from tundish.backends.onnxruntime import export_folder as theirs

    whole = theirs.export_onnx
    monkeypatch.setattr(theirs, "export_onnx", lambda *a, **k: whole(*a, **k, limit_bytes=1000))
    row = tundish.export("llama-tiny", tmp_path / "m", with_past=True)
    assert row["external_data"] == str(tmp_path / "m/onnx/model.onnx_data") and Path(row["external_data"]).is_file()
    config = json.loads((tmp_path / "m/config.json").read_text())
    assert config["transformers.js_config"]["use_external_data_format"] == 1
    check_chunks("llama-tiny", tmp_path / "m")


def test_the_same_folder_again_and_no_other(llama, tmp_path):
    before = {p.name: p.read_bytes() for p in llama.rglob("*.*")}
    tundish.export("llama-tiny", llama, with_past=True)
    assert {p.name: p.read_bytes() for p in llama.rglob("*.*")} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/diary.txt").write_text("dear diary")
    with pytest.raises(BuildError, match="is not an exported folder"):
        tundish.export("llama-tiny", tmp_path / "mine", with_past=True)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["diary.txt"]


@pytest.mark.parametrize("name", ["bert-tiny", "t5-tiny", "vit-tiny"])
def test_what_cannot_decode_is_refused(name, tmp_path):
    with pytest.raises(CaptureError, match=r"does not generate|reads one text|takes neither|no transformers") as told:
        tundish.export(name, tmp_path / "m", with_past=True)
    assert re.search("--with-past", str(told.value)) and not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    "asked", [Asked(packed=True), Asked(phase="decode"), Asked(past="1..4"), Asked(fixed={"a": "1"})]
)
def test_wishes_that_do_not_go_together(asked, tmp_path):
    with pytest.raises(TundishError, match="--with-past cannot be joined with --"):
        export_with_past("llama-tiny", tmp_path / "m", asked)
