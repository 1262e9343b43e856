"""What may stand where in a text that a model writes, held against transformers' own processors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tundish.backends.generation.constraints import FREE, Constraints, constraints_of

VOCAB = 12
ENDS = (3, 7)
NOTHING: dict[str, Any] = {
    "forced_bos": None, "forced_eos": None, "suppressed": [], "min_new_tokens": 0, "no_repeat_ngram": 0,
}  # fmt: skip


def theirs(processor: Any, text: np.ndarray, logits: np.ndarray) -> np.ndarray:
    found: np.ndarray = processor(torch.from_numpy(text)[None], torch.from_numpy(logits.copy())[None])[0].numpy()
    return found


def processors() -> list[tuple[Constraints, Any]]:
    from transformers import generation as g

    return [
        (Constraints(suppressed=(1, 5)), g.SuppressTokensLogitsProcessor([1, 5])),
        (Constraints(ends=ENDS, least=6), g.MinNewTokensLengthLogitsProcessor(1, 6, list(ENDS))),
        *((Constraints(ngram=n), g.NoRepeatNGramLogitsProcessor(n)) for n in (1, 2, 3)),
    ]


@pytest.mark.parametrize("which", range(5))
@pytest.mark.parametrize("length", [1, 2, 5, 7, 40])
def test_the_same_tokens_are_forbidden(which: int, length: int) -> None:
    """Texts of few different tokens, so that runs of them come again; the first token is the decoder's own."""
    ours, processor = processors()[which]
    rng = np.random.default_rng((which, length))
    for _ in range(20):
        text, logits = rng.integers(0, 4, length), rng.normal(size=VOCAB).astype(np.float32)
        kept = logits.copy()
        np.testing.assert_array_equal(ours.allowed(logits, text, length - 1), theirs(processor, text, logits))
        np.testing.assert_array_equal(logits, kept)


def test_without_rules_logits_are_what_they_were() -> None:
    logits = np.zeros(VOCAB, np.float32)
    assert FREE.allowed(logits, np.zeros(3, np.int64), 2) is logits


def test_ids_beyond_the_vocabulary_are_none_of_it() -> None:
    assert np.isinf(Constraints(suppressed=(VOCAB, 2)).allowed(np.zeros(VOCAB, np.float32), np.zeros(1, int), 0))[2]


def test_a_last_token_outweighs_a_first() -> None:
    info = {**NOTHING, "forced_bos": 7, "forced_eos": 2}
    assert constraints_of(info, (), 1).forced == {0: 2}
    assert constraints_of(info, (), 5).forced == {0: 7, 4: 2}
    assert constraints_of(NOTHING, ENDS, 5) == Constraints(ends=ENDS)
