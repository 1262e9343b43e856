"""Perplexity: against closed formulas, against torch on the same tokens, and of bundles held against one another."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from cli_kit import command, refused  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st

import tundish
from tundish.ir.diagnostics import LoadError
from tundish.profiler import perplexity as p

VOCAB = 40
TEXT = "if it be now, tis not to come; if it be not to come, it will be now; if it be not now, yet it will come. "


def reader(logits, vocab=VOCAB, **changes):
    """Answers ids [rows, seq] with `logits(ids)` [rows, seq, vocab]."""
    return p.Reader("a model", lambda given: {"logits": logits(given["input_ids"])}, ("input_ids",), **changes)


@given(st.integers(2, 300), st.integers(2, 64), st.data())
def test_windows_predict_each_token_but_the_first_once(tokens, window, data):
    window = min(window, tokens)
    stride = data.draw(st.integers(1, window - 1))
    found = p.windows(tokens, window, stride)
    assert [t for _, end, first in found for t in range(first, end)] == list(range(1, tokens))
    for start, end, first in found:
        assert end - start == window and 0 <= start < first
        assert first == 1 or first - start >= window - stride


def test_nats_are_the_cross_entropy_of_torch():
    import torch

    drawn = np.random.default_rng(0)
    logits = drawn.normal(0, 30, (50, VOCAB)).astype(np.float32)
    targets = drawn.integers(0, VOCAB, 50)
    wide = torch.from_numpy(logits).double()
    theirs = torch.nn.functional.cross_entropy(wide, torch.from_numpy(targets), reduction="none")
    np.testing.assert_allclose(p.nats(logits, targets), theirs.numpy(), rtol=1e-12, atol=1e-12)


def test_a_model_that_knows_nothing_has_its_vocabulary_as_perplexity():
    ids = np.random.default_rng(0).integers(0, VOCAB, 100)
    each = p.text_nats(reader(lambda x: np.full((*x.shape, VOCAB), 3.0, np.float32)), ids, 16, 8)
    assert len(each) == 99
    np.testing.assert_allclose(np.exp(each), VOCAB, rtol=1e-12)


def test_a_markov_chain_has_the_entropy_that_its_table_says():
    """A model that looks one token back answers alike whatever the windows."""
    drawn = np.random.default_rng(1)
    table = drawn.normal(0, 2, (VOCAB, VOCAB))
    ids = drawn.integers(0, VOCAB, 200)
    chances = np.exp(table) / np.exp(table).sum(1, keepdims=True)
    wanted = -np.log(chances[ids[:-1], ids[1:]])
    for window, stride in ((200, 100), (16, 15), (16, 1), (2, 1)):
        np.testing.assert_allclose(p.text_nats(reader(lambda x: table[x]), ids, window, stride), wanted, rtol=1e-12)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folders of tiny Llamas that read bytes: `random`, and `flat`, whose head is zero; a text file; bundles."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("made")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    letters = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    words = Tokenizer(models.BPE(letters, []))
    words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    for name, seed, scale in (("random", 0, 8.0), ("other", 1, 8.0), ("flat", 0, 0.0)):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(
            vocab_size=256, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2,
            intermediate_size=64, max_position_embeddings=64,
        ))  # fmt: skip
        model.lm_head.weight.data.mul_(scale)
        model.save_pretrained(folder / name)
        words.save(str(folder / name / "tokenizer.json"))
        tundish.compile(folder / name, folder / f"{name}.tundish", batch="1..2", seq="1..64").close()
    return folder


def rows(made, name, against=None, **options):
    with tundish.load(made / f"{name}.tundish") as bundle:
        return p.perplexities(bundle, made / "text.txt", against, **options)


def test_a_bundle_with_a_zero_head_has_its_vocabulary_as_perplexity(made):
    (row,) = rows(made, "flat")
    assert row["perplexity"] == pytest.approx(256, rel=1e-9) and row["bits_per_byte"] == pytest.approx(8, rel=1e-9)
    assert row["tokens"] == len(TEXT) - 1 and row["change_percent"] is None


@pytest.mark.parametrize(("window", "stride"), [(None, None), (64, 63), (20, 7)])
def test_a_bundle_has_the_perplexity_that_torch_gives_on_the_same_tokens(made, window, stride):
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    (row,) = rows(made, "random", window=window, stride=stride)
    model = LlamaForCausalLM.from_pretrained(made / "random").double()
    words = PreTrainedTokenizerFast(tokenizer_file=str(made / "random" / "tokenizer.json"))
    ids = torch.tensor(words(TEXT)["input_ids"])
    total = 0.0
    for start, end, first in p.windows(len(ids), row["window"], row["stride"]):
        logits = model(input_ids=ids[None, start:end]).logits[0, first - start - 1 : -1]
        total += float(torch.nn.functional.cross_entropy(logits, ids[first:end], reduction="sum").detach())
    assert row["tokens"] == len(ids) - 1
    assert row["nats_per_token"] == pytest.approx(total / (len(ids) - 1), abs=1e-5)
    assert row["perplexity"] == pytest.approx(math.exp(row["nats_per_token"]))
    assert row["bits_per_byte"] == pytest.approx(row["nats_per_token"] / math.log(2))  # a token here is a byte


def test_the_change_is_of_the_bundle_over_what_it_is_held_against(made):
    with tundish.load(made / "flat.tundish") as flat:
        base, row = rows(made, "random", flat)
    assert (base["model"], row["model"]) == ("flat.tundish", "random.tundish")
    assert row["change_percent"] == pytest.approx(100 * (row["perplexity"] / 256 - 1))
    with tundish.load(made / "random.tundish") as same:
        assert rows(made, "random", same)[1]["change_percent"] == 0.0


def test_the_original_reads_the_text_too(made, command):
    told = command("verify", made / "random.tundish", "--perplexity", made / "text.txt",
                   "--against", made / "random", "--json")  # fmt: skip
    assert told.code == 0
    original, ours = told.json["perplexity"]
    assert original["model"] == "random" and ours["model"] == "random.tundish"
    assert abs(ours["change_percent"]) < 1e-2 and original["tokens"] == ours["tokens"]
    assert told.json["passed"] and told.json["outputs"]


def test_the_command_prints_a_row_for_each(made, command):
    told = command("verify", made / "random.tundish", "--perplexity", made / "text.txt",
                   "--against", made / "other.tundish")  # fmt: skip
    assert told.code == 0
    assert "other.tundish" in told.out and "change percent" in told.out.replace("_", " ")


def test_a_model_that_looks_ahead_is_refused():
    ids = np.random.default_rng(0).integers(0, VOCAB, 40)

    def logits(x):
        seen = np.eye(VOCAB, dtype=np.float32)[x]
        return seen + np.roll(seen, -1, axis=1)

    with pytest.raises(LoadError, match="looks ahead"):
        p._check_causal(reader(logits), ids, 20)
    p._check_causal(reader(lambda x: np.cumsum(np.eye(VOCAB)[x], axis=1)), ids, 20)


def test_what_cannot_be_read_is_told_in_one_line(made, command, tmp_path):
    bundle = made / "random.tundish"
    refused(command("verify", bundle, "--perplexity", tmp_path / "none.txt"), "none.txt cannot be read")
    (tmp_path / "short.txt").write_text("a")
    refused(command("verify", bundle, "--perplexity", tmp_path / "short.txt"), "the text is 1 tokens long")
    (tmp_path / "odd.txt").write_bytes(b"\xff\xfe\xff")
    refused(command("verify", bundle, "--perplexity", tmp_path / "odd.txt"), "is no UTF-8 text")


def test_a_bundle_of_no_language_model_is_refused(tmp_path, made, command):
    tundish.compile("bert-tiny", tmp_path / "bert.tundish", batch=1, seq="1..8").close()
    refused(command("verify", tmp_path / "bert.tundish", "--perplexity", made / "text.txt"), "holds no tokenizer")
    with tundish.load(tmp_path / "bert.tundish") as bundle, pytest.raises(LoadError, match="has no perplexity"):
        p.bundle_reader(bundle)


def test_other_tokens_do_not_compare(made, tmp_path):
    import shutil

    copy = tmp_path / "swapped.tundish"
    shutil.copytree(made / "other", tmp_path / "swapped")
    words = json.loads((tmp_path / "swapped" / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    words["model"]["vocab"] = {c: len(vocabulary) - 1 - i for c, i in vocabulary.items()}
    (tmp_path / "swapped" / "tokenizer.json").write_text(json.dumps(words))
    tundish.compile(tmp_path / "swapped", copy, batch=1, seq="1..64").close()
    with tundish.load(copy) as other, pytest.raises(LoadError, match="read other tokens"):
        rows(made, "random", other)
