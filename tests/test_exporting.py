"""`export --with-past`: one graph for prefill and decode, in a folder whose names and files are the ecosystem's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import past_kit
import pytest
import torch

import tundish
from tundish.exporting import export_with_past
from tundish.ir.diagnostics import BuildError, CaptureError, CompileError, TundishError
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


def check_two_texts(name: str, folder: Path) -> None:
    """Also of a source of one token, and of one that is padded."""
    module = open_model(name).module
    for batch, length, chunks in ((2, 7, (3, 1, 1)), (1, 9, (1, 1, 4)), (1, 1, (1, 2))):
        ids, mask = past_kit.rows(batch, length, 3 if length > 3 else 0)
        mask, new = mask[:, ::-1].copy(), past_kit.rows(batch, sum(chunks), 0, seed=1)[0]
        given = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": new}
        with torch.no_grad():
            tensors = {key: torch.from_numpy(array) for key, array in given.items()}
            want = module(**tensors, use_cache=False).logits.numpy()
        got = past_kit.answered(folder, ids, mask, new, chunks)
        assert np.abs(got - want).max() <= 1e-5 * max(1.0, np.abs(want).max()), (name, batch, chunks)


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


def test_an_encoder_decoder_in_two_files(tmp_path):
    tundish.export("t5-tiny", tmp_path / "m", with_past=True)
    check_two_texts("t5-tiny", tmp_path / "m")
    files = {str(p.relative_to(tmp_path / "m")) for p in (tmp_path / "m").rglob("*.*")}
    assert files == {
        "config.json", "generation_config.json", "onnx/decoder_model_merged.onnx", "onnx/encoder_model.onnx",
        "tundish.json",
    }  # fmt: skip


def test_the_encoders_states_are_multiplied_once(tmp_path):
    """At later calls nothing of them is left to project: keys and values kept of other states stand."""
    tundish.export("bart-tiny", tmp_path / "m", with_past=True)
    decoder = past_kit.session(tmp_path / "m", "decoder_model_merged.onnx")
    rng, random = np.random.default_rng(0), {}
    for i in decoder.get_inputs():
        if i.name.startswith("past_key_values"):
            random[i.name] = rng.standard_normal((1, i.shape[1], 5, i.shape[3])).astype(np.float32)
    given = {"input_ids": np.array([[7]]), "encoder_attention_mask": np.ones((1, 5), np.int64),
             "use_cache_branch": np.array([True]), **random}  # fmt: skip
    names = [o.name for o in decoder.get_outputs()]
    first, second = (decoder.run(None, {**given, "encoder_hidden_states": rng.standard_normal((1, 5, 32)).astype("f4")})
                     for _ in range(2))  # fmt: skip
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert all((a == random[n.replace("present", "past_key_values")]).all()
               for n, a in zip(names, first, strict=True) if ".encoder." in n)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("name", ["t5-tiny", "bart-tiny"])
def test_more_encoder_decoders(name, portable, tmp_path):
    tundish.export(name, tmp_path / "m", with_past=True, portable=portable)
    check_two_texts(name, tmp_path / "m")


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
    assert config["transformers.js_config"] == {
        "dtype": "fp32", "use_external_data_format": {"model.onnx": 0},
    }  # fmt: skip
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert not [key for key in config if key.startswith("_")]
    decoder = genai["model"]["decoder"]
    assert (llama / decoder["filename"]).is_file() and genai["search"]["past_present_share_buffer"] is False
    names = {v.name for v in onnx.load(llama / decoder["filename"]).graph.input}
    patterns = [name for key, name in decoder["inputs"].items()]
    assert {p.replace("%d", str(i)) for p in patterns for i in range(decoder["num_hidden_layers"])} == names
    assert (decoder["num_key_value_heads"], decoder["head_size"]) == (2, 8)
    assert set(made["files"]) == {str(p.relative_to(llama)) for p in llama.rglob("*.*") if p.name != "tundish.json"}


@pytest.mark.parametrize(("weights", "dtype", "ending"), [("int8", "q8", "_quantized"), ("int4", "q4", "_q4")])
def test_few_bits_under_the_names_that_loaders_look_for(weights, dtype, ending, tmp_path):
    """They answer as a bundle of such weights, but where rounding activations goes the other way by a hair; the head
    and the embedding that is tied to it are one array."""
    row = tundish.export("gpt2-tiny", tmp_path / "m", with_past=True, weights=weights)
    bundle = tundish.compile("gpt2-tiny", tmp_path / "b", weights=weights, phase="prefill")
    file = f"model{ending}.onnx"
    assert row["file"] == str(tmp_path / f"m/onnx/{file}")
    ids, mask = past_kit.rows(2, 12, 0)
    want = bundle.run({"input_ids": ids, "attention_mask": mask})["logits"]
    got = past_kit.in_chunks(past_kit.session(tmp_path / "m", file), ids, mask, (6, 5, 1))
    apart = np.linalg.norm(got - want, axis=-1) / np.linalg.norm(want, axis=-1)
    assert np.median(apart) < 1e-5 and apart.max() < 0.05
    config, genai = (json.loads((tmp_path / f"m/{name}.json").read_text()) for name in ("config", "genai_config"))
    assert config["transformers.js_config"] == {"dtype": dtype, "use_external_data_format": {file: 0}}
    assert genai["model"]["decoder"]["filename"] == f"onnx/{file}"
    ops = {n.op_type for n in onnx.load(tmp_path / "m/onnx" / file).graph.node}
    assert {"MatMulNBits", "GatherBlockQuantized"} <= ops


def test_few_bits_in_standard_ops_are_refused_before_the_model_is_opened(tmp_path):
    with pytest.raises(CompileError, match="no kernels for int4 weights"):
        tundish.export("no-such-model", tmp_path / "m", with_past=True, weights="int4", portable=True)
    with pytest.raises(CompileError, match="there is no weight format 'q4'"):
        tundish.export("no-such-model", tmp_path / "m", with_past=True, weights="q4")
    assert not (tmp_path / "m").exists()


def test_weights_too_large_for_the_file_lie_where_transformers_js_looks(monkeypatch, tmp_path):
    from tundish.backends.onnxruntime import export_folder as theirs

    whole = theirs.export_onnx
    monkeypatch.setattr(theirs, "export_onnx", lambda *a, **k: whole(*a, **k, limit_bytes=1000))
    row = tundish.export("llama-tiny", tmp_path / "m", with_past=True)
    assert row["external_data"] == str(tmp_path / "m/onnx/model.onnx_data") and Path(row["external_data"]).is_file()
    config = json.loads((tmp_path / "m/config.json").read_text())
    assert config["transformers.js_config"]["use_external_data_format"] == {"model.onnx": 1}
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


@pytest.mark.parametrize("name", ["bert-tiny", "transformer-tiny", "vit-tiny"])
def test_what_cannot_decode_is_refused(name, tmp_path):
    with pytest.raises(CaptureError, match=r"does not generate|no transformers") as told:
        tundish.export(name, tmp_path / "m", with_past=True)
    assert re.search("--with-past", str(told.value)) and not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    "asked", [Asked(packed=True), Asked(phase="decode"), Asked(past="1..4"), Asked(fixed={"a": "1"})]
)
def test_wishes_that_do_not_go_together(asked, tmp_path):
    with pytest.raises(TundishError, match="--with-past cannot be joined with --"):
        export_with_past("llama-tiny", tmp_path / "m", asked)


def test_sizes_and_graphs_that_do_not_fit(tmp_path):
    with pytest.raises(CaptureError, match="takes at most 64 positions"):
        tundish.export("llama-tiny", tmp_path / "m", with_past=True, seq="1..65")
    tundish.capture("gpt2-tiny", output=tmp_path / "graph")
    with pytest.raises(CaptureError, match="a captured graph has its inputs already"):
        tundish.export(tmp_path / "graph", tmp_path / "m", with_past=True)
    assert not (tmp_path / "m").exists()


def test_dots_in_a_path_lead_to_no_file_of_the_users(tmp_path):
    (tmp_path / "diary.txt").write_text("dear diary")
    with pytest.raises(BuildError, match="is not a folder"):
        tundish.export("llama-tiny", tmp_path / "new/../diary.txt", with_past=True)
    assert (tmp_path / "diary.txt").read_text() == "dear diary"
