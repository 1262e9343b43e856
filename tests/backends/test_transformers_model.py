"""A bundle in the shape of a transformers model, against the model itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from lm_kit import LONGEST, save_lm

import tundish

TEXTS = ["The river rises in the", "Hello", "Nora is 7 years old. Her"]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    from transformers import AutoModelForCausalLM

    folder = save_lm(tmp_path_factory.mktemp("models") / "tiny-lm")
    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()


@pytest.fixture(scope="module")
def model(original, tmp_path_factory):
    place = tmp_path_factory.mktemp("bundles") / "tiny.tundish"
    made = tundish.compile(original.name_or_path, place, seq=f"1..{LONGEST}", batch="1..2")
    return tundish.as_transformers(made)


@pytest.fixture(scope="module")
def tokenizer(model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model.bundle.path, padding_side="left")


@pytest.fixture
def inputs(tokenizer):
    found = tokenizer(TEXTS, return_tensors="pt", padding=True)
    return {name: found[name] for name in ("input_ids", "attention_mask")}


def test_it_is_a_model_of_that_config(model, original):
    from transformers import PreTrainedModel

    assert isinstance(model, PreTrainedModel) and model.can_generate()
    assert type(model.config) is type(original.config) and model.config.to_diff_dict() == original.config.to_diff_dict()
    ours, theirs = (m.generation_config.to_diff_dict() for m in (model, original))
    assert ours == {k: v for k, v in theirs.items() if k != "_from_model_config"}  # theirs was saved nowhere


def test_forward_gives_the_logits_and_the_loss(model, original, inputs):
    """Three rows on a bundle of two: in two runs."""
    import torch

    with torch.no_grad():
        expected, found = original(**inputs), model(**inputs)
        real = inputs["attention_mask"].bool()
        torch.testing.assert_close(found.logits[real], expected.logits[real], atol=1e-4, rtol=1e-4)
        ids = inputs["input_ids"]
        torch.testing.assert_close(model(ids, labels=ids).loss, original(ids, labels=ids).loss, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("how", [
    {"max_new_tokens": 12}, {"max_length": 30}, {}, {"repetition_penalty": 1.3, "max_new_tokens": 20},
    {"max_new_tokens": 9, "eos_token_id": [5, 17, 33, 87], "pad_token_id": 7},
    {"max_new_tokens": 9, "return_dict_in_generate": True},
], ids=lambda how: "+".join(how) or "defaults")  # fmt: skip
def test_greedy_tokens_and_their_padding_are_those_of_transformers(model, original, inputs, how):
    found, expected = model.generate(**inputs, **how), original.generate(**inputs, **how)
    if "return_dict_in_generate" in how:
        found, expected = found.sequences, expected.sequences
    assert found.tolist() == expected.tolist() and found.dtype == expected.dtype


def test_stop_strings_end_a_row(model, original, inputs, tokenizer):
    how = {"max_new_tokens": 24, "stop_strings": ["e", "a", "\n"], "tokenizer": tokenizer}
    found, expected = model.generate(**inputs, **how), original.generate(**inputs, **how)
    assert found.tolist() == expected.tolist()
    new = [row[inputs["input_ids"].shape[1] :] for row in found.tolist()]
    ended = [row for row in new if any(c in tokenizer.decode(row) for c in "ea\n")]
    assert ended and len(min((r[: r.index(1)] if 1 in r else r for r in ended), key=len)) < 24


def test_a_prompt_of_nothing_begins_a_text(model, original):
    assert model.generate(max_new_tokens=5).tolist() == original.generate(max_new_tokens=5).tolist()


def test_sampling_is_seeded_by_torch(model, inputs):
    from transformers import set_seed

    def drawn(seed):
        set_seed(seed)
        return model.generate(**inputs, do_sample=True, temperature=0.9, max_new_tokens=8, num_return_sequences=2)

    found = drawn(1)
    assert len(found) == 6 and found.tolist() == drawn(1).tolist() != drawn(2).tolist()
    assert found[:2, :-8].tolist() == inputs["input_ids"][:1].repeat(2, 1).tolist()


def test_a_streamer_hears_the_prompt_and_every_round(model, original, tokenizer):
    from transformers import TextStreamer

    class Heard(TextStreamer):
        def __init__(self):
            super().__init__(tokenizer)
            self.got = []

        def put(self, value):
            self.got.append(value.tolist())

        def end(self):
            self.got.append("end")

    ids = tokenizer("The river", return_tensors="pt")["input_ids"]
    heard = [Heard(), Heard()]
    for one, streamer in zip((model, original), heard, strict=True):
        one.generate(ids, max_new_tokens=4, streamer=streamer)
    assert heard[0].got == heard[1].got and heard[0].got[-1] == "end"


def test_pipelines_take_it_for_the_model(model, original, tokenizer, caplog):
    from transformers import pipeline

    ours, theirs = (pipeline("text-generation", model=m, tokenizer=tokenizer) for m in (model, original))
    how = {"max_new_tokens": 8, "do_sample": False}
    assert ours(TEXTS, batch_size=2, **how) == theirs(TEXTS, batch_size=2, **how)
    chat = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "hello"}]
    assert ours(chat, **how) == theirs(chat, **how)
    assert "not supported" not in caplog.text


def test_the_documents_example_differs_from_transformers_in_one_line(model, original, tokenizer, capsys):
    """And prints the same: run as it is written, and with the line that it names in place of ours."""
    page = (Path(tundish.__file__).parent / "docs" / "evaluation.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.S | re.M)
    (line,) = re.findall(r"^model = .*# was: (.*)$", code, re.M)
    theirs = re.sub(r"^model = .*$", f"model = {line}", code, flags=re.M)
    theirs = theirs.replace("...", repr(original.name_or_path))
    theirs = theirs.replace("import tundish", "from transformers import AutoModelForCausalLM")
    said = []
    for text in (code, theirs):
        exec(text.replace("smollm2.tundish", str(model.bundle.path)), {})
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != ""


@pytest.mark.parametrize(("how", "word"), [
    ({"num_beams": 3}, "num_beams"), ({"no_repeat_ngram_size": 2}, "no_repeat_ngram_size"),
    ({"min_new_tokens": 3}, "min_new_tokens"), ({"bad_words_ids": [[3]]}, "bad_words_ids"),
    ({"stopping_criteria": [1]}, "stopping_criteria"), ({"logits_processor": [1]}, "logits_processor"),
    ({"output_scores": True}, "output_scores"), ({"past_key_values": 1}, "past_key_values"),
    ({"max_length": 3}, "no room"), ({"wrong": 3}, "wrong"),
])  # fmt: skip
def test_what_it_cannot_do_is_refused_by_name(model, inputs, how, word):
    with pytest.raises(tundish.TundishError, match=word):
        model.generate(**inputs, **how)


def test_what_forward_cannot_do_is_refused_by_name(model, inputs):
    with pytest.raises(tundish.TundishError, match="output_attentions"):
        model(**inputs, output_attentions=True)
    with pytest.raises(tundish.TundishError, match="not saved"):
        model.save_pretrained("anywhere")


def test_a_bundle_of_no_transformers_model_is_refused(tmp_path):
    import torch

    bundle = tundish.compile(torch.nn.Linear(2, 3), tmp_path / "linear.tundish", inputs={"input": torch.ones(4, 2)})
    with pytest.raises(tundish.TundishError, match="holds no config.json"):
        tundish.as_transformers(bundle)
