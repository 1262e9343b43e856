"""Layers of experts through transformers' interface: every layout, every activation, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tundish.ir.capture import experts as experts_module  # noqa: E402
from tundish.ir.capture.from_torch import capture  # noqa: E402
from tundish.ir.diagnostics import CaptureError  # noqa: E402
from tundish.ir.evaluate import evaluate  # noqa: E402
from tundish.ir.ops.moe import ACTIVATIONS  # noqa: E402

D, F, E, K = 8, 6, 5, 2


def config(kind: str, **more):
    from transformers import AutoConfig

    sizes = {"hidden_size": D, "intermediate_size": F, "moe_intermediate_size": F, "num_hidden_layers": 1,
             "num_local_experts": E, "n_routed_experts": E, "num_experts": E, "num_experts_per_tok": K}  # fmt: skip
    made = AutoConfig.for_model(kind, **{**sizes, **more})
    made._experts_implementation = "eager"
    return made


def experts(kind: str, cls: str, **more):
    import importlib

    module = importlib.import_module(f"transformers.models.{kind}.modeling_{kind}")
    made = getattr(module, cls)(config(kind, **more))
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return made.eval()


class Layer(torch.nn.Module):
    """Routed by what the test hands in."""

    def __init__(self, inner):
        super().__init__()
        self.experts = inner

    def forward(self, x, ids, weights):
        return self.experts(x, ids, weights)


def routed(tokens: int):
    rng = np.random.default_rng(tokens)
    ids = np.stack([rng.permutation(E)[:K] for _ in range(tokens)])
    return {
        "x": rng.normal(size=(tokens, D)).astype(np.float32), "ids": ids,
        "weights": rng.random((tokens, K), np.float32),
    }  # fmt: skip


def program_of(layer):
    given = {name: torch.from_numpy(array) for name, array in routed(3).items()}
    return capture(layer, given, {name: {0: "tokens"} for name in given})


LAYOUTS = {
    "gate before value, columns out": ("mixtral", "MixtralExperts", {}, "swiglu"),
    "interleaved, clamped, biased, columns in": ("gpt_oss", "GptOssExperts", {}, "swiglu_oai"),
    "GELU for the gate": ("mixtral", "MixtralExperts", {"hidden_act": "gelu"}, "geglu"),
    "tanh GELU for the gate": ("deepseek_v3", "DeepseekV3Experts", {"hidden_act": "gelu_pytorch_tanh"}, "geglu_tanh"),
    "ReLU for the gate": ("qwen3_moe", "Qwen3MoeExperts", {"hidden_act": "relu"}, "reglu"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_node_that_means_what_the_module_does(layout: str) -> None:
    kind, cls, more, activation = LAYOUTS[layout]
    layer = Layer(experts(kind, cls, **more))
    program = program_of(layer)
    nodes = [n for n in program.entry.nodes if n.op.name == "moe"]
    assert [n.attrs["activation"] for n in nodes] == [activation]
    assert nodes[0].where.file.endswith("test_experts.py")
    for tokens in (1, 7):
        given = routed(tokens)
        with torch.no_grad():
            wanted = layer(**{k: torch.from_numpy(v) for k, v in given.items()}).numpy()
        (got,) = evaluate(program, given).values()
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())


def test_the_module_is_left_as_it_was() -> None:
    layer = Layer(experts("mixtral", "MixtralExperts"))
    before = set(layer.experts.__dict__)
    program_of(layer)
    assert layer.experts.config._experts_implementation == "eager"
    assert set(layer.experts.__dict__) == before


@pytest.mark.parametrize("act", ["quick_gelu", "tanh", "relu2"])
def test_an_unknown_activation_is_refused_by_name_with_the_users_line(act: str) -> None:
    layer = Layer(experts("mixtral", "MixtralExperts", hidden_act=act))
    with pytest.raises(CaptureError, match="which the op for experts does not know") as caught:
        program_of(layer)
    assert type(layer.experts.act_fn).__name__ in caught.value.problem
    assert caught.value.found == f"hidden_act {act!r}"
    assert caught.value.where.file.endswith("test_experts.py") and caught.value.where.line > 0
    assert layer.experts.config._experts_implementation == "eager"


def test_a_function_that_only_bears_a_known_name_is_not_taken_for_it() -> None:
    """gpt-oss's gate with another limit has the same class and the same code."""
    layer = experts("gpt_oss", "GptOssExperts")
    assert experts_module.activation_of(layer) == "swiglu_oai"
    layer.limit = 6.5
    assert experts_module.activation_of(layer) is None


def test_a_norm_behind_each_expert_is_refused() -> None:
    layer = Layer(experts("mixtral", "MixtralExperts"))
    layer.experts.has_post_expert_norm = True
    with pytest.raises(CaptureError, match="norms what each expert gives"):
        program_of(layer)


def test_no_two_activations_look_alike_on_the_grid() -> None:
    gate, value = (a.ravel() for a in np.meshgrid(experts_module._GATES, experts_module._VALUES))
    for a in ACTIVATIONS.values():
        close = [b for b in ACTIVATIONS.values() if a.gated == b.gated
                 and np.allclose(a.fn(gate, value), b.fn(gate, value), rtol=1e-4, atol=1e-4)]  # fmt: skip
        assert close == [a]
