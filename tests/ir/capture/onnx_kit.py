"""One-node ONNX models, imported and run in numpy beside ONNX Runtime or ONNX's own reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tundish.ir.capture.from_onnx import capture
from tundish.ir.capture.onnx_types import NUMBERS
from tundish.ir.dtypes import from_numpy
from tundish.ir.evaluate import evaluate
from tundish.ir.graph import Program
from tundish.ir.verify import verify

Arrays = Mapping[str, np.ndarray]


def model(
    op: str, inputs: Sequence[str], arrays: Arrays, outputs: Sequence[str] = ("y",), *, domain: str = "",
    opset: int = 21, held: Sequence[str] = (), **attrs: Any,
) -> onnx.ModelProto:  # fmt: skip
    """A model of one node. `held` inputs are initializers; "" leaves an input out."""
    node = helper.make_node(op, inputs, outputs, domain=domain, **attrs)
    return graph_model([node], arrays, [o for o in outputs if o], opset=opset, held=held)


def graph_model(
    nodes: Sequence[onnx.NodeProto], arrays: Arrays, outputs: Sequence[str], *, opset: int = 21,
    held: Sequence[str] = (),
) -> onnx.ModelProto:  # fmt: skip
    """A model of these nodes; the types of its outputs are left to inference."""
    infos = [helper.make_tensor_value_info(n, number(a), a.shape) for n, a in arrays.items() if n not in held]
    made = [onnx.ValueInfoProto(name=o) for o in outputs]
    weights = [helper.make_tensor(n, number(arrays[n]), arrays[n].shape, arrays[n].tobytes(), raw=True) for n in held]
    graph = helper.make_graph(list(nodes), "g", infos, made, weights)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def number(array: np.ndarray) -> int:
    return NUMBERS[from_numpy(array.dtype).name]


def imported(proto: onnx.ModelProto, **options: Any) -> Program:
    """The captured program, verified."""
    program = capture(proto, **options)
    verify(program)
    return program


def ours(proto: onnx.ModelProto, arrays: Arrays, **options: Any) -> list[np.ndarray]:
    """The outputs by import and numpy."""
    program = imported(proto, **options)
    names = {v.name for v in program.functions["forward"].inputs}
    return list(evaluate(program, {n: a for n, a in arrays.items() if n in names}).values())


def theirs(proto: onnx.ModelProto, arrays: Arrays) -> list[np.ndarray]:
    """The outputs by ONNX Runtime."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    taken = {i.name for i in session.get_inputs()}
    return session.run(None, {n: a for n, a in arrays.items() if n in taken})


def check(proto: onnx.ModelProto, arrays: Arrays, tolerance: float = 1e-5) -> None:
    """Both give the same."""
    found, wanted = ours(proto, arrays), theirs(proto, arrays)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype, (a.shape, b.shape, a.dtype, b.dtype)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def ops(program: Program) -> list[str]:
    """The names of the ops, in order."""
    return [n.op.name for n in program.functions["forward"].nodes]
