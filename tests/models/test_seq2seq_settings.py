"""Which of an encoder-decoder's own settings are taken over into a bundle, and which are named as left out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tundish.models.seq2seq_settings import left_out, settings


def of(**given: Any) -> Any:
    from transformers import GenerationConfig

    return SimpleNamespace(generation_config=GenerationConfig(**given))


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"bos_token_id": 5}, {"decoder_start": 5}),
        ({"bos_token_id": 5, "decoder_start_token_id": 0}, {"decoder_start": 0}),
        ({"forced_bos_token_id": 4, "forced_eos_token_id": [9, 2]}, {"forced_bos": 4, "forced_eos": 2}),
        ({"suppress_tokens": [8], "bad_words_ids": [[6], [1], [2, 7]], "eos_token_id": 1}, {"suppressed": [6, 8]}),
        ({"min_length": 5, "max_length": 30}, {"min_new_tokens": 4, "max_new_tokens": 29}),
        ({"min_new_tokens": 5, "max_new_tokens": 30}, {"min_new_tokens": 5, "max_new_tokens": 30}),
        ({"no_repeat_ngram_size": 3}, {"no_repeat_ngram": 3}),
        ({}, {"decoder_start": None, "suppressed": [], "min_new_tokens": 0, "max_new_tokens": None}),
    ],
)
def test_what_is_taken_over(given: dict[str, Any], found: dict[str, Any]) -> None:
    taken = settings(of(**given))
    assert {name: taken[name] for name in found} == found


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"num_beams": 4, "length_penalty": 2.0}, ["num_beams=4"]),
        ({"do_sample": True, "top_p": 0.5}, ["do_sample=True", "top_p=0.5"]),
        ({"bad_words_ids": [[6], [2, 7]]}, ["bad_words_ids of several tokens"]),
        ({"encoder_no_repeat_ngram_size": 3}, ["encoder_no_repeat_ngram_size=3"]),
        ({"forced_eos_token_id": 2, "max_length": 9, "no_repeat_ngram_size": 3, "use_cache": True}, []),
        ({}, []),
    ],
)
def test_what_is_left_out_is_named(given: dict[str, Any], named: list[str]) -> None:
    assert left_out(of(**given)) == named
