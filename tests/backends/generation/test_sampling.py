"""Sampling against transformers' own processors, and where its random numbers come from."""

from __future__ import annotations

import numpy as np
import pytest

from tundish.backends.generation.options import GenerationOptions
from tundish.backends.generation.sampling import Sampler, processed
from tundish.ir.diagnostics import RunError

ASKED = [
    {"temperature": 1.0},
    {"temperature": 0.3},
    {"temperature": 2.5, "top_k": 1},
    {"temperature": 1.0, "top_k": 7},
    {"temperature": 1.0, "top_k": 10_000},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 1.0, "top_p": 0.01},
    {"temperature": 1.0, "top_p": 0.9999},
    {"temperature": 1.3, "min_p": 0.1},
    {"temperature": 1.0, "min_p": 1.0},
    {"temperature": 1.0, "repetition_penalty": 1.3},
    {"temperature": 1.0, "repetition_penalty": 0.6},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.8, "min_p": 0.05, "repetition_penalty": 1.2},
    {"temperature": 5.0, "top_k": 50, "top_p": 0.5, "min_p": 0.3, "repetition_penalty": 2.0},
]


def theirs(logits: np.ndarray, seen: list[int], asked: dict[str, float]) -> np.ndarray:
    """The distribution that transformers' generate would draw from, in double precision."""
    import torch
    from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=len(logits), n_embd=8, n_layer=1, n_head=1, n_positions=8)
    given = {"top_k": 0, "top_p": 1.0, **asked}
    settings = GenerationConfig(do_sample=True, **given)
    model = GPT2LMHeadModel(config)
    processors = model._get_logits_processor(settings, device="cpu")
    scores = processors(torch.tensor([seen]), torch.from_numpy(logits.astype(np.float64))[None])
    return torch.softmax(scores[0], -1).numpy()


@pytest.mark.parametrize("asked", ASKED, ids=str)
@pytest.mark.parametrize("spread", [0.5, 4.0, 30.0])
def test_the_distribution_is_that_of_transformers(asked: dict[str, float], spread: float) -> None:
    rng = np.random.default_rng(len(str(asked)))
    logits = (rng.standard_normal(997) * spread).astype(np.float32)
    seen = rng.integers(0, 997, 40).tolist()
    tokens, odds = processed(logits, np.array(seen), GenerationOptions(**asked))  # type: ignore[arg-type]
    found = np.zeros(997)
    found[tokens] = odds
    wanted = theirs(logits, seen, asked)
    assert (found > 0).sum() == (wanted > 0).sum()
    np.testing.assert_allclose(found, wanted, atol=1e-6, rtol=1e-6)


def test_tokens_that_are_banned_stay_so() -> None:
    logits = np.full(10, -np.inf, np.float32)
    logits[3] = 1
    for asked in ASKED:
        tokens, odds = processed(logits, np.array([1]), GenerationOptions(**asked))  # type: ignore[arg-type]
        assert odds[tokens == 3] == 1


@pytest.mark.parametrize("logits", [np.full(4, np.nan), np.array([0, np.nan, 0, 9]), np.full(4, -np.inf),
                                    np.array([0, np.inf, 0, 0])])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_no_number_is_refused(logits: np.ndarray, temperature: float) -> None:
    sampler = Sampler(GenerationOptions(temperature=temperature), 0, 0)
    with pytest.raises(RunError, match="not a number"):
        sampler.choose(logits.astype(np.float32), np.array([0]))


def drawn(logits: np.ndarray, count: int, seed: int, row: int, **asked: float) -> list[int]:
    sampler = Sampler(GenerationOptions(**asked), seed, row)  # type: ignore[arg-type]
    return [sampler.choose(logits, np.zeros(0, np.int64)) for _ in range(count)]


def test_what_is_drawn_follows_the_distribution() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.125, 0.125], np.float32))
    counts = np.bincount(drawn(logits, 8000, 1, 0, temperature=1.0), minlength=4) / 8000
    np.testing.assert_allclose(counts, [0.5, 0.25, 0.125, 0.125], atol=0.03)  # 5 standard deviations


def test_a_row_draws_from_its_seed_and_number() -> None:
    logits = np.zeros(1000, np.float32)
    first = drawn(logits, 20, 5, 2, temperature=1.0)
    assert first == drawn(logits, 20, 5, 2, temperature=1.0)
    assert first != drawn(logits, 20, 5, 3, temperature=1.0)
    assert first != drawn(logits, 20, 6, 2, temperature=1.0)


def test_greedy_takes_the_first_of_the_likeliest_and_minds_the_penalty() -> None:
    logits = np.array([1.0, 3.0, 3.0, 2.9], np.float32)
    assert drawn(logits, 1, 0, 0) == [1]
    sampler = Sampler(GenerationOptions(repetition_penalty=1.5), 0, 0)
    assert sampler.choose(logits, np.array([1, 2])) == 3


@pytest.mark.parametrize("asked", [{"top_p": 1e-9}, {"temperature": 1e-310}, {"temperature": 5e-324}], ids=str)
def test_the_smallest_top_p_and_temperature_are_greedy(asked: dict[str, float]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        logits = rng.standard_normal(300).astype(np.float32)
        assert drawn(logits, 3, 0, 0, **asked) == [int(logits.argmax())] * 3
