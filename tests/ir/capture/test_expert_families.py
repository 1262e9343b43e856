"""Families of models with experts: one node for each layer of experts, and the answers of eager torch."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import moe_kit as kit  # noqa: E402

import tundish  # noqa: E402
from tundish.ir.capture.expert_patches import patched_experts  # noqa: E402
from tundish.ir.capture.from_torch import capture  # noqa: E402
from tundish.ir.evaluate import evaluate  # noqa: E402
from tundish.ir.unfold import unfold  # noqa: E402
from tundish.ir.walk import op_counts, steps  # noqa: E402
from tundish.models.cases import make  # noqa: E402
from tundish.models.open import open_model  # noqa: E402

PATCHED = ("dbrx", "switch_transformers", "llama4_text")  # those that pass transformers' interface by
BY_INTERFACE = ("mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "phimoe", "granitemoe", "deepseek_v3")


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """name -> (source, program), each made once."""
    known = {}

    def of(name):
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            kit.of_transformers(name).save_pretrained(folder)
            known[name] = open_model(folder), tundish.capture(folder)
        return known[name]

    return of


@pytest.mark.parametrize("name", [*BY_INTERFACE, *PATCHED])
def test_one_node_for_each_layer_of_experts(name, opened):
    _, program = opened(name)
    assert op_counts(program)["moe"] == kit.FAMILIES[name][2]
    for step in steps(program):
        if step.node.op.name == "moe":
            assert step.node.inputs[0].type.rank == 2, "tokens of all rows together"


@pytest.mark.parametrize("name", [*BY_INTERFACE, *PATCHED])
@pytest.mark.parametrize("sizes", [(1, 1), (1, 2), (3, 7), (2, 17)], ids=str)
def test_the_program_answers_as_eager_torch_does(name, sizes, opened):
    source, program = opened(name)
    given = make(source, *sizes, np.random.default_rng(sum(sizes)))
    wanted, got = source.call(given), evaluate(unfold(program), given)
    for key, array in wanted.items():
        np.testing.assert_allclose(got[key], array, atol=1e-5 * max(1.0, np.abs(array).max()), rtol=0, err_msg=key)


def test_switch_drops_the_tokens_that_its_capacity_has_no_room_for(opened):
    """All tokens of a row alike go to one expert, whose capacity is 3: later ones get nothing from it."""
    source, program = opened("switch_transformers")
    given = make(source, 2, 9, np.random.default_rng(0))
    for name in ("input_ids", "decoder_input_ids"):
        given[name] = np.full_like(given[name], 5)
    wanted, got = source.call(given)["logits"], evaluate(unfold(program), given)["logits"]
    np.testing.assert_allclose(got, wanted, atol=1e-5 * max(1.0, np.abs(wanted).max()), rtol=0)
    weights = [s.node.inputs[2] for s in steps(program) if s.node.op.name == "moe"]
    assert len(weights) == 2


@pytest.mark.parametrize("k", [1, 2])
def test_llama_4_scales_what_goes_into_an_expert(k):
    from transformers import Llama4TextConfig
    from transformers.models.llama4.modeling_llama4 import Llama4TextMoe

    torch.manual_seed(0)
    block = Llama4TextMoe(Llama4TextConfig(
        hidden_size=16, intermediate_size=8, num_local_experts=4, num_experts_per_tok=k, intermediate_size_mlp=12,
    )).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.randn_like(parameter))
        x = torch.randn(2, 3, 16)
        wanted, _ = block(x)
        from tundish.ir.capture.torch_ops import library

        library()
        with patched_experts(block):
            got, _ = block(x)
        assert "forward" not in block.__dict__
    np.testing.assert_allclose(got.numpy(), wanted.numpy(), atol=1e-4 * wanted.abs().max(), rtol=0)


def test_jamba_has_a_node_for_each_layer_of_experts_where_its_length_is_fixed():
    """Its scan is a Python loop over the tokens, so that no trace keeps their number open."""
    model = kit.Causal(kit.of_transformers("jamba")).eval()
    given = kit.sample(2, 7)
    program = capture(model, given, {"input_ids": {0: "batch"}})
    assert op_counts(program)["moe"] == kit.FAMILIES["jamba"][2]
    with torch.no_grad():
        wanted = model(**given).numpy()
    (got,) = evaluate(program, {"input_ids": given["input_ids"].numpy()}).values()
    np.testing.assert_allclose(got, wanted, atol=1e-5 * max(1.0, np.abs(wanted).max()), rtol=0)


def test_one_hot_is_captured():
    class Model(torch.nn.Module):
        def forward(self, ids):
            return torch.nn.functional.one_hot(ids, 5)

    ids = torch.tensor([[0, 4, 2], [1, 3, 3]])
    program = tundish.capture(Model().eval(), inputs={"ids": ids})
    (got,) = evaluate(unfold(program), {"ids": ids.numpy()}).values()
    assert (got == torch.nn.functional.one_hot(ids, 5).numpy()).all()
