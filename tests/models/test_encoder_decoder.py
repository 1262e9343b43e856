"""Models of two texts as Sources: what they take, how long they may be, and inputs that suit them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tundish.models import zoo
from tundish.models.cases import cases, samples
from tundish.models.errors import ModelError
from tundish.models.huggingface import load_folder
from tundish.models.transformers_source import transformers_source

BOTH = ["input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask"]
NAMES = ("t5-tiny", "bart-tiny", "transformer-tiny")


@pytest.mark.parametrize("name", NAMES)
def test_both_texts_are_inputs_each_with_a_length_of_its_own(name):
    source = zoo.load_named(name)
    assert [s.name for s in source.inputs] == BOTH
    assert [s.dims for s in source.inputs] == [("batch", "seq")] * 2 + [("batch", "target_seq")] * 2
    assert source.outputs[0] == "logits" and not any("past" in n for n in source.outputs)
    assert source.max_seq == (None if name == "t5-tiny" else 64)
    given = {n: a.numpy() for n, a in samples(source).items()}
    assert given["input_ids"].shape == (2, 7) and given["decoder_input_ids"].shape == (2, 9)
    assert source.call(given)["logits"].shape == (2, 9, 128)


@pytest.mark.parametrize("task", ["seq2seq-lm", "text2text-generation"])
def test_the_task_by_either_name(task):
    assert zoo.load_named("bart-tiny", task).outputs == ("logits", "encoder_last_hidden_state")


@pytest.mark.parametrize(("name", "task", "outputs"), [
    ("t5-tiny", "embeddings", ("last_hidden_state", "encoder_last_hidden_state")),
    ("bart-tiny", "embeddings", ("last_hidden_state", "encoder_last_hidden_state")),
])  # fmt: skip
def test_the_bare_model_takes_both_texts(name, task, outputs):
    source = zoo.load_named(name, task)
    assert [s.name for s in source.inputs] == BOTH and source.outputs == outputs


@pytest.mark.parametrize("name", ["t5-tiny", "bart-tiny"])
@pytest.mark.parametrize(("task", "output"), [("question-answering", "start_logits"),
                                              ("sequence-classification", "logits")])  # fmt: skip
def test_heads_that_judge_the_source_take_it_alone(name, task, output):
    """They make the decoder's text from it, and find its end, which each row must have once."""
    source = zoo.load_named(name, task)
    assert [s.name for s in source.inputs] == BOTH[:2] and output in source.outputs
    end = source.module.config.eos_token_id
    for case in cases(source, (1, 3), (1, 12)):
        ids, mask = case.inputs["input_ids"], case.inputs["attention_mask"]
        assert ((ids == end).sum(1) == 1).all(), case.name
        assert (mask[ids == end] == 1).all(), "the end is no padding"
        if ids.shape[1] > 1:
            source.call(case.inputs)


def test_an_encoder_alone_is_a_text_model():
    from transformers import T5Config, T5EncoderModel

    config = T5Config(vocab_size=64, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    source = transformers_source(T5EncoderModel(config), name="encoder", kind="zoo")
    assert [s.name for s in source.inputs] == BOTH[:2] and source.outputs == ("last_hidden_state",)


def test_two_vocabularies_and_two_limits():
    from transformers import FSMTConfig, FSMTForConditionalGeneration, LEDConfig

    from tundish.models.encoder_decoder import _max_positions

    config = FSMTConfig(
        src_vocab_size=40, tgt_vocab_size=30, langs=["en", "de"], d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        max_position_embeddings=32,
    )  # fmt: skip
    source = transformers_source(FSMTForConditionalGeneration(config), name="fsmt", kind="zoo")
    assert [s.high for s in source.inputs if s.role == "ids"] == [39, 29]
    assert _max_positions(LEDConfig(max_encoder_position_embeddings=64, max_decoder_position_embeddings=16)) == 16


def test_what_takes_sound_is_refused_in_one_line():
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    config = WhisperConfig(
        vocab_size=64, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=4, max_source_positions=8,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    with pytest.raises(ModelError, match="WhisperForConditionalGeneration takes neither text nor images") as raised:
        transformers_source(WhisperForConditionalGeneration(config), name="whisper", kind="zoo")
    assert "input_features" in raised.value.problem and "decoder_input_ids" in raised.value.found
    assert "FILE.py:FACTORY" in raised.value.hint and "vary" in raised.value.hint


def test_a_folder_is_read_by_its_architecture(tmp_path: Path):
    zoo.load_named("t5-tiny").module.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["T5ForConditionalGeneration"]
    source = load_folder(tmp_path)
    assert [s.name for s in source.inputs] == BOTH
    given = {n: a.numpy() for n, a in samples(source).items()}
    np.testing.assert_array_equal(source.call(given)["logits"], zoo.load_named("t5-tiny").call(given)["logits"])


def test_the_plain_transformer_has_one_head():
    with pytest.raises(ModelError, match="transformer-tiny has one head only"):
        zoo.load_named("transformer-tiny", "question-answering")


def test_the_plain_transformers_padding_is_finite_and_without_effect():
    source = zoo.load_named("transformer-tiny")
    given = {n: a.numpy() for n, a in samples(source).items()}
    given["attention_mask"][0, :3] = 0
    given["decoder_attention_mask"][1, :4] = 0
    logits = source.call(given)["logits"]
    assert np.isfinite(logits).all()
    given["input_ids"][0, :3] += 1
    given["decoder_input_ids"][1, :4] += 1
    np.testing.assert_allclose(source.call(given)["logits"][0], logits[0], atol=1e-5)
    np.testing.assert_allclose(source.call(given)["logits"][1, 4:], logits[1, 4:], atol=1e-5)
