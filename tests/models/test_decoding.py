"""One step of a decoder against its cache: steps of a bundle add up to the model's answer to the whole text."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch

import tundish
from tundish.ir.diagnostics import CaptureError, TundishError
from tundish.models.cases import cases
from tundish.models.decoding import decode_step, prompted
from tundish.models.errors import ModelError
from tundish.models.open import open_model
from tundish.work import Asked, Work

STEPS, PROMPT = 3, 11
QUICK = ("gpt2-tiny", "llama-tiny", "mistral-tiny")
MORE = ("gpt-neox-tiny", "opt-tiny", "bloom-tiny", "qwen3-tiny", "gemma3-tiny")


def texts(side: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask of two rows, the prompt and STEPS more tokens; `left`: the second row starts with padding."""
    ids = np.random.default_rng(3).integers(3, 100, (2, PROMPT + STEPS))
    mask = np.ones_like(ids)
    if side == "left":
        mask[1, :4] = 0
    return ids, mask


def whole(module, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """What eager torch answers to the last token of the whole text, without any cache."""
    ids, mask = torch.from_numpy(ids), torch.from_numpy(mask)
    places = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
    places = places if "position_ids" in inspect.signature(module.forward).parameters else {}
    with torch.no_grad():
        return module(input_ids=ids, attention_mask=mask, use_cache=False, **places).logits[:, -1:].numpy()


def check_steps(name: str, side: str, tmp_path) -> None:
    bundle = tundish.compile(name, tmp_path / "step.tundish", phase="decode", batch="1..4")
    source, (ids, mask) = open_model(name), texts(side)
    step = decode_step(source)
    kept = step.module.prefill(torch.from_numpy(ids[:, :PROMPT]), torch.from_numpy(mask[:, :PROMPT]))
    past = {k: v.detach().numpy() for k, v in kept.items()}
    for n in range(PROMPT + 1, PROMPT + STEPS + 1):
        out = bundle.run({"input_ids": ids[:, n - 1 : n], "attention_mask": mask[:, :n], **past})
        want = whole(source.module, ids[:, :n], mask[:, :n])
        assert np.abs(out["logits"] - want).max() <= 1e-5 * max(1.0, np.abs(want).max()), (name, side, n)
        past = {k.replace("present", "past"): v for k, v in out.items() if k != "logits"}
        assert {v.shape[2] for v in past.values()} == {n}
    report = tundish.verify(bundle)
    assert report.passed and report.cases >= 8, report
    assert bundle.manifest.info["phase"] == "decode"


@pytest.mark.parametrize("name", QUICK)
def test_steps_on_onnxruntime_are_the_whole_text(name, tmp_path):
    """mistral-tiny's window is shorter than the prompt."""
    check_steps(name, "", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_more_families(name, tmp_path):
    check_steps(name, "left", tmp_path)


def test_padding_on_the_left_moves_no_position(tmp_path):
    check_steps("gpt2-tiny", "left", tmp_path)


def test_names_of_weights_and_modules_are_those_of_the_prefill():
    prefill, step = (Work("gpt2-tiny", Asked(phase=phase), lambda *_: None).program for phase in ("prefill", "decode"))
    modules = [{n.where.module for n in p.functions["forward"].nodes} for p in (prefill, step)]
    assert set(prefill.weights) == set(step.weights)
    assert modules[0] - {""} == modules[1] - {""}, "where the step works out positions, it is the root"


def test_the_step_is_a_plain_module_of_tensors():
    """So torch.export, with none of our interfaces, takes the very same thing."""
    source = decode_step(open_model("llama-tiny"))
    names = [s.name for s in source.inputs]
    assert list(inspect.signature(source.module.forward).parameters) == names
    case = {k: torch.from_numpy(v) for k, v in cases(source)[0].inputs.items()}
    program = torch.export.export(source.module, (), case, strict=False)
    with torch.no_grad():
        want, got = source.module(**case), program.module()(**case)
    assert all(torch.allclose(want[k], got[k], atol=1e-6) for k in source.outputs)
    assert source.outputs[0] == "logits" and len(source.outputs) == len(names) - 1


def test_the_model_itself_is_left_as_it_was():
    source = open_model("gpt2-tiny")
    kind, given = type(source.module), {s.name: np.ones((1, 5), np.int64) for s in source.inputs}
    before = source.call(given)["logits"]
    decode_step(source)
    assert type(source.module) is kind and (source.call(given)["logits"] == before).all()


def test_the_longest_case_of_a_large_cache_is_cut(monkeypatch):
    monkeypatch.setattr("tundish.models.cases.STORED_BYTES", 10_000)
    source = decode_step(open_model("gpt2-tiny"))
    each = 3 * 2 * 32 * 4 + 8 + 8  # three layers' keys and values, an id and a place in the mask
    by_name = {case.name: case.inputs for case in cases(source, (1, 2), (1, 63))}
    assert by_name["longest"]["attention_mask"].shape == (1, 10_000 // each + 1)
    for name, inputs in by_name.items():
        assert inputs["attention_mask"][:, -1].all(), (name, "the new token is real")


def test_the_past_of_a_case_is_what_the_model_keeps():
    """Numbers at random are further from anything that a trained model has seen than any text is."""
    source = decode_step(open_model("llama-tiny"))
    first = cases(source, (1, 4), (1, 63))[0].inputs
    assert 0 < np.abs(first["past_value_0"]).max() < 1, "small weights keep small values"
    layers = [first[f"past_key_{i}"] for i in range(3)]
    assert all(np.abs(a - b).max() > 0 for a, b in zip(layers, layers[1:], strict=False))


def test_a_text_is_a_case_whose_last_token_is_the_new_one():
    source = decode_step(open_model("gpt2-tiny"))
    ids = np.array([[0, 0, 5, 6, 7], [4, 5, 6, 7, 8]])
    mask = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    inputs = prompted(source, {"input_ids": ids, "attention_mask": mask})
    assert inputs["input_ids"].tolist() == [[7], [8]] and inputs["past_key_0"].shape == (2, 4, 4, 8)
    want = whole(open_model("gpt2-tiny").module, ids, mask)
    np.testing.assert_allclose(source.call(inputs)["logits"], want, atol=1e-5)


@pytest.mark.parametrize(("name", "match"), [
    ("t5-tiny", "only decoders have"), ("bert-tiny", "does not generate"), ("vit-tiny", "does not generate"),
])  # fmt: skip
def test_what_does_not_decode_says_so(name, match):
    with pytest.raises(ModelError, match=match):
        decode_step(open_model(name))


@pytest.mark.parametrize(("asked", "match"), [
    ({"past": 4}, "a prefill has no past"), ({"phase": "decode", "seq": 4}, "takes one token a row"),
    ({"phase": "train"}, "no phase 'train'"), ({"phase": "decode", "past": "1..64"}, "at most 63"),
])  # fmt: skip
def test_lengths_that_a_phase_does_not_have(asked, match):
    with pytest.raises(TundishError, match=match):
        Work("gpt2-tiny", Asked(**asked), lambda *_: None)


def test_a_captured_graph_is_of_one_phase():
    program = tundish.capture("gpt2-tiny", phase="decode", past="1..20")
    assert str(program.symbols["past"]) == "1..20"
    assert Work(program, Asked(phase="decode", past=7), lambda *_: None).program.symbols["past"].high == 7
    with pytest.raises(CaptureError, match="no prefill step"):
        Work(program, Asked(), lambda *_: None)
