"""From an entry's graph to an ONNX model: emission, then protobuf with weights left to whoever writes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ir import dtypes
from ...ir.graph import Graph, Program
from ...ir.packing import is_packed, pack
from ...ir.tensor import TensorType
from ..version import version
from .emit import MS, ONNX_TYPES, Emit, Made, View
from .lower import DEFAULT_OPSET, table
from .walk import Walk

if TYPE_CHECKING:
    import onnx

PRODUCER = "tundish"


@dataclass(frozen=True, slots=True)
class Model:
    """An emitted entry.

    weights: name in the model -> name in the program's table, in order of use; a weight may have several.
    types:   of those names in the model. starts: of those that are a part of a weight, the byte where it begins.
    opened:  input -> axis -> name of a size that the file leaves open, though here it is one number.
    """

    graph: Graph
    name: str
    opset: int
    nodes: tuple[Made, ...]
    initializers: Mapping[str, np.ndarray]
    weights: Mapping[str, str]
    types: Mapping[str, TensorType]
    starts: Mapping[str, int] = field(default_factory=dict)
    opened: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


def emit(
    program: Program, function: str, *, opset: int = DEFAULT_OPSET, portable: bool = False,
    kernels: Mapping[tuple[str, str], str] | None = None,
) -> Model:  # fmt: skip
    """The entry as ONNX nodes; `kernels` as `choose` decided.

    Raises: BuildError on an op that cannot be lowered, with the user's line.
    """
    graph = program.functions[function]
    to = Emit(opset, portable, program.symbols)
    for name in (*(v.name for v in graph.inputs), *graph.output_names):
        to.take(name)
    to.sizes.learn(graph.inputs)
    made = Walk(program, to, table(opset, portable), kernels).graph(graph, [v.name for v in graph.inputs])
    nodes = _alive(_name_outputs(to, made, graph), graph.output_names)
    used = {name for node in nodes for name in node.inputs}
    seen = {name: View(key, program.weights[key].type) for key, name in to.weights.items()} | to.views
    weights = {name: view.key for name, view in seen.items() if name in used}
    initializers = {name: a for name, a in to.initializers.items() if name in used}
    types = {name: seen[name].type for name in weights}
    starts = {name: seen[name].start for name in weights if seen[name].start}
    return Model(graph, function, opset, tuple(nodes), initializers, weights, types, starts)


def _name_outputs(to: Emit, made: Iterable[str], graph: Graph) -> list[Made]:
    """The nodes, with the graph's results under the entry's output names."""
    fixed = {v.name for v in graph.inputs} | set(to.initializers) | set(to.weights.values())
    renamed: dict[str, str] = {}
    made_by = {name: node.keys for node in to.nodes for name in node.outputs}
    for name, wanted in zip(made, graph.output_names, strict=True):
        if name in fixed or name in renamed:
            keys = made_by.get(name, to.keys)
            to.nodes.append(Made("Identity", "", (name,), (wanted,), (), f"Identity#{wanted}", to.where, keys))
        else:
            renamed[name] = wanted

    def now(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(renamed.get(n, n) for n in names)

    return [replace(n, inputs=now(n.inputs), outputs=now(n.outputs)) for n in to.nodes]


def _alive(nodes: list[Made], outputs: Iterable[str]) -> list[Made]:
    """The nodes that the outputs need; optional results that nobody reads are left out."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.isdisjoint(node.outputs):
            continue
        wanted.update(node.inputs)
        results = tuple(n if n in wanted else "" for n in node.outputs)
        if node.domain == MS:
            while not results[-1]:
                results = results[:-1]
        else:  # every result of the standard operators used here must be named
            results = node.outputs
        kept.append(replace(node, outputs=results))
    return kept[::-1]


# -- protobuf ----------------------------------------------------------------------------------------


