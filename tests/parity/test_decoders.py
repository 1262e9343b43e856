"""The decoder families, each in a form that differs from Llama's, held against eager torch through the whole way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tundish
from tundish.ir.diagnostics import CaptureError
from tundish.models.open import open_model as load
from tundish.models.packed import packed

from .kit import SHAPES, SIDES, assert_equals_eager, assert_same_answers, padded

NAMED = (
    "gpt-neox-tiny", "opt-tiny", "bloom-tiny", "mistral-tiny", "qwen2-tiny", "qwen3-tiny", "gemma2-tiny", "gemma3-tiny",
)  # fmt: skip
_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SIZES = {
    "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 64, **_TOKENS,
}  # fmt: skip
# Families of the same kinds that no line of ours is written for: what makes each of them special -> (type, config).
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "chunked attention, complex rotary": ("llama4_text", {
        **_SIZES, "head_dim": 8, "attention_chunk_size": 8, "moe_layers": [], "num_local_experts": 2,
        "intermediate_size_mlp": 64, "no_rope_layers": [1, 1, 0], "floor_scale": 8,
    }),
    "ALiBi and one key head, attention of its own": ("falcon", {
        "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "alibi": True,
        "multi_query": True, "new_decoder_architecture": False, "max_position_embeddings": 64, **_TOKENS,
    }),
    "a table of ALiBi sliced from its end": ("mpt", {
        "d_model": 32, "n_heads": 4, "n_layers": 3, "vocab_size": 100, "max_seq_len": 64, "expansion_ratio": 2,
        **_TOKENS,
    }),
    "rotary that changes with length, a window": ("phi3", {
        **_SIZES, "sliding_window": 8, "original_max_position_embeddings": 16, "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.1, 1.2, 1.3],
            "long_factor": [2.0, 2.1, 2.2, 2.3], "factor": 4.0, "original_max_position_embeddings": 16,
        },
    }),
    "interleaved rotary, attention of its own": ("gptj", {
        "vocab_size": 100, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "rotary_dim": 4, **_TOKENS,
    }),
}  # fmt: skip


def _attention(bundle: tundish.Bundle) -> Iterator[Any]:
    for graph in bundle.program.functions.values():
        yield from (n for n in graph.nodes if n.op.name == "attention")


@pytest.mark.parametrize("name", NAMED)
def test_a_named_family_equals_eager(name: str, tmp_path: Path) -> None:
    bundle = tundish.compile(name, tmp_path / "b.tundish", batch="1..4")
    assert_equals_eager(bundle, load(name))
    assert tundish.verify(bundle).passed


def _as_tokenized(source: Any, batch: int, seq: int, side: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """With the padding token where a token is padding, and nowhere else: a classifier reads a text's end off it."""
    arrays = padded(source, batch, seq, side, rng)
    real = arrays["attention_mask"] != 0
    arrays["input_ids"] = np.where(real, np.maximum(arrays["input_ids"], 1), 0)
    return arrays


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMED)
def test_a_named_family_with_another_head_equals_eager(name: str, tmp_path: Path) -> None:
    task = "sequence-classification"
    source, bundle = load(name, task), tundish.compile(name, tmp_path / "b.tundish", task=task, batch="1..4")
    rng = np.random.default_rng(3)
    for side in SIDES:
        for batch, seq in SHAPES:
            assert_same_answers(bundle, source, _as_tokenized(source, batch, seq, side, rng), (side, batch, seq))
    assert tundish.verify(bundle).passed


def test_the_classifier_of_a_decoder_answers_for_the_last_token(tmp_path: Path) -> None:
    source = load("gemma2-tiny", "sequence-classification")
    bundle = tundish.compile("gemma2-tiny", tmp_path / "b.tundish", task="sequence-classification", batch="1..4")
    for side in SIDES:
        arrays = _as_tokenized(source, 3, 17, side, np.random.default_rng(5))
        assert_same_answers(bundle, source, arrays, side)
    assert tundish.verify(bundle).passed


@pytest.mark.parametrize("what", OTHERS)
def test_a_family_that_no_line_is_written_for_equals_eager(what: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, sizes = OTHERS[what]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes))
        model.save_pretrained(tmp_path / "model")
    bundle = tundish.compile(tmp_path / "model", tmp_path / "b.tundish", batch="1..4", seq="1..64")
    assert_equals_eager(bundle, load(tmp_path / "model"))
    assert tundish.verify(bundle).passed


def test_windows_and_softcaps_are_attributes_and_padding_stays_two_dimensional(tmp_path: Path) -> None:
    bundle = tundish.compile("gemma2-tiny", tmp_path / "b.tundish", batch="1..2", seq="1..32", phase="prefill")
    names = ("causal", "window", "softcap")
    found = {(*(n.attrs[name] for name in names), n.inputs[3].type.rank) for n in _attention(bundle)}
    assert found == {(True, 8, 50.0, 2), (True, 0, 50.0, 2)}


PACKED = ((1, 1), (3, 17), (2, 64))


@pytest.mark.parametrize("name", ["llama-tiny", "gemma3-tiny"])
def test_packed_rows_equal_eager_and_each_text_equals_itself_alone(name: str, tmp_path: Path) -> None:
    bundle = tundish.compile(name, tmp_path / "b.tundish", batch="1..4", packed=True)
    source = packed(load(name))
    assert list(bundle.entries["forward"].symbols) == ["batch", "seq"]
    rng = np.random.default_rng(11)
    for batch, seq in PACKED:
        starts = rng.random((batch, seq)) < 0.15
        starts[:, 0] = True
        place = np.arange(seq)
        places = place - np.maximum.accumulate(np.where(starts, place, 0), axis=1)
        ids = rng.integers(0, source.vocab_size, (batch, seq))
        assert_same_answers(bundle, source, {"input_ids": ids, "position_ids": places}, (batch, seq))
    row, cut = np.arange(30) % 19, 19  # two texts, of which the second starts at 19
    both = bundle.run({"input_ids": ids[:1, :30], "position_ids": row[None]})["logits"]
    alone = bundle.run({"input_ids": ids[:1, cut:30], "position_ids": row[None, cut:]})["logits"]
    assert np.abs(both[:, cut:] - alone).max() <= 1e-5
    assert tundish.verify(bundle).passed
    assert {c.name for c in bundle.cases().cases} >= {"packed rows", "many short texts", "one text a row"}


def test_verify_asks_the_original_in_packed_rows_again(tmp_path: Path) -> None:
    bundle = tundish.compile("llama-tiny", tmp_path / "b.tundish", batch="1..2", seq="1..16", packed=True)
    assert tundish.verify(bundle, against="llama-tiny").passed


@pytest.mark.parametrize(
    ("name", "task", "line"),
    [
        ("bloom-tiny", None, "takes no position_ids"),
        ("opt-tiny", None, "lets a text see those before it"),
        ("llama-tiny", "sequence-classification", "gives one answer a row"),
    ],
)
def test_a_model_that_cannot_keep_texts_apart_is_refused(name: str, task: str | None, line: str) -> None:
    with pytest.raises(CaptureError, match=line):
        tundish.capture(name, task=task, packed=True)
