"""SmolLM2-135M on our tasks: as torch answers them, and above chance."""

from __future__ import annotations

import pytest

import tundish
from tundish.profiler.evaluation.adapter import model_class
from tundish.profiler.evaluation.run import evaluate_tasks

pytest.importorskip("lm_eval")
TASKS = ["tundish_questions", "tundish_sentiment", "tundish_arithmetic"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_log_likelihoods_texts_and_scores_are_those_of_torch(tmp_path):
    """Greedy texts differ only where two logits are nearer than float32 tells apart, which happens in none of these."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    from tundish.models.zoo import load_named

    bundle = tundish.compile("smollm2", tmp_path / "smollm2.tundish")
    torchs = HFLM(
        pretrained=load_named("smollm2").module, tokenizer=AutoTokenizer.from_pretrained(bundle.path), batch_size=8,
    )  # fmt: skip
    ours, theirs = (evaluate_tasks(lm, TASKS, samples=True) for lm in (model_class()(bundle), torchs))
    for task, samples in theirs["samples"].items():
        for one, other in zip(ours["samples"][task], samples, strict=True):
            assert one["arguments"] == other["arguments"]
            for (answer,), (expected,) in zip(one["resps"], other["resps"], strict=True):
                if isinstance(expected, str):
                    assert answer == expected
                else:
                    assert abs(answer[0] - expected[0]) <= 1e-3 and answer[1] == expected[1]
    assert [(r["metric"], r["value"]) for r in ours["rows"]] == [(r["metric"], r["value"]) for r in theirs["rows"]]
    (accuracy,) = (r for r in ours["rows"] if r["task"] == "tundish_sentiment")
    assert accuracy["p"] < 1e-6  # 36 of 48 right would be 4e-4
