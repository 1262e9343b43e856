"""Routing that is recorded is what the original's routers choose; a file of another model is refused."""

from __future__ import annotations

import numpy as np
import pytest
from cli_kit import Command, command, refused  # noqa: F401

import tundish
from tundish import api
from tundish.compiler.experts.routing import read_routing

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("routing") / "routing.json"
    tundish.record_routing("mixtral-tiny", tokens=96).save(path)
    return path


def test_it_is_what_the_original_chooses(file):
    from tundish.models.cases import make
    from tundish.models.zoo import load_named

    source = load_named("mixtral-tiny")
    seen: dict[int, list[torch.Tensor]] = {}
    for i, layer in enumerate(source.module.model.layers):
        layer.mlp.experts.register_forward_pre_hook(lambda m, args, i=i: seen.setdefault(i, []).append(args[1]))
    found = read_routing(file)
    for seed in range(len(found.texts)):
        source.call(make(source, 1, found.texts[seed], np.random.default_rng(seed)))
    assert sum(found.texts) == found.tokens >= 96 and len(found.layers) == len(seen) == 3
    for i, layer in enumerate(found.layers):
        chosen = torch.cat(seen[i]).numpy()
        assert np.array_equal(np.sort(layer.choices(), 1), np.sort(chosen, 1))
        assert list(layer.counts) == np.bincount(chosen.ravel(), minlength=4).tolist()


def test_compile_keeps_it_in_the_plan(file, tmp_path):
    with tundish.compile("mixtral-tiny", tmp_path / "b", phase="prefill", routing=file) as bundle:
        plan = (bundle.path / "plan.txt").read_text()
        told = [row for row in api.explain(bundle) if row["pass"] == "routing"]
        assert bundle.manifest.info["routing"].endswith("drawn tokens")
    assert plan.count("# decision routing ") == 3 == len(told)
    assert "layers.0" in told[0]["where"]


@pytest.mark.parametrize(("line", "parts"), [
    (("compile", "qwen3-moe-tiny", "-o", "{out}", "--phase", "prefill"), ["another model, mixtral-tiny", "8 experts"]),
    (("compile", "llama-tiny", "-o", "{out}", "--phase", "prefill"), ["no experts"]),
])  # fmt: skip
def test_a_file_of_another_model_is_refused_in_one_line(command: Command, file, tmp_path, line, parts):
    words = [w.format(out=tmp_path / "out") for w in line]
    refused(command(*words, "--routing", str(file)), *parts)
    assert not (tmp_path / "out").exists()


def test_other_weights_of_the_same_architecture_are_another_model(file):
    from tundish.compiler.experts.routing import routing_key
    from tundish.ir.dims import Range
    from tundish.ir.fold import fold
    from tundish.models.zoo import load_named
    from tundish.originals import captured

    sizes = {"batch": Range(1, 1), "seq": Range(2, 8)}
    programs = [captured(load_named("mixtral-tiny", seed=s), sizes) for s in (0, 1)]
    keys = [routing_key(p) for p in programs]
    assert keys[0] == read_routing(file).key == routing_key(fold(programs[0]))
    assert keys[1] != keys[0]


@pytest.mark.parametrize(("line", "parts"), [
    (("profile", "llama-tiny", "--record-routing", "{out}"), ["no layer of experts"]),
    (("profile", "mixtral-tiny", "--text", "x.txt"), ["--text", "--record-routing"]),
    (("profile", "mixtral-tiny", "--record-routing", "{out}", "--text", "{out}"), ["no tokenizer"]),
    (("profile", "mixtral-tiny", "--record-routing", "{out}/no/where.json"), ["cannot be written"]),
])  # fmt: skip
def test_what_cannot_be_recorded_is_told_in_one_line(command: Command, tmp_path, line, parts):
    refused(command(*(w.format(out=tmp_path / "out") for w in line)), *parts)
    assert not (tmp_path / "out").exists()
