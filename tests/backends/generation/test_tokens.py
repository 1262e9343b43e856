"""Text from tokens, piece by piece."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from generation_kit import SPECIAL, TEXT, byte_tokenizer, sentence_tokenizer, write_tokenizer

from tundish.backends.generation.tokens import Detokenizer, TextTokens
from tundish.ir.diagnostics import LoadError, RunError

TEXTS = [
    TEXT[:300], "Hello world", " two  spaces\n\n\tand tabs ", "東京の夏", "🙂🙂 👩‍👩‍👧", "naïve café", "e\u0301",
    "\ufffd here", "a",
    "x = [1, 2]; don't won't we're", "हिन्दी العربية עברית", "\U0001f1e9\U0001f1ea", "\x00\x7f",
]  # fmt: skip


@pytest.fixture(scope="module", params=["bytes", "sentence"])
def tokens(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TextTokens:
    made = {"bytes": byte_tokenizer, "sentence": sentence_tokenizer}[request.param]()
    return TextTokens(write_tokenizer(tmp_path_factory.mktemp(request.param), made))


def streamed(tokens: TextTokens, prompt: list[int], new: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokens, prompt)
    return [*(detokenizer.feed(t) for t in new), detokenizer.flush()]


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_the_pieces_make_the_whole_and_no_character_is_broken(tokens: TextTokens, text: str) -> None:
    ids = tokens.encode(text)
    for split in {0, 1, len(ids) // 2, len(ids) - 1}:
        before, whole = tokens.decode(ids[:split]), tokens.decode(ids)
        if before.endswith("\ufffd"):
            continue  # the prompt itself ends within a character
        pieces = streamed(tokens, ids[:split], ids[split:])
        assert "".join(pieces) == whole[len(before) :]
        if "\ufffd" not in whole:
            assert not any("\ufffd" in p for p in pieces)


def test_words_keep_their_spaces(tokens: TextTokens) -> None:
    ids = tokens.encode("one two  three")
    for at in range(len(ids)):
        assert tokens.decode(ids[:at]) + "".join(streamed(tokens, ids[:at], ids[at:])) == "one two  three"


def test_a_word_after_a_token_without_text_keeps_its_space(tmp_path: Path) -> None:
    tokens = TextTokens(write_tokenizer(tmp_path, sentence_tokenizer()))
    word, end = tokens.encode("the"), tokens.id_of("</s>")
    assert end is not None and "".join(streamed(tokens, word, [end, *word])) == " the"


def test_broken_bytes_do_not_hold_the_text_back_for_ever(tokens: TextTokens) -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        pieces = streamed(tokens, [], rng.integers(3, 300, 60).tolist())
        assert sum(map(bool, pieces)) > 5


def test_broken_bytes_lose_no_letter(tmp_path: Path) -> None:
    tokens = TextTokens(write_tokenizer(tmp_path, byte_tokenizer()))
    rng = np.random.default_rng(0)
    for _ in range(30):
        ids = rng.integers(3, 300, 60).tolist()
        assert tokens.decode(ids).replace("\ufffd", "") == "".join(streamed(tokens, [], ids)).replace("\ufffd", "")


def test_special_tokens_are_no_text(tmp_path: Path) -> None:
    tokens = TextTokens(write_tokenizer(tmp_path, byte_tokenizer()))
    ids = [tokens.id_of("<|im_start|>"), *tokens.encode("hi"), tokens.id_of("<|im_end|>")]
    assert tokens.special_ids == {0, 1, 2} and [tokens.id_of(t) for t in SPECIAL] == [0, 1, 2]
    assert "".join(streamed(tokens, [], [t for t in ids if t is not None])) == "hi"


def test_names_of_special_tokens_in_both_forms(tmp_path: Path) -> None:
    config = {"eos_token": {"content": "<|end|>", "lstrip": False}, "bos_token": "<|im_start|>", "pad_token": None}
    tokens = TextTokens(write_tokenizer(tmp_path, byte_tokenizer(), **config))
    assert dict(tokens.named) == {"eos_token": "<|end|>", "bos_token": "<|im_start|>"}


def test_files_that_are_broken(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="holds no tokenizer"):
        TextTokens(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": 1')
    with pytest.raises(LoadError, match="tokenizer.json of .* is broken"):
        TextTokens(tmp_path)
    write_tokenizer(tmp_path, byte_tokenizer())
    for text in ("[1]", "{", "[" * 100_000):
        (tmp_path / "tokenizer_config.json").write_text(text)
        with pytest.raises(LoadError, match="tokenizer_config.json of .* is broken"):
            _ = TextTokens(tmp_path).config


def test_what_is_no_text(tmp_path: Path) -> None:
    tokens = TextTokens(write_tokenizer(tmp_path, byte_tokenizer()))
    with pytest.raises(RunError, match=r"cannot be turned into tokens\n  found: bytes that are no UTF-8"):
        tokens.encode("\ud800")
