"""The small model of experts that is ours: trained by the script beside it, and with a router that means something."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tundish
from tundish.models import zoo
from tundish.models.shakespeare import train as twin
from tundish.models.shakespeare_moe import train as t

torch = pytest.importorskip("torch")

FOLDER = Path(t.__file__).parent
HELD_OUT = Path(twin.__file__).parent / "heldout.txt"
TINY = {**t.SIZES, "vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1,
        "intermediate_size": 64, "num_local_experts": 4, "max_position_embeddings": 32}  # fmt: skip
MOST_BYTES, BITS_PER_BYTE = 8_000_000, 2.25  # the README of the folder says what was measured


def trained(folder: Path, seed: int = 0) -> dict[str, bytes]:
    text = HELD_OUT.read_text(encoding="utf-8")
    parts = {f"work {i}": text[i * 4000 : (i + 1) * 4000] for i in range(4)}
    twin.train(folder, parts, sizes=TINY, steps=3, batch=2, context=16, seed=seed, make=t.model_of,
               loss_of=t.balanced_loss)  # fmt: skip
    return {f.name: f.read_bytes() for f in folder.iterdir()}


def test_training_twice_gives_the_same_bytes(tmp_path):
    first, again, other = (trained(tmp_path / str(i), seed) for i, seed in enumerate((0, 0, 1)))
    assert first == again
    assert first["model.safetensors"] != other["model.safetensors"]


def test_what_is_minimised_is_the_originals_loss():
    """Nats and BALANCE times Σ over experts of share of choices · mean probability · experts, as in Switch, 2.2."""
    model = t.model_of(TINY, 0)
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 300, (2, 17)))
    minimised, nats = t.balanced_loss(model, ids)
    logits = torch.cat(model(input_ids=ids[:, :-1], output_router_logits=True, use_cache=False).router_logits)
    probabilities = torch.softmax(logits, -1)
    chosen = torch.nn.functional.one_hot(probabilities.topk(2, -1).indices, 4).float()
    uneven = 4 * (chosen.mean(0) * probabilities.mean(0)).sum()
    assert minimised.item() == pytest.approx((nats + t.BALANCE * uneven).item(), rel=1e-6)
    wanted = torch.nn.functional.cross_entropy(model(input_ids=ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert nats.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_the_weights_are_those_of_the_script():
    from safetensors import safe_open

    config = json.loads((FOLDER / "config.json").read_text())
    assert {k: config[k] for k in t.SIZES} == dict(t.SIZES)
    assert config["architectures"] == ["MixtralForCausalLM"] and config["tie_word_embeddings"]
    assert config["router_aux_loss_coef"] == t.BALANCE
    file = FOLDER / "model.safetensors"
    assert file.stat().st_size < MOST_BYTES
    with safe_open(file, "np") as tensors:
        arrays = [tensors.get_tensor(name) for name in tensors.keys()]
    assert {a.dtype for a in arrays} == {np.dtype(np.float32)}
    assert sum(a.size for a in arrays) == zoo.PACKAGED["shakespeare-moe"].parameters


@pytest.fixture(scope="module")
def routing():
    return tundish.record_routing("shakespeare-moe", text=HELD_OUT, tokens=2048)


def test_its_routers_are_neither_even_nor_collapsed(routing):
    assert [(layer.experts, layer.k) for layer in routing.layers] == [(16, 2)] * 4
    for layer in routing.layers:
        assert 1.3 < layer.max_over_mean < 6
        assert sum(count > 0 for count in layer.counts) >= 12, "most experts are of use"
    assert max(layer.kept for layer in routing.layers) > 1.1 * min(layer.kept_by_chance for layer in routing.layers)


def test_a_random_router_is_another(routing):
    """What skew the trained one has is more than that of the same architecture untrained, on the same text."""
    from tundish.models.zoo import load_named

    module = t.model_of(t.SIZES, 0)
    ids = torch.from_numpy(np.array([_tokens()[:256]]))
    with torch.no_grad():
        logits = module(input_ids=ids, output_router_logits=True, use_cache=False).router_logits
        trained = load_named("shakespeare-moe").module(input_ids=ids, output_router_logits=True, use_cache=False)
    sure = [float(torch.softmax(torch.cat(found), -1).topk(2, -1).values.sum(-1).mean())
            for found in (logits, trained.router_logits)]  # fmt: skip
    assert sure[1] > 2 * sure[0]


def _tokens() -> np.ndarray:
    from tokenizers import Tokenizer

    words = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    return np.array(words.encode(HELD_OUT.read_text(encoding="utf-8")[:4000]).ids)


def test_it_predicts_what_it_was_not_trained_on(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(HELD_OUT.read_text(encoding="utf-8")[:8000], encoding="utf-8")
    with tundish.compile("shakespeare-moe", tmp_path / "b", batch=1, phase="prefill") as bundle:
        original, ours = tundish.verify(bundle, against="shakespeare-moe", perplexity=text).perplexity
    assert original["bits_per_byte"] < BITS_PER_BYTE
    assert abs(ours["change_percent"]) < 0.01
