"""ONNX files as they are opened: described, answered by ONNX Runtime, and never reading outside their folder."""

from __future__ import annotations

import keyword
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tundish.models.errors import ModelError
from tundish.models.onnx_file import load
from tundish.models.onnx_source import onnx_source

TABLE = np.arange(44, dtype=np.float32).reshape(11, 4)


def model(*initializers: onnx.TensorProto, batch: Any = "batch_size") -> onnx.ModelProto:
    """embeds ids and adds a bias, for every token whose mask is 1."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["x"]),
        helper.make_node("Cast", ["attention_mask"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["m", "last"], ["m3"]),
        helper.make_node("Mul", ["x", "m3"], ["y"]),
    ]
    shape = [batch, "sequence_length"]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(n, TensorProto.INT64, shape) for n in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [*initializers, numpy_helper.from_array(np.array([2]), "last")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def saved(folder: Path, *initializers: onnx.TensorProto, **options: Any) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model(*initializers, **options).SerializeToString())
    return path


def plain() -> onnx.TensorProto:
    return numpy_helper.from_array(TABLE, "table")


def external(**entries: Any) -> onnx.TensorProto:
    tensor = TensorProto(name="table", data_type=TensorProto.FLOAT, dims=TABLE.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def test_it_is_described_and_answers(tmp_path: Path) -> None:
    source = onnx_source(saved(tmp_path, plain()))
    ids, mask = source.inputs
    assert (ids.role, ids.high, ids.dims) == ("ids", 10, ("batch", "seq"))
    assert (mask.role, mask.dims) == ("mask", ("batch", "seq"))
    assert source.form == "onnx" and source.origin.startswith("onnxruntime")
    got = source.call({"input_ids": np.array([[1, 10]]), "attention_mask": np.array([[1, 0]])})
    np.testing.assert_array_equal(got["y"], [[TABLE[1], np.zeros(4)]])


def test_sizes_that_share_a_name_are_one(tmp_path: Path) -> None:
    source = onnx_source(saved(tmp_path, plain(), batch=""))
    assert [s.dims for s in source.inputs] == [("batch", "seq"), ("batch", "seq")]


def test_external_data_is_mapped(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"\0" * 16 + TABLE.tobytes())
    proto, arrays = load(saved(tmp_path, external(location="w.bin", offset=16, length=TABLE.nbytes)))
    array = arrays(proto.graph.initializer[0])
    np.testing.assert_array_equal(array, TABLE)
    assert not array.flags.owndata and not array.flags.writeable


@pytest.mark.parametrize(
    ("entries", "line"),
    [
        ({"location": "../w.bin"}, "outside the model's folder"),
        ({"location": "sub/../../w.bin"}, "outside the model's folder"),
        ({"location": "/etc/passwd"}, "outside the model's folder"),
        ({"location": "C:\\w.bin"}, "outside the model's folder"),
        ({"location": ""}, "outside the model's folder"),
        ({}, "outside the model's folder"),
        ({"location": "."}, "outside the model's folder"),
        ({"location": "absent.bin"}, "lacks its file of weights"),
        ({"location": "a" * 70_000}, "lacks its file of weights a{200}$"),
        ({"location": "w.bin", "offset": -1}, "is broken"),
        ({"location": "w.bin", "offset": 1}, "is broken"),
        ({"location": "w.bin", "offset": 2**62}, "is broken"),
        ({"location": "w.bin", "length": 2**62}, "is broken"),
        ({"location": "w.bin", "length": -176}, "is broken"),
        ({"location": "w.bin", "length": 8}, "is broken"),
        ({"location": "w.bin", "offset": "x"}, "is broken"),
    ],
)
def test_external_data_elsewhere_is_refused(tmp_path: Path, entries: dict[str, Any], line: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(TABLE.tobytes())
    (folder / "w.bin").write_bytes(TABLE.tobytes())
    with pytest.raises(ModelError, match=line) as error:
        load(saved(folder, external(**entries)))
    assert "'table'" in str(error.value) or "weights" in str(error.value)


@pytest.mark.parametrize("through", ["file", "folder"])
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, through: str) -> None:
    folder, outside = tmp_path / "model", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "w.bin").write_bytes(TABLE.tobytes())
    if through == "file":
        (folder / "w.bin").symlink_to(outside / "w.bin")
    else:
        (folder / "sub").symlink_to(outside)
    location = "w.bin" if through == "file" else "sub/w.bin"
    with pytest.raises(ModelError, match="outside the model's folder"):
        load(saved(folder, external(location=location)))


def test_a_link_within_the_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.bin").write_bytes(TABLE.tobytes())
    (tmp_path / "w.bin").symlink_to("real.bin")
    proto, arrays = load(saved(tmp_path, external(location="w.bin")))
    np.testing.assert_array_equal(arrays(proto.graph.initializer[0]), TABLE)


def test_data_hidden_in_a_branch_is_checked_too(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=external(location="/etc/passwd"))], "then", [],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, None)],
    )  # fmt: skip
    whole = model(plain())
    whole.graph.node.append(helper.make_node("If", ["cond"], ["z"], then_branch=inner, else_branch=inner))
    (tmp_path / "model.onnx").write_bytes(whole.SerializeToString())
    with pytest.raises(ModelError, match="outside the model's folder"):
        load(tmp_path / "model.onnx")


def broken(edit: Callable[[onnx.TensorProto], Any]) -> onnx.TensorProto:
    tensor = plain()
    edit(tensor)
    return tensor


@pytest.mark.parametrize(
    "edit",
    [
        lambda t: t.dims.append(2),
        lambda t: t.dims.__setitem__(0, -11),
        lambda t: t.dims.__setitem__(0, 2**60),
        lambda t: setattr(t, "data_type", TensorProto.DOUBLE),
        lambda t: setattr(t, "data_type", 99),
        lambda t: setattr(t, "raw_data", b""),
        lambda t: (setattr(t, "raw_data", b""), t.float_data.extend([1.0] * 3)),
    ],
)
def test_a_tensor_that_does_not_fit_its_shape_is_refused(tmp_path: Path, edit: Callable[..., Any]) -> None:
    with pytest.raises(ModelError, match="the weight 'table' of model.onnx is broken"):
        load(saved(tmp_path, broken(edit)))


@pytest.mark.parametrize("content", [b"", b"hello, this is text\n", b"\x08\x08" * 3, os.urandom(0) + b"\xff" * 50])
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(ModelError, match="not an ONNX file, or a broken one"):
        load(tmp_path / "a.onnx")


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, plain())
    content = path.read_bytes()
    assert content.count(b"Gather") == 1
    path.write_bytes(content.replace(b"Gather", b"Gath\xff\xfe"))
    with pytest.raises(ModelError, match="not an ONNX file, or a broken one"):
        load(path)


@pytest.mark.parametrize("version", [0, -1, 2**31, 2**62])
@pytest.mark.parametrize("of", ["file", "opset", "function"])
def test_versions_that_there_cannot_be_are_refused(tmp_path: Path, version: int, of: str) -> None:
    path = saved(tmp_path, plain())
    proto = onnx.load_model(path)
    if of == "file":
        proto.ir_version = version
    elif of == "opset":
        proto.opset_import[0].version = version
    else:
        proto.functions.append(helper.make_function("own", "f", [], [], [], [helper.make_opsetid("", version)]))
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="not an ONNX file, or a broken one"):
        load(path)


@pytest.mark.parametrize("name", ["é", "None", "class", "1st", "a-b", "  "])
def test_any_name_of_a_size_becomes_one_of_ours(tmp_path: Path, name: str) -> None:
    dims = onnx_source(saved(tmp_path, plain(), batch=name)).inputs[0].dims
    assert str(dims[0]).isidentifier() and not keyword.iskeyword(str(dims[0]))


def test_a_file_on_which_onnx_runtimes_own_rewrites_crash_is_answered(tmp_path: Path) -> None:
    """A norm after a sum whose bias is left out by an empty name: ONNX Runtime 1.32 dies of fusing the two."""
    nodes = [helper.make_node("Add", ["x", "x"], ["s"]), helper.make_node("LayerNormalization", ["s", "w", ""], ["y"])]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 3, 4]) for n in "xy"]
    weight = numpy_helper.from_array(np.ones(4, np.float32), "w")
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weight])
    path = tmp_path / "m.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    (y,) = onnx_source(path).call({"x": x}).values()
    wanted = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5 / 4)
    np.testing.assert_allclose(y, wanted, atol=1e-5)
