"""Bundles in lm-eval: what they answer against what the harness's own torch model answers."""

from __future__ import annotations

import numpy as np
import pytest
from cli_kit import command, environment, refused  # noqa: F401
from lm_kit import LONGEST, VOCAB, compared, save_lm

import tundish
from tundish.profiler.evaluation import answers
from tundish.profiler.evaluation.adapter import model_class
from tundish.profiler.evaluation.run import evaluate_tasks
from tundish.profiler.evaluation.score import PrefixReader, scores_of
from tundish.profiler.evaluation.writing import cut

pytest.importorskip("lm_eval")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_lm(tmp_path_factory.mktemp("models") / "tiny-lm")


@pytest.fixture(scope="module")
def bundle(folder, tmp_path_factory):
    place = tmp_path_factory.mktemp("bundles") / "tiny.tundish"
    return tundish.compile(folder, place, seq=f"1..{LONGEST}")


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
    pieces = [np.full((n, VOCAB), 7.0, np.float32) for n in (2, 1)]
    for score, greedy in scores_of(pieces, [[8, 0, 3, 9], [8, 0, 3, 4]], 3):
        assert score == pytest.approx(-3 * np.log(VOCAB)) and not greedy


def test_common_beginnings_are_read_once_and_change_nothing(bundle):
    """Each text begins with what the one before it begins with, and goes on by three tokens of its own."""
    prefix = list(range(3, 60))
    texts = sorted((*prefix, *range(a, a + 3)) for a in (100, 20, 300))
    reader = PrefixReader(bundle, 80)
    for text in texts:
        found = np.concatenate([np.array(piece) for piece in reader.read(text, 3)])
        ids = np.array([text])
        whole = bundle.run({"input_ids": ids, "attention_mask": np.ones_like(ids)}, outputs=["logits"])["logits"]
        np.testing.assert_allclose(found, whole[0, -3:], atol=1e-4)
    assert reader.tokens_read == len(prefix) + 3 * len(texts)


def test_texts_that_share_much_are_scored_as_those_that_do_not(bundle):
    """A long context with five continuations is read step by step; each alone is read whole."""
    context = list(range(2, 202))
    pairs = [(context, [7]), (context, [8]), (context, [7, 9, 11]), (context[:150], [44, 3]), (context, [7, 9])]
    scorer = model_class()(bundle).scorer
    together, alone = scorer.score(pairs), [scorer.score([pair])[0] for pair in pairs]
    np.testing.assert_allclose([s for s, _ in together], [s for s, _ in alone], atol=1e-4)
    assert [g for _, g in together] == [g for _, g in alone]


def test_a_task_of_choices_has_the_scores_of_torch(ours, theirs):
    found = [evaluate_tasks(lm, ["tundish_sentiment"], limit=6, samples=True) for lm in (ours, theirs)]
    assert compared(*found) == 12
    (row,) = found[0]["rows"]
    assert row["stderr"] == pytest.approx((row["value"] * (1 - row["value"]) / 5) ** 0.5)
    assert row["chance"] == 0.5 and 0 <= row["p"] <= 1 and row["items"] == 6


@pytest.mark.parametrize("how", [
    {}, {"system": "Be short.", "num_fewshot": 1}, {"system": "Be short.", "chat": True},
], ids=["plain", "system", "chat"])  # fmt: skip
def test_texts_and_scores_are_those_of_torch(ours, theirs, how):
    """A system instruction, worked examples and turns of a chat are the same text for both, or nothing would be."""
    tasks = ["tundish_questions", "tundish_sentiment"] + ([] if how else ["tundish_arithmetic"])
    found = [evaluate_tasks(lm, tasks, limit=3, samples=True, **how) for lm in (ours, theirs)]
    assert compared(*found) == 3 * (len(tasks) + 1)
    prompt = found[0]["samples"]["tundish_questions"][0]["arguments"][0][0]
    assert prompt.startswith("<s>system: Be short." if "chat" in how else "Be short." if how else "Answer each")


def test_a_last_turn_of_the_assistant_goes_on(ours, theirs):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "the answer is"}]
    for asked in (True, False):
        assert ours.apply_chat_template(turns, asked) == theirs.apply_chat_template(turns, asked)
    assert ours.chat_template(True) == theirs.chat_template(True) and ours.chat_template(False) is None


def test_sampled_texts_are_the_same_for_the_same_seed(ours):
    how = {"do_sample": True, "temperature": 0.8, "top_k": 20, "max_gen_toks": 12, "until": []}

    def drawn(seed):
        np.random.seed(seed)
        return ours.generate_until([request("generate_until", text, how) for text in ("The river", "x")], True)

    assert drawn(1) == drawn(1) != drawn(2)


@pytest.mark.parametrize(("how", "word"), [({"num_beams": 3}, "num_beams"), ({"best_of": 2}, "best_of")])
def test_what_the_loop_does_not_do_is_refused(ours, how, word):
    with pytest.raises(tundish.TundishError, match=word):
        ours.generate_until([request("generate_until", "x", how)], True)


@pytest.mark.parametrize(("text", "until", "rest"), [
    ("a b c", ["b", "c"], "a "), ("a b c", ["c", "b"], "a "), ("abc", [], "abc"), ("abc", ["x"], "abc"),
    ("ab", ["ab"], ""),
])  # fmt: skip
def test_a_text_ends_before_the_first_stop_text(text, until, rest):
    assert cut(text, until) == rest


def test_the_verb_prints_rows(bundle, command):
    done = command("evaluate", bundle.path, "--tasks", "tundish_sentiment", "--limit", 4, "--json")
    assert [row["metric"] for row in done.json["rows"]] == ["acc"]


@pytest.mark.parametrize(("asked", "words"), [
    (("--tasks", "tundish_sentimant"), "no task 'tundish_sentimant'"), (("--tasks", ""), "no task is named"),
    (("--tasks", "hellaswag"), "its data are not on this machine"), (("--samples",), "--samples goes with --json"),
    (("--include", "nowhere"), "there is no folder nowhere"),
])  # fmt: skip
def test_what_cannot_run_is_refused(bundle, command, asked, words):
    refused(command("evaluate", bundle.path, *asked), words)


def test_a_bundle_that_cannot_be_asked_is_refused(tmp_path):
    words = tundish.compile("bert-tiny", tmp_path / "bert.tundish", batch="1..2", seq="1..8")
    with pytest.raises(tundish.TundishError, match="holds no tokenizer"):
        tundish.evaluate(words)
    with pytest.raises(tundish.TundishError, match="no bundle is named"):
        model_class()()


@pytest.mark.slow
@pytest.mark.parametrize(("module", "tasks"), [
    ("tundish.profiler.evaluation", "tundish_sentiment"), ("lm_eval", str(answers.TASKS / "tundish_sentiment.yaml")),
], ids=["ours", "theirs"])  # fmt: skip
def test_the_harness_of_the_command_line_knows_bundles(bundle, module, tasks):
    """By a module of ours with any task, by the harness's own command with the path of one of our files."""
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-P", "-m", module, "--model", "tundish", "--model_args", f"bundle={bundle.path}", "--tasks",
         tasks, "--include_path", str(answers.TASKS), "--limit", "2"],
        env={**environment(), "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "tundish_sentiment" in done.stdout
