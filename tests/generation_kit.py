"""A tiny language model with a tokenizer and a chat template, and a session that computes everything anew."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tundish
from tundish.backends.generation.generator import Generator

TEXT = (
    "The foundry pours one stream of melt and deals it out to many moulds. What flows first, cools first. "
    "Grüße aus Köln: café, naïve, Zoë, größer; 東京の夏、東京の冬。 Ünïcödé 🙂 👩‍👩‍👧 and 🙂🙂. "
) * 20
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ("<|end|>", "<|im_start|>", "<|im_end|>")


def byte_tokenizer(size: int = 320) -> Any:
    """A byte-level BPE tokenizer in which most characters beyond ASCII are several tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    made.train_from_iterator([TEXT], trainer)
    return made


def sentence_tokenizer(size: int = 340) -> Any:
    """As Llama 2 has it: words begin with a low line, unknown characters are bytes, the first space is stripped."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers

    learned = Tokenizer(models.BPE(unk_token="<unk>"))
    learned.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(
        vocab_size=size - 256, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False,
        initial_alphabet=list("▁abcdefghijklmnopqrstuvwxyzTW.,;:"), limit_alphabet=50,
    )  # fmt: skip
    learned.train_from_iterator(["".join(c for c in TEXT if ord(c) < 128)], trainer)
    vocab = learned.get_vocab()
    merges = json.loads(learned.to_str())["model"]["merges"]
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    pairs = [tuple(m) for m in merges]
    made = Tokenizer(models.BPE(vocab, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens([AddedToken(t, special=True) for t in ("<unk>", "<s>", "</s>")])
    return made


def write_tokenizer(folder: Path, made: Any, **config: Any) -> Path:
    """The files that a bundle holds of a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def model_folder(folder: Path, **changes: Any) -> Path:
    """A tiny Llama with random weights, a tokenizer and a ChatML template, as transformers saves one."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {
        "vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 256, "bos_token_id": None,
        "eos_token_id": 0, "pad_token_id": 0, "tie_word_embeddings": False, "initializer_range": 0.5,
    }  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**{**sizes, **changes})).save_pretrained(folder)
    return write_tokenizer(
        folder, byte_tokenizer(), tokenizer_class="PreTrainedTokenizerFast", eos_token="<|end|>",
        chat_template=CHATML,
    )  # fmt: skip


_MADE: dict[str, Path] = {}


@pytest.fixture(scope="session")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that generates, with its model's folder beside it as `model`."""
    if "talking" not in _MADE:  # a fixture that two files import is two to pytest
        folder = tmp_path_factory.mktemp("talking")
        model_folder(folder / "model")
        tundish.compile(folder / "model", folder / "llama.tundish", batch="1..4", seq="1..256").close()
        _MADE["talking"] = folder / "llama.tundish"
    return _MADE["talking"]


@dataclass(frozen=True)
class Kept:
    """The tokens of a row, which is all that a session needs that computes everything anew."""

    tokens: tuple[int, ...]
    bytes: int

    @property
    def length(self) -> int:
        return len(self.tokens)


class Recomputing:
    """A session without caches: right, and slow. It counts the tokens that were read."""

    def __init__(self, bundle: Any, rows: int, capacity: int) -> None:
        self._bundle, self.rows, self.capacity = bundle, rows, capacity
        self._tokens: list[list[int]] = [[] for _ in range(rows)]
        self.vocab = int(bundle.outputs[0].shape[-1])
        self.read_tokens = 0

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(t) for t in self._tokens])

    def read(self, tokens: Sequence[Sequence[int]]) -> np.ndarray:
        out = np.zeros((self.rows, self.vocab), np.float32)
        for i, new in enumerate(tokens):
            self._tokens[i] += [int(t) for t in new]
            self.read_tokens += len(new)
            assert len(self._tokens[i]) <= self.capacity
            if len(new):
                ids = np.array([self._tokens[i]])
                given = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
                out[i] = self._bundle.run(given, entry="forward")["logits"][0, -1]
        return out

    def score(self, tokens: Sequence[Sequence[int]]) -> list[np.ndarray]:
        assert self.rows == 1
        return [np.concatenate([self.read([[t]]) for t in tokens[0]])]

    def save(self, row: int, length: int | None = None) -> Kept:
        kept = tuple(self._tokens[row][:length])
        return Kept(kept, 8 * len(kept))

    def restore(self, row: int, prefix: Kept) -> None:
        self._tokens[row] = list(prefix.tokens)

    def rewind(self, row: int, length: int = 0) -> None:
        assert length <= len(self._tokens[row])
        del self._tokens[row][length:]


def recomputing(bundle: Any) -> Generator:
    """A generator whose sessions compute everything anew; `generator.opened` lists them."""
    opened: list[Recomputing] = []

    def open_session(rows: int, capacity: int) -> Recomputing:
        opened.append(Recomputing(bundle, rows, capacity))
        return opened[-1]

    made = Generator(bundle, open_session)
    made.opened = opened  # type: ignore[attr-defined]
    return made