def proto(model: Model, weights: Iterable[onnx.TensorProto] = ()) -> onnx.ModelProto:
    """The model as protobuf; `weights` are the initializers to put in beside the small constants."""
    import onnx
    from onnx import helper

    used = {n.domain for n in model.nodes}
    opsets = [helper.make_opsetid("", model.opset)]
    opsets += [helper.make_opsetid(domain, 1) for domain in sorted(used - {""})]
    ir_version = helper.find_min_ir_version_for(opsets, ignore_unknown=True)
    graph = model.graph
    outputs = zip(graph.output_names, graph.outputs, strict=True)
    body = onnx.GraphProto(
        name=model.name,
        node=[_node(n, places=ir_version >= 10) for n in model.nodes],
        input=[_value_info(v.name, v.type, model.opened.get(v.name, {})) for v in graph.inputs],
        output=[_value_info(name, v.type) for name, v in outputs],
        initializer=[*(_inline(name, a) for name, a in model.initializers.items()), *weights],
    )
    return onnx.ModelProto(
        ir_version=ir_version, producer_name=PRODUCER, producer_version=version(), graph=body,
        opset_import=opsets,
    )  # fmt: skip


def external(
    model: Model, spans: Mapping[str, tuple[str, int, int]], read: Callable[[str], np.ndarray]
) -> list[onnx.TensorProto]:
    """Initializers whose bytes lie in a file: table name -> (file, offset, length in bytes).

    read: gives a weight's numbers. A few whole ones, such as an index, are put in as they are, and so is nothing at
    all: ONNX Runtime reads them when it opens a model, and cannot do so in a file.
    """
    import onnx

    tensors = []
    for name, key in model.weights.items():
        if 0 in model.types[name].shape or _may_be_read(model.types[name]):
            tensors.append(_inline(name, read(key)))
            continue
        tensor = tensor_header(name, model.types[name])
        tensor.data_location = onnx.TensorProto.EXTERNAL
        file, offset, _ = spans[key]
        offset, length = offset + model.starts.get(name, 0), int(str(model.types[name].bytes))
        for k, v in (("location", file), ("offset", str(offset)), ("length", str(length))):
            tensor.external_data.add(key=k, value=v)
        tensors.append(tensor)
    return tensors


def _may_be_read(type: TensorType) -> bool:
    return type.dtype.is_int and type.dtype.bits >= 32 and isinstance(type.elements, int) and type.elements <= 64


def tensor_header(name: str, type: TensorType) -> onnx.TensorProto:
    """An initializer without its bytes."""
    import onnx

    return onnx.TensorProto(name=name, data_type=ONNX_TYPES[type.dtype.name], dims=[int(str(d)) for d in type.shape])


def _inline(name: str, array: np.ndarray) -> onnx.TensorProto:
    type = TensorType(dtypes.from_numpy(array.dtype), array.shape)
    tensor = tensor_header(name, type)
    tensor.raw_data = (pack(array) if is_packed(type) else array).tobytes()
    return tensor


def _value_info(name: str, type: TensorType, opened: Mapping[int, str] = MappingProxyType({})) -> onnx.ValueInfoProto:
    from onnx import helper

    shape = [opened.get(i, d if isinstance(d, int) else str(d)) for i, d in enumerate(type.shape)]
    return helper.make_tensor_value_info(name, ONNX_TYPES[type.dtype.name], shape)


def _node(made: Made, places: bool) -> onnx.NodeProto:
    import onnx

    node = onnx.NodeProto(
        op_type=made.op_type, domain=made.domain, name=made.name, input=made.inputs, output=made.outputs
    )
    for key, value in made.attrs:
        node.attribute.append(_attribute(key, value))
    if places and made.where.line:
        node.metadata_props.add(key="source", value=f"{made.where.file}:{made.where.line}")
    return node


def _attribute(key: str, value: Any) -> onnx.AttributeProto:
    import onnx

    kinds = onnx.AttributeProto
    if isinstance(value, float):
        return kinds(name=key, type=kinds.FLOAT, f=value)
    if isinstance(value, int):
        return kinds(name=key, type=kinds.INT, i=value)
    if isinstance(value, str):
        return kinds(name=key, type=kinds.STRING, s=value.encode())
    return kinds(name=key, type=kinds.INTS, ints=value)
