"""Encoder-decoders of every family that is built, token for token as transformers' `generate` has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tundish
from tundish.ir.diagnostics import RunError
from tundish.models.seq2seq_step import FAMILIES

NEW, VOCAB, LENGTHS = 20, 128, (9, 3, 14, 6)
_BART = {
    "vocab_size": VOCAB, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64,
    "pad_token_id": 1, "bos_token_id": 3, "eos_token_id": 2, "decoder_start_token_id": 4, "forced_eos_token_id": None,
    "tie_word_embeddings": False, "scale_embedding": True,
}  # fmt: skip
_T5 = {
    "vocab_size": VOCAB, "d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 48, "num_layers": 2, "pad_token_id": 1,
    "num_decoder_layers": 2, "eos_token_id": 2, "decoder_start_token_id": 4, "tie_word_embeddings": False,
}  # fmt: skip
CLASSES = {
    "mt5": ("MT5ForConditionalGeneration", _T5), "umt5": ("UMT5ForConditionalGeneration", _T5),
    "mbart": ("MBartForConditionalGeneration", _BART), "plbart": ("PLBartForConditionalGeneration", _BART),
    "pegasus": ("PegasusForConditionalGeneration", _BART), "marian": ("MarianMTModel", _BART),
    "m2m_100": ("M2M100ForConditionalGeneration", _BART),
    "blenderbot": ("BlenderbotForConditionalGeneration", {**_BART, "encoder_no_repeat_ngram_size": 0}),
    "blenderbot-small": ("BlenderbotSmallForConditionalGeneration", _BART),
}  # fmt: skip
USUAL = "m2m_100"  # besides T5 and BART, which have a file of their own; the others take longer together


def original(family: str, folder: Path) -> Any:
    """With random weights, kept from writing the same token on and on, as it is read from its files."""
    import transformers

    name, sizes = CLASSES[family]
    cls = getattr(transformers, name)
    torch.manual_seed(5)
    module = cls(cls.config_class(**sizes))
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.25)
    module.generation_config.no_repeat_ngram_size = 2
    module.save_pretrained(folder)
    return cls.from_pretrained(folder).eval()


def test_every_family_is_tried() -> None:
    assert set(FAMILIES) == {"t5", "bart", *CLASSES}


def test_another_family_says_why_it_does_not_generate(tmp_path: Path) -> None:
    """MVP places tokens by a range of numbers, which is not built."""
    import transformers

    transformers.MvpForConditionalGeneration(transformers.MvpConfig(**_BART)).save_pretrained(tmp_path / "model")
    with tundish.compile(tmp_path / "model", tmp_path / "b.tundish") as bundle:
        assert set(bundle.entries) == {"forward"}
        with pytest.raises(RunError, match="cannot generate") as told:
            bundle.generate([[5, 6]])
    assert "a kind whose step is not built yet" in str(told.value)


@pytest.mark.parametrize("family", [f if f == USUAL else pytest.param(f, marks=pytest.mark.slow) for f in CLASSES])
def test_it_writes_what_transformers_writes(family: str, tmp_path: Path) -> None:
    module = original(family, tmp_path / "model")
    rng = np.random.default_rng(7)
    rows = [rng.integers(5, VOCAB, length).tolist() for length in LENGTHS]
    ids = torch.full((len(rows), max(LENGTHS)), 1)
    for row, text in zip(ids, rows, strict=True):
        row[: len(text)] = torch.tensor(text)
    module.generation_config.eos_token_id = None
    wanted = module.generate(input_ids=ids, attention_mask=(ids != 1).long(), max_new_tokens=NEW, do_sample=False)
    with tundish.compile(tmp_path / "model", tmp_path / "b.tundish", batch="1..4") as bundle:
        assert set(bundle.entries) == {"forward", "encode", "step"}
        assert not [note for note in bundle.manifest.info["notes"] if "generate" in note]
        found = bundle.generate(rows, max_new_tokens=NEW, ignore_eos=True)
        assert tundish.verify(bundle).passed
    assert [f.tokens for f in found] == wanted[:, 1:].tolist()
    assert len({tuple(f.tokens) for f in found}) > 1 and len(set(found[0].tokens)) > 4
