"""`--weights`: what each format leaves of the bytes and of the answers, what keeps its type, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_kit import inputs as gguf_inputs
from gguf_kit import llama

import tundish
from tundish.backends.bundle_write import PLAN
from tundish.backends.manifest import MANIFEST, file_sha256
from tundish.backends.plan_text import read_program
from tundish.ir.diagnostics import CompileError
from tundish.ir.evaluate import Evaluator
from tundish.weight_formats import policy
from tundish.work import Asked, Work

SIZES: dict[str, Any] = {"batch": "1..2", "seq": "1..32", "phase": "prefill"}


def products(bundle: Path) -> list[str]:
    """The kernels of a bundle's first entry, by their names."""
    import onnx

    file = next((bundle / "onnxruntime").glob("*.onnx"))
    return [n.op_type for n in onnx.load(file, load_external_data=False).graph.node]


def held(bundle: tundish.Bundle) -> dict[str, object]:
    return dict(bundle.manifest.info["weights"])


@pytest.mark.parametrize("model", ["gpt2-tiny", "llama-tiny", "bert-tiny"])
@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_every_linear_runs_on_its_few_bits(model: str, weights: str, tmp_path: Path) -> None:
    """A head tied to the embedding has one copy, and the embedding's rows come from it."""
    bundle = tundish.compile(model, tmp_path / "b", weights=weights, **SIZES)
    report = tundish.verify(bundle)
    assert report.passed and all(o.median_row_error is not None for o in report.outputs)
    kinds = products(bundle.path)
    assert kinds.count("MatMulNBits") >= 13 and "MatMul" not in kinds
    assert kinds.count("GatherBlockQuantized") == (model == "gpt2-tiny")
    bits = 8 if weights == "int8" else 4
    assert held(bundle)["format"] == weights
    file = bundle.path / "weights.safetensors"
    assert 0 <= file.stat().st_size - int(str(held(bundle)["bytes"])) < 1 << 16  # the header
    if model == "gpt2-tiny":  # positions and norms aside, all is in few bits and a scale for 32
        assert bits < float(str(held(bundle)["bits_per_weight"])) < bits + 3


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_answers_are_those_of_the_quantised_program(weights: str, tmp_path: Path) -> None:
    """The kernels mean what the program says, the rounding of activations included; that of a tie may go either way,
    and moves what comes after it, so most rows are held to rounding and none to nothing."""
    bundle = tundish.compile("gpt2-tiny", tmp_path / "b", weights=weights, **SIZES)
    program = read_program(bundle.path / PLAN)
    given = {"input_ids": np.arange(1, 15).reshape(2, 7), "attention_mask": np.ones((2, 7), np.int64)}
    got, want = bundle.run(given)["logits"], Evaluator(program, folder=bundle.path).run(given)["logits"]
    apart = np.linalg.norm(got - want, axis=-1) / np.linalg.norm(want, axis=-1)
    assert np.median(apart) < 1e-5 and apart.max() < 0.05


def test_compiling_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    hashes = []
    for name in ("a", "b"):
        bundle = tundish.compile("llama-tiny", tmp_path / name, weights="int4", **SIZES)
        hashes.append(file_sha256(bundle.path / MANIFEST))
    assert hashes[0] == hashes[1]


def test_routers_and_experts_keep_their_numbers(tmp_path: Path) -> None:
    bundle = tundish.compile("mixtral-tiny", tmp_path / "b", weights="int4", **SIZES)
    said = json.loads((bundle.path / "notes.json").read_text())
    declined = [row["what"] for row in said if row["pass"] == "quantize" and "declined" in row["what"]]
    assert any("it chooses experts" in text for text in declined)
    assert tundish.verify(bundle).passed


def test_bf16_weights_are_halved_on_disk(tmp_path: Path) -> None:
    import torch

    torch.manual_seed(0)
    module, x = torch.nn.Linear(256, 512), {"input": torch.randn(2, 256)}
    wide = tundish.compile(module, tmp_path / "a", inputs=x)
    half = tundish.compile(module, tmp_path / "b", inputs=x, weights="bf16")
    assert (held(wide)["bytes"], held(half)["bytes"]) == (4 * 257 * 512, 2 * 256 * 512 + 4 * 512)
    assert tundish.verify(half).passed
    exact = module.weight.detach().bfloat16().float()
    want = torch.nn.functional.linear(x["input"], exact, module.bias).detach().numpy()
    np.testing.assert_allclose(next(iter(half.run({"input": x["input"].numpy()}).values())), want, atol=1e-5)


# -- blocks that lie in the file -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_stored_blocks_enter_as_they_are(kind: str, tmp_path: Path) -> None:
    """Only activations are rounded: the answers are near those of the dequantised file."""
    path = llama(tmp_path / "m.gguf", kind, table="Q8_0")
    bundle = tundish.compile(str(path), tmp_path / "b", weights="stored", batch="1..4", seq="1..16", phase="prefill")
    kinds = products(bundle.path)
    joined = 2 * 4  # of each layer: query, key and value; what follows attention; gate and up; down
    assert kinds.count("MatMulNBits") == joined + 1 and kinds.count("GatherBlockQuantized") == 1
    assert kinds.count("MatMul") == (joined if kind == "Q4_1" else 0)  # the means of groups times their offsets
    given = gguf_inputs()
    plain = tundish.compile(str(path), tmp_path / "p", batch="1..4", seq="1..16", phase="prefill").run(given)["logits"]
    got = bundle.run(given)["logits"]
    assert np.linalg.norm(got - plain) < 0.03 * np.linalg.norm(plain)
    assert tundish.verify(bundle).passed


