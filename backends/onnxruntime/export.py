"""One ONNX file for others: weights inside below 2 GB, else in one file beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ...compiler.plan import Plan
from ...ir.diagnostics import BuildError
from ...ir.packing import is_packed, pack
from ...ir.weight_file import replacing, write_whole, writing
from ...ir.weights import materialize
from .lower import DEFAULT_OPSET, NEWEST_OPSET, OLDEST_OPSET
from .model import Model, emit, external, proto, tensor_header
from .wire import tag, varint

if TYPE_CHECKING:
    import onnx

PROTOBUF_LIMIT_BYTES = 2**31 - 1
_PAGE = 4096
# Fields of onnx.proto: ModelProto.graph, GraphProto.initializer, TensorProto.raw_data.
_GRAPH, _INITIALIZER, _RAW_DATA = tag(7), tag(5), tag(9)


def export_onnx(
    plan: Plan, out: Path, *, entry: str | None = None, portable: bool = False, opset: int | None = None,
    limit_bytes: int = PROTOBUF_LIMIT_BYTES, data_suffix: str = ".data",
    opened: Mapping[str, Mapping[int, str]] = MappingProxyType({}),
) -> dict[str, Any]:  # fmt: skip
    """Writes one entry as an ONNX file; a row that describes it.

    portable: standard operators only. opset: 17 and later.
    limit_bytes: from which size on the weights go to a file beside it, whose name ends with `data_suffix`.
    opened: input -> axis -> name, of sizes that the file does not say.
    Raises: BuildError on an opset that is not supported, an op that cannot be lowered, or a disk that is full.
    """
    opset = DEFAULT_OPSET if opset is None else opset
    check_asked(out, opset)
    variants = plan.entries[entry or next(iter(plan.entries))]
    model = replace(emit(plan.program, variants[-1].function, opset=opset, portable=portable), opened=opened)
    total = sum(int(str(t.bytes)) for t in model.types.values())
    with writing(out.name):
        out.parent.mkdir(parents=True, exist_ok=True)
        if total + (1 << 24) < limit_bytes:
            with replacing(out) as file:
                _write_inline(model, plan, file)
            return _row(model, portable, [out])
        data = out.with_name(out.name + data_suffix)
        with replacing(data) as file:
            spans = _write_data(model, plan, file, data.name)
        tensors = external(model, spans, lambda key: materialize(plan.program.weights[key]))
        write_whole(out, proto(model, tensors).SerializeToString(deterministic=True))
        return _row(model, portable, [out, data])


def check_asked(out: Path, opset: int | None) -> None:
    """Cheap, so that it can be asked before work starts. Raises: BuildError on what cannot be written."""
    if opset is not None and not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise BuildError(f"opset {opset} is not supported", hint=f"take one of {OLDEST_OPSET} to {NEWEST_OPSET}")
    if out.is_dir():
        raise BuildError(f"{out} is a folder", hint="name the .onnx file to write")


def _row(model: Model, portable: bool, files: list[Path]) -> dict[str, Any]:
    return {
        "file": str(files[0]), "external_data": str(files[1]) if len(files) > 1 else None,
        "bytes": sum(f.stat().st_size for f in files), "opset": model.opset, "portable": portable,
        "nodes": len(model.nodes), "inputs": [v.name for v in model.graph.inputs],
        "outputs": list(model.graph.output_names),
    }  # fmt: skip


def _bytes(plan: Plan, key: str) -> np.ndarray:
    """A weight as it lies in a file."""
    weight = plan.program.weights[key]
    array = np.asarray(materialize(weight), order="C")
    return pack(array) if is_packed(weight.type) else array.reshape(-1).view(np.uint8)


def _write_data(model: Model, plan: Plan, file: IO[bytes], name: str) -> Mapping[str, tuple[str, int, int]]:
    spans = {}
    for key in dict.fromkeys(model.weights.values()):  # a weight of several names is written once
        data = _bytes(plan, key)
        file.write(b"\0" * (-file.tell() % _PAGE))
        spans[key] = (name, file.tell(), data.nbytes)
        file.write(data.data)
    return spans


def _arrays(model: Model, plan: Plan) -> Iterator[tuple[str, np.ndarray]]:
    """The bytes of each name in turn, so that one weight is in memory at a time; parts of one follow one another."""
    last, data = "", np.zeros(0, np.uint8)
    for name, key in model.weights.items():
        if key != last:
            last, data = key, _bytes(plan, key)
        start = model.starts.get(name, 0)
        yield name, data[start : start + int(str(model.types[name].bytes))]


def _write_inline(model: Model, plan: Plan, file: IO[bytes]) -> None:
    """The protobuf by hand around the weights' bytes, which would otherwise stand in memory twice."""
    whole = proto(model)
    graph = whole.graph.SerializeToString(deterministic=True)
    whole.ClearField("graph")
    heads = {name: _head(model, name) for name in model.weights}
    sizes = {name: int(str(t.bytes)) for name, t in model.types.items()}
    length = len(graph) + sum(
        len(_INITIALIZER) + len(varint(len(head) + sizes[name])) + len(head) + sizes[name]
        for name, head in heads.items()
    )
    file.write(whole.SerializeToString(deterministic=True) + _GRAPH + varint(length) + graph)
    for name, data in _arrays(model, plan):
        file.write(_INITIALIZER + varint(len(heads[name]) + sizes[name]) + heads[name])
        file.write(data.data)


def _head(model: Model, name: str) -> bytes:
    """A TensorProto up to the bytes of its raw_data."""
    header: onnx.TensorProto = tensor_header(name, model.types[name])
    text: bytes = header.SerializeToString(deterministic=True)
    return text + _RAW_DATA + varint(int(str(model.types[name].bytes)))
