"""A decoder of a few weights with a tokenizer and a chat template, as a transformers folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tundish.profiler.evaluation import answers

VOCAB, LONGEST = 384, 1024
TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)


def tokenizer() -> Any:
    """Byte-level, trained on our task files: whatever it reads, it gives back."""
    import tokenizers as t
    from transformers import PreTrainedTokenizerFast

    made = t.Tokenizer(t.models.BPE())
    made.pre_tokenizer = t.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = t.decoders.ByteLevel()
    trainer = t.trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=["<s>", "</s>"], initial_alphabet=t.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    made.train_from_iterator((json.dumps(r) for f in ("questions", "arithmetic") for r in answers.items(f)), trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    wrapped.chat_template = TEMPLATE
    return wrapped


def save_lm(path: Path) -> Path:
    """Writes the folder; its seeded weights are large enough that logits are far apart."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, max_position_embeddings=LONGEST, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


def compared(mine: Mapping[str, Any], torchs: Mapping[str, Any], tolerance: float = 1e-3) -> int:
    """Two evaluations are the same; how many log-likelihoods and texts were held against one another."""
    held = 0
    assert [(r["task"], r["metric"], r["items"]) for r in mine["rows"]] == [
        (r["task"], r["metric"], r["items"]) for r in torchs["rows"]
    ]
    for task, samples in torchs["samples"].items():
        for one, other in zip(mine["samples"][task], samples, strict=True):
            assert one["arguments"] == other["arguments"]
            for (answer,), (expected,) in zip(one["resps"], other["resps"], strict=True):
                held += 1
                if isinstance(expected, str):
                    assert answer == expected
                else:
                    assert abs(answer[0] - expected[0]) <= tolerance and answer[1] == expected[1]
    assert [r["value"] for r in mine["rows"]] == [r["value"] for r in torchs["rows"]]
    return held