def test_blocks_of_as_many_bits_stay_and_others_are_made_anew(tmp_path: Path) -> None:
    path = llama(tmp_path / "m.gguf", "Q4_0", table="Q8_0")
    work = Work(str(path), Asked(), lambda *said: None)
    before = [w.type.elements for w in work.program.weights.values() if w.type.dtype.name == "u4"]
    bundle = tundish.compile(str(path), tmp_path / "b", weights="int4", batch="1..4", seq="1..16", phase="prefill")
    weights = read_program(bundle.path / PLAN).weights
    after = {n: w.type.elements for n, w in weights.items() if w.type.dtype.name == "u4"}
    (anew,) = (n for n in after if "quantize" in n)  # in the names of all others nothing but that they were joined
    assert anew.endswith("embed_tokens.weight.dequantize.quantize")
    assert len(before) == 14 and sum(before) == sum(count for n, count in after.items() if n != anew)


# -- refusals --------------------------------------------------------------------------------------------


def test_unknown_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="there is no weight format 'int3'"):
        policy("fp32", "int3")
    with pytest.raises(CompileError, match="there is no weight format"):
        tundish.compile("llama-tiny", tmp_path / "b", weights="q4")
    assert not (tmp_path / "b").exists()


def test_what_a_backend_cannot_do_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="onnxruntime computes with int8 weights in fp32 only"):
        tundish.compile("llama-tiny", tmp_path / "b", weights="int8", precision="bf16", **SIZES)
    with pytest.raises(CompileError, match="in fp32 only"):  # before the model is looked for
        tundish.compile("no-such-model", tmp_path / "b", weights="int4", precision="fp16")
    with pytest.raises(CompileError, match="no weights in blocks"):
        tundish.compile("llama-tiny", tmp_path / "b", weights="stored", **SIZES)


def test_policy_says_the_types_by_role() -> None:
    assert (policy("fp32", "bf16").weights, policy("fp32", "bf16").compute) == ("bf16", "f32")
    assert (policy("bf16", None).weights, policy("bf16", "fp32").weights) == ("bf16", "f32")
    assert (policy("fp32", "int4").blocks, policy("fp32", None).blocks) == ("int4", "")




# -- the other verbs -------------------------------------------------------------------------------------


def test_an_account_counts_with_the_format() -> None:
    """The same parameters and products of the model; of the bytes those that the format takes."""
    wide, few = (tundish.account("gpt2-tiny", seq=16, phase="prefill", weights=w) for w in (None, "int4"))
    assert few["parameters"] == wide["parameters"] and few["flops"] > wide["flops"]
    assert wide["weights_bytes"] > 3 * few["weights_bytes"]
    assert wide["read_bytes"] > few["read_bytes"]
    assert any(row["op"] == "quantized_matmul" for row in few["by_op"])


def test_an_exported_file_holds_the_few_bits(tmp_path: Path) -> None:
    import onnxruntime as ort

    row = tundish.export("gpt2-tiny", tmp_path / "m.onnx", weights="int8", **SIZES)
    bundle = tundish.compile("gpt2-tiny", tmp_path / "b", weights="int8", **SIZES)
    given = {"input_ids": np.arange(1, 15).reshape(2, 7), "attention_mask": np.ones((2, 7), np.int64)}
    got = ort.InferenceSession(row["file"]).run(["logits"], given)[0]
    np.testing.assert_array_equal(got, bundle.run(given)["logits"])
    with pytest.raises(CompileError, match="no kernels for int8 weights"):
        tundish.export("gpt2-tiny", tmp_path / "p.onnx", weights="int8", portable=True, **SIZES)


def test_a_step_reads_the_weights_of_the_whole_model(tmp_path: Path) -> None:
    """Two entries, one table: the step adds nothing to the file."""
    from tundish.backends.generation.session import Session

    both = tundish.compile("llama-tiny", tmp_path / "b", weights="int4", batch="1..2", seq="1..32")
    alone = tundish.compile("llama-tiny", tmp_path / "a", weights="int4", **SIZES)
    assert set(both.entries) == {"forward", "step"}
    assert 0 <= int(str(held(both)["bytes"])) - int(str(held(alone)["bytes"])) < 1 << 14  # tables of positions
    session = Session(both, 1, 32)
    ids = np.arange(1, 8)
    want = both.run({"input_ids": ids[None], "attention_mask": np.ones((1, 7), np.int64)})["logits"][0, -1]
    got = session.read([ids.tolist()])[0]
    assert np.linalg.norm(got - want) < 0.05 * np.linalg.norm(want)
