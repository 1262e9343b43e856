"""Small ONNX models, captured with sizes that vary and held against onnx's own evaluator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tundish.ir.capture.from_onnx import capture
from tundish.ir.dims import Range
from tundish.ir.evaluate import evaluate
from tundish.ir.graph import Program
from tundish.ir.verify import verify

Node = tuple[Any, ...]  # op, inputs, outputs, attributes
OPSET = 21
RANGES = {n: Range(1, 64) for n in "bstn"}


def model(
    nodes: Sequence[Node], inputs: Mapping[str, str], constants: Mapping[str, Any] | None = None, *,
    outputs: Sequence[str] = ("y",), opset: int = OPSET,
) -> onnx.ModelProto:  # fmt: skip
    """inputs: name -> `f32[b, s, 4]`, letters being sizes that vary; constants: name -> an array."""
    made = [helper.make_node(op, given.split(), made.split(), **(more[0] if more else {}))
            for op, given, made, *more in nodes]  # fmt: skip
    taken = [helper.make_tensor_value_info(n, *_typed(text)) for n, text in inputs.items()]
    held = [numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()]
    given_back = [onnx.ValueInfoProto(name=n) for n in outputs]
    graph = helper.make_graph(made, "small", taken, given_back, held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


_TYPES = {"f32": TensorProto.FLOAT, "i64": TensorProto.INT64, "bool": TensorProto.BOOL, "i32": TensorProto.INT32}


def _typed(text: str) -> tuple[int, list[Any]]:
    name, _, inside = text.rstrip("]").partition("[")
    return _TYPES[name], [int(d) if d.strip().isdigit() else d.strip() for d in inside.split(",") if d.strip()]


def captured(made: onnx.ModelProto, **options: Any) -> Program:
    """With a size for every axis that has a name in the file."""
    axes = {
        v.name: {i: d.dim_param for i, d in enumerate(v.type.tensor_type.shape.dim) if d.dim_param}
        for v in made.graph.input
    }
    return verify(capture(made, axes, ranges=RANGES, **options))


def same(made: onnx.ModelProto, arrays: Sequence[Mapping[str, np.ndarray]], **options: Any) -> Program:
    """The captured program answers as onnx's evaluator, on all of these inputs."""
    program, oracle = captured(made, **options), ReferenceEvaluator(made)
    for given in arrays:
        got = evaluate(program, given)
        wanted = oracle.run(None, dict(given))
        for (name, have), want in zip(got.items(), wanted, strict=True):
            assert have.dtype == want.dtype and have.shape == want.shape, (name, have.shape, want.shape)
            np.testing.assert_allclose(have, want, rtol=2e-6, atol=1e-6, err_msg=name)
    return program


def drawn(made: onnx.ModelProto, sizes: Mapping[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs at these sizes; whole numbers lie in -2..1."""
    rng = np.random.default_rng(seed)
    found = {}
    for v in made.graph.input:
        kind = helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type)
        shape = [sizes[d.dim_param] if d.dim_param else d.dim_value for d in v.type.tensor_type.shape.dim]
        whole = kind.kind in "iu"
        found[v.name] = np.asarray(rng.integers(-2, 2, shape) if whole else rng.normal(size=shape) * 2).astype(kind)
        if kind == np.bool_:
            found[v.name] = np.asarray(rng.random(shape) < 0.5)
    return found
