"""Folders of `export --with-past` in the loaders they are made for, held against torch's own greedy generation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import loader_kit
import numpy as np
import past_kit
import pytest
import torch

import tundish
from tundish.models.open import open_model

NEW = 12
# Heads grouped, of a size that hidden_size does not tell, without position_ids, with learned ones.
PLAIN = ("llama-tiny", "gpt2-tiny", "gpt-neox-tiny", "opt-tiny", "bloom-tiny", "qwen3-tiny", "qwen3-moe-tiny")
TWO_TEXTS = ("t5-tiny", "bart-tiny")
WINDOWED = ("mistral-tiny", "qwen2-tiny", "gemma2-tiny", "gemma3-tiny")
FAMILIES = {
    "optimum": (*PLAIN, *WINDOWED, "mixtral-tiny", "deepseek-v3-tiny", *TWO_TEXTS),
    "transformers_js": (*PLAIN, *WINDOWED, "deepseek-v3-tiny", *TWO_TEXTS),
    "genai": (*PLAIN, *WINDOWED, "mixtral-tiny"),
}
PROMPTS = ("The capital of France is", "Hello")


def asked_of(folder: Path, vocabulary: int, padded: bool) -> list[dict[str, Any]]:
    """One row; and two, the second of which begins with four places of padding."""
    genai, config = folder / "genai_config.json", folder / "config.json"
    said = json.loads((genai if genai.exists() else config).read_text())
    pad = said.get("model", said)["pad_token_id"]
    ids, mask = past_kit.rows(2, 9, 4)
    ids = np.where(mask > 0, np.maximum(ids % vocabulary, 10), pad)
    both = [{"ids": ids[:1].tolist(), "mask": mask[:1].tolist(), "new": NEW},
            {"ids": ids.tolist(), "mask": mask.tolist(), "new": NEW}]  # fmt: skip
    return both if padded else both[:1]


def in_torch(module: Any, rows: list[dict[str, Any]]) -> list[Any]:
    with torch.no_grad():
        return [
            module.generate(
                input_ids=torch.tensor(row["ids"]), attention_mask=torch.tensor(row["mask"]), do_sample=False,
                max_new_tokens=row["new"], min_new_tokens=row["new"],
            ).tolist()
            for row in rows
        ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("loader", list(FAMILIES))
def test_every_family_generates_what_torch_does(loader, tmp_path):
    """onnxruntime-genai pads on the right, where padding takes up places in a window: there, of one row only."""
    asked, wanted = {}, {}
    for name in FAMILIES[loader]:
        folder, source = tmp_path / name, open_model(name)
        tundish.export(name, folder, with_past=True)
        rows = asked_of(folder, source.vocab_size, padded=loader != "genai" or name not in WINDOWED)
        asked[str(folder)], wanted[name] = rows, in_torch(source.module, rows)
    found = loader_kit.answers(loader, asked)
    assert {Path(folder).name: answer for folder, answer in found.items()} == wanted


@pytest.mark.slow
def test_real_text_in_all_loaders(tmp_path):
    """SmolLM2 with its own tokenizer, two prompts of different lengths in one batch."""
    import tokenizers

    source = open_model("smollm2")
    tundish.export("smollm2", tmp_path / "m", with_past=True)
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "m/tokenizer.json"))
    texts = [tokenizer.encode(prompt).ids for prompt in PROMPTS]
    longest, pad = max(map(len, texts)), 2
    ids = [[pad] * (longest - len(t)) + t for t in texts]
    rows = [{"ids": ids, "mask": [[0] * (longest - len(t)) + [1] * len(t) for t in texts], "new": 20}]
    (wanted,) = in_torch(source.module, rows)
    assert tokenizer.decode(wanted[0]).startswith("The capital of France is Paris")
    for loader in FAMILIES:
        assert loader_kit.answers(loader, {str(tmp_path / "m"): rows}) == {str(tmp_path / "m"): [wanted]}, loader


def likeliest(folder: Path, ending: str, row: dict[str, Any], answer: list[list[int]], two: bool) -> list[list[int]]:
    """What plain ONNX Runtime says is the likeliest next token at each place that a loader has filled."""
    ids, mask, texts = np.array(row["ids"]), np.array(row["mask"]), np.array(answer)
    if two:
        logits = past_kit.answered(folder, ids, mask, texts, (1,) * texts.shape[1], ending)
    else:
        whole = np.concatenate([mask, np.ones((len(ids), NEW), np.int64)], axis=1)
        chunks = (ids.shape[1], *(1,) * NEW)
        logits = past_kit.in_chunks(past_kit.session(folder, f"model{ending}.onnx"), texts, whole, chunks)
    return logits[:, -NEW - 1 : -1].argmax(-1).tolist()


@pytest.mark.slow
@pytest.mark.parametrize(("weights", "ending"), [("int8", "_quantized"), ("int4", "_q4")])
@pytest.mark.parametrize("loader", list(FAMILIES))
def test_weights_in_few_bits(loader, weights, ending, tmp_path):
    """Each loader finds the file by itself, and takes the token that is likeliest by it."""
    asked = {}
    for name in ("shakespeare", *TWO_TEXTS[: loader != "genai"]):
        folder = tmp_path / name
        tundish.export(name, folder, with_past=True, weights=weights)
        asked[str(folder)] = asked_of(folder, open_model(name).vocab_size, padded=True)
    for folder, answers in loader_kit.answers(loader, asked).items():
        two = "shakespeare" not in folder
        for row, answer in zip(asked[folder], answers, strict=True):
            wanted = likeliest(Path(folder), ending, row, answer, two)
            assert [text[-NEW:] for text in answer] == wanted, (folder, row)
