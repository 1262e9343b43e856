"""Bundles in lm-eval: what they answer against what the harness's own torch model answers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cli_kit import command, environment, refused  # noqa: F401

import tundish
from tundish.profiler.evaluation import answers
from tundish.profiler.evaluation.adapter import model_class
from tundish.profiler.evaluation.run import evaluate_tasks
from tundish.profiler.evaluation.score import score_of

pytest.importorskip("lm_eval")
VOCAB, LONGEST = 384, 1024
TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)


def tokenizer():
    """A byte-level tokenizer of our task files, without the normaliser and spaces that would make it lossy."""
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    path = tmp_path_factory.mktemp("models") / "tiny-lm"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, max_position_embeddings=LONGEST, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def bundle(folder, tmp_path_factory):
    return tundish.compile(folder, tmp_path_factory.mktemp("bundles") / "tiny.tundish", seq=f"1..{LONGEST}")


@pytest.fixture(scope="module")
def theirs(folder):
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    return HFLM(pretrained=model.eval(), tokenizer=AutoTokenizer.from_pretrained(folder), batch_size=4)


@pytest.fixture(scope="module")
def ours(bundle):
    return model_class()(bundle, batch_size=4)


def request(kind, *arguments):
    from lm_eval.api.instance import Instance

    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


PAIRS = (
    ("The river rises", " in the hills"), ("The river rises", " in the"), ("", "A text of its own"),
    ("ends with a space ", "word"), ("x", "y"), ("<s>user: hi</s>\n", "hello"), ("long " * 300, "and cut"),
    ("The river rises", " in the houses"),
)  # fmt: skip


def test_log_likelihoods_are_those_of_torch(ours, theirs):
    asked = [request("loglikelihood", *pair) for pair in PAIRS]
    mine, torchs = ours.loglikelihood(asked, disable_tqdm=True), theirs.loglikelihood(asked, disable_tqdm=True)
    np.testing.assert_allclose([s for s, _ in mine], [s for s, _ in torchs], atol=1e-3)
    assert [g for _, g in mine] == [g for _, g in torchs]


def test_what_greedy_decoding_gives_is_told_as_such(ours, bundle):
    ids = ours.tok_encode("The river")
    logits = bundle.run({"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)})["logits"]
    best = int(logits[0, -1].argmax())
    ((score, greedy), (other, not_greedy)) = ours.scorer.score([(ids, [best]), (ids, [best - 1])])
    assert greedy and not not_greedy and score > other


@pytest.mark.parametrize("longest", [None, 64])
def test_rolling_log_likelihoods_are_those_of_torch(bundle, theirs, longest, monkeypatch):
    mine = model_class()(bundle, max_length=longest)
    monkeypatch.setattr(theirs, "_max_length", longest or LONGEST)
    texts = [r["context"] for r in answers.items("questions")[:3]] + ["x"]
    asked = [request("loglikelihood_rolling", text) for text in texts]
    got, wanted = mine.loglikelihood_rolling(asked, True), theirs.loglikelihood_rolling(asked, True)
    np.testing.assert_allclose(got, wanted, atol=1e-3)


def test_scores_hang_on_nothing_but_the_pair(bundle):
    """Neither on the rows of a run nor on what else is asked."""
    pairs = [(list(range(2, 2 + n)), list(range(5, 5 + m))) for n, m in ((3, 1), (40, 2), (3, 4), (1, 1), (40, 1))]
    alone = [model_class()(bundle, batch_size=1).scorer.score([pair])[0] for pair in pairs]
    together = model_class()(bundle).scorer.score(pairs)
    np.testing.assert_allclose([s for s, _ in together], [s for s, _ in alone], atol=1e-4)


def test_even_logits_give_each_token_its_share():
    score, greedy = score_of(np.full((5, VOCAB), 7.0, np.float32), [0, 3, 9])
    assert score == pytest.approx(-3 * np.log(VOCAB)) and not greedy


def compared(mine, torchs, tolerance=1e-3):
    """The two evaluations are the same; how many log-likelihoods and texts were held against one another."""
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


def test_a_task_of_choices_has_the_scores_of_torch(ours, theirs):
    options = {"limit": 6, "samples": True}
    found = [evaluate_tasks(lm, ["tundish_sentiment"], **options) for lm in (ours, theirs)]
    assert compared(*found) == 12
    (row,) = found[0]["rows"]
    assert row["chance"] == 0.5 and 0 <= row["p"] <= 1 and row["items"] == 6


def test_the_verb_prints_rows(bundle, command):
    done = command("evaluate", bundle.path, "--tasks", "tundish_sentiment", "--limit", 4, "--json")
    assert [row["metric"] for row in done.json["rows"]] == ["acc"]


@pytest.mark.parametrize(("tasks", "words"), [
    ("tundish_sentimant", "no task 'tundish_sentimant'"), ("", "no task is named"),
    ("hellaswag", "its data are not on this machine"),
])  # fmt: skip
def test_a_task_that_cannot_run_is_refused(bundle, command, tasks, words):
    refused(command("evaluate", bundle.path, "--tasks", tasks), words)


def test_a_bundle_that_cannot_be_asked_is_refused(tmp_path):
    words = tundish.compile("bert-tiny", tmp_path / "bert.tundish", batch="1..2", seq="1..8")
    with pytest.raises(tundish.TundishError, match="holds no tokenizer"):
        tundish.evaluate(words)
    with pytest.raises(tundish.TundishError, match="no bundle is named"):
        model_class()()


@pytest.mark.slow
def test_the_harness_of_the_command_line_knows_bundles(bundle):
    import subprocess
    import sys

    task = str(answers.TASKS / "tundish_sentiment.yaml")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tundish.profiler.evaluation", "--model", "tundish", "--model_args",
         f"bundle={bundle.path}", "--tasks", task, "--limit", "2"],
        env={**environment(), "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "tundish_sentiment" in done.stdout
