"""SmolLM2-135M on our tasks: as torch answers them, and above chance."""

from __future__ import annotations

import pytest
from lm_kit import compared

import tundish
from tundish.profiler.evaluation.adapter import model_class
from tundish.profiler.evaluation.run import evaluate_tasks

pytest.importorskip("lm_eval")
ITEMS = {"tundish_questions": 20, "tundish_sentiment": 20, "tundish_arithmetic": 10}  # those that torch answers too


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Of few rows: the original's answers to eight long ones, in double precision, take minutes."""
    with tundish.compile("smollm2", tmp_path_factory.mktemp("real") / "smollm2.tundish", batch="1..2") as made:
        yield made


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_log_likelihoods_texts_and_scores_are_those_of_torch(bundle):
    """Greedy texts differ only where two logits are nearer than float32 tells apart, which happens in none of these."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    from tundish.models.zoo import load_named

    torchs = HFLM(
        pretrained=load_named("smollm2").module, tokenizer=AutoTokenizer.from_pretrained(bundle.path), batch_size=8,
    )  # fmt: skip
    ours = model_class()(bundle)
    for task, items in ITEMS.items():
        found = [evaluate_tasks(lm, [task], limit=items, samples=True) for lm in (ours, torchs)]
        assert compared(*found) == items * (2 if task == "tundish_sentiment" else 1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_is_above_chance(bundle):
    (accuracy,) = evaluate_tasks(bundle, ["tundish_sentiment"])["rows"]
    assert accuracy["items"] == 48 and accuracy["p"] < 1e-6  # 36 of 48 right would be 4e-4
