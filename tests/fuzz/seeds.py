"""The tiny models that mutations start from, made once per run by the project itself and by the usual libraries."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import tundish

SMALL = {"batch": "1..2", "seq": "1..8"}
_BERT = {"num_hidden_layers": 1, "hidden_size": 8, "intermediate_size": 16, "vocab_size": 12,
         "max_position_embeddings": 16, "num_attention_heads": 2}  # fmt: skip
_GPT2 = {"n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 12, "n_positions": 16}


def make(folder: Path) -> None:
    """Fills `folder/TARGET/SEED/`, each seed a folder with whatever the target opens."""
    _folders(folder / "folder")
    _graphs(folder / "graph", folder / "folder")
    _bundles(folder / "bundle", folder / "graph")
    _texts(folder / "text", folder / "graph")
    _onnx(folder / "onnx", folder / "graph")
    _gguf(folder / "gguf" / "llama" / "model.gguf")


def _folders(at: Path) -> None:
    from safetensors.numpy import load_file, save_file

    from tundish.models.zoo import load_named

    for name, config in (("bert-tiny", _BERT), ("gpt2-tiny", _GPT2)):
        folder = at / name / "model"
        load_named(name, overrides=config).module.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        (folder / "tokenizer.json").write_text(json.dumps(_tokenizer()))
        (folder / "tokenizer_config.json").write_text('{"padding_side": "left"}')
    sharded = at / "sharded" / "model"
    shutil.copytree(at / "gpt2-tiny" / "model", sharded)
    tensors = load_file(sharded / "model.safetensors")
    (sharded / "model.safetensors").unlink()
    half = len(tensors) // 2
    parts = {"a.safetensors": list(tensors)[:half], "b.safetensors": list(tensors)[half:]}
    for file, names in parts.items():
        save_file({n: tensors[n] for n in names}, sharded / file, {"format": "pt"})
    index = {"metadata": {"total_size": 0}, "weight_map": {n: f for f, names in parts.items() for n in names}}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))


def _tokenizer() -> dict[str, Any]:
    vocabulary = {f"w{i}": i for i in range(12)}
    return {"version": "1.0", "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"}}


def _graphs(at: Path, folders: Path) -> None:
    for name in ("bert-tiny", "gpt2-tiny"):
        (at / name).mkdir(parents=True)
        tundish.capture(str(folders / name / "model"), output=at / name / "graph", **SMALL)


def _bundles(at: Path, graphs: Path) -> None:
    backends = (("bert-tiny", "onnxruntime"), ("gpt2-tiny", "onnxruntime"), ("bert-tiny", "reference"),
                ("bert-tiny", "tvm"), ("gpt2-tiny", "tvm"))  # fmt: skip
    for name, backend in backends:
        folder = at / f"{name}-{backend}"
        folder.mkdir(parents=True)
        model = graphs.parent / "folder" / name / "model"
        tundish.compile(str(model), folder / "b.tundish", backend=backend, **SMALL).close()


def _texts(at: Path, graphs: Path) -> None:
    for graph in graphs.iterdir():
        (at / graph.name).mkdir(parents=True)
        shutil.copy(graph / "graph" / "program.txt", at / graph.name / "program.txt")


def _onnx(at: Path, graphs: Path) -> None:
    for name in ("bert-tiny", "gpt2-tiny"):
        (at / name).mkdir(parents=True)
        tundish.export(str(graphs / name / "graph"), at / name / "model.onnx", portable=True, opset=17)
    for name, build in _MODELS.items():
        (at / name).mkdir()
        (at / name / "model.onnx").write_bytes(build(at / name).SerializeToString())


def _model(nodes: Any, outputs: tuple[str, ...], weights: dict[str, np.ndarray], functions: Any = ()) -> Any:
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(a, n) for n, a in weights.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=8)


def _layers(folder: Path) -> Any:
    from onnx import helper

    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "b"], ["h1"]), node("Relu", ["h1"], ["h2"]),
        node("Shape", ["h2"], ["s"]), node("Gather", ["s", "zero"], ["n"], axis=0),
        node("Concat", ["n", "rest"], ["to"], axis=0), node("Reshape", ["h2", "to"], ["h3"]),
        node("Transpose", ["h3"], ["h4"], perm=[0, 2, 1]), node("Softmax", ["h4"], ["h5"], axis=-1),
        node("ReduceMean", ["h5"], ["h6"], axes=[1], keepdims=1), node("Split", ["h6", "parts"], ["p", "q"], axis=2),
        node("Slice", ["h5", "zero", "two", "zero2"], ["r"]), node("Mine", ["p"], ["y"], domain="mine"),
    ]  # fmt: skip
    function = helper.make_function(
        "mine", "Mine", ["a"], ["b"], [helper.make_node("Mul", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    numbers = {"zero": [0], "two": [2], "zero2": [1], "rest": [2, 4], "parts": [1, 1]}
    weights = {"w": np.ones((4, 8), np.float32), "b": np.zeros(8, np.float32)}
    return _model(nodes, ("y", "q", "r"), weights | {k: np.array(v) for k, v in numbers.items()}, [function])


def _branches(folder: Path) -> Any:
    from onnx import TensorProto, helper

    node, info = helper.make_node, helper.make_tensor_value_info
    then = helper.make_graph([node("Neg", ["x"], ["t"])], "then", [], [info("t", TensorProto.FLOAT, None)])
    other = helper.make_graph([node("Abs", ["x"], ["e"])], "else", [], [info("e", TensorProto.FLOAT, None)])
    body = helper.make_graph(
        [node("Add", ["v", "x"], ["w1"]), node("Identity", ["c"], ["c1"])], "body",
        [info("i", TensorProto.INT64, []), info("c", TensorProto.BOOL, []), info("v", TensorProto.FLOAT, None)],
        [info("c1", TensorProto.BOOL, []), info("w1", TensorProto.FLOAT, None)],
    )  # fmt: skip
    nodes = [node("If", ["yes"], ["y"], then_branch=then, else_branch=other),
             node("Loop", ["three", "yes", "x"], ["z"], body=body)]  # fmt: skip
    return _model(nodes, ("y", "z"), {"yes": np.array(True), "three": np.array(3)})


def _external(folder: Path) -> Any:
    from onnx import TensorProto, helper

    model = _model([helper.make_node("MatMul", ["x", "w"], ["y"])], ("y",), {"w": np.ones((4, 4), np.float32)})
    weight = model.graph.initializer[0]
    (folder / "w.bin").write_bytes(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "w.bin"), ("offset", "0"), ("length", "64")):
        weight.external_data.add(key=key, value=value)
    return model


_MODELS: dict[str, Callable[[Path], Any]] = {"layers": _layers, "branches": _branches, "external": _external}


def _gguf(path: Path) -> None:
    """A Llama of one layer: F32 norms, a Q8_0 table, Q4_0 matrices, a tokenizer."""
    import gguf

    path.parent.mkdir(parents=True)
    rng = np.random.default_rng(0)
    to = gguf.GGUFWriter(path, "llama")
    numbers = {"block_count": 1, "context_length": 16, "embedding_length": 32, "feed_forward_length": 32,
               "attention.head_count": 2, "attention.head_count_kv": 2, "vocab_size": 12,
               "rope.dimension_count": 16}  # fmt: skip
    for key, value in numbers.items():
        to.add_uint32(f"llama.{key}", value)
    to.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    to.add_string("tokenizer.ggml.model", "gpt2")
    to.add_array("tokenizer.ggml.tokens", ["w", "1", *(f"w{i}" for i in range(1, 11))])
    to.add_array("tokenizer.ggml.token_type", [1] * 12)
    to.add_array("tokenizer.ggml.merges", ["w 1"])
    to.add_uint32("tokenizer.ggml.bos_token_id", 1)
    kinds = gguf.GGMLQuantizationType
    shapes = {"token_embd": ((12, 32), kinds.Q8_0), "output_norm": ((32,), None)}
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        shapes[f"blk.0.{name}"] = ((32, 32), kinds.Q4_0)
    shapes |= {f"blk.0.{name}": ((32,), None) for name in ("attn_norm", "ffn_norm")}
    for name, (shape, kind) in shapes.items():
        array = rng.standard_normal(shape).astype(np.float32)
        packed = array if kind is None else gguf.quants.quantize(array, kind)
        to.add_tensor(f"{name}.weight", packed, raw_dtype=kind)
    to.write_header_to_file()
    to.write_kv_data_to_file()
    to.write_tensors_to_file()
    to.close()
