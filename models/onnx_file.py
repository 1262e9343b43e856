"""Reading an ONNX file: nothing outside its folder or past the end of a file, tensors as large as they say."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ModelError

_NEWEST = 10_000  # of any version of an operator set; today's are below 30
LARGEST_BYTES = 2**31 - 1  # protobuf's own limit; more weights lie in external data
Arrays = Callable[[Any], np.ndarray]


def load(path: Path, within: Path | None = None) -> tuple[Any, Arrays]:
    """(ModelProto, the function that reads a TensorProto of it), after checking every tensor. No weight is copied.

    within: the folder that external data must really lie in; by default the model's own.
    Raises: ModelError.
    """
    model = _parsed(path)
    root = Path(os.path.realpath(within or path.parent))
    reader = _Reader(Path(os.path.realpath(path.parent)) if within is None else path.parent, root, path.name)
    _check_texts(model, path)
    for tensor in tensors(model):
        reader.check(tensor)
    return model, reader.array


def _parsed(path: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        size = path.stat().st_size
        if size > LARGEST_BYTES:
            raise ModelError(f"{path} is larger than an ONNX file can be", found=f"{size} bytes",
                             hint="weights over 2 GB belong into external data")  # fmt: skip
        model = onnx.ModelProto()
        model.ParseFromString(path.read_bytes())
    except OSError as error:
        raise ModelError(f"cannot open {path}: {error.strerror}") from error
    except (DecodeError, RecursionError, ValueError) as error:
        raise ModelError(f"{path} is not an ONNX file, or a broken one", found=str(error)[:120]) from error
    if not model.ir_version or not model.graph.output or not model.opset_import:
        raise ModelError(f"{path} is not an ONNX file, or a broken one", found="it has no version, or no outputs")
    versions = [model.ir_version, *(o.version for o in (*model.opset_import, *_opsets(model.functions)))]
    if not all(0 < v <= _NEWEST for v in versions):
        raise ModelError(f"{path} is not an ONNX file, or a broken one", found=f"the versions {versions[:8]}")
    return model


def _opsets(functions: Any) -> Iterator[Any]:
    return (o for f in functions for o in f.opset_import)


def tensors(model: Any) -> Iterator[Any]:
    """Every TensorProto of a model: of its graph, of graphs within nodes, of functions."""
    todo: list[Any] = [model.graph, *model.functions]
    while todo:
        graph = todo.pop()
        yield from getattr(graph, "initializer", ())
        for sparse in getattr(graph, "sparse_initializer", ()):
            raise ModelError(f"the weight {sparse.values.name!r} is sparse, which is not read")
        for attribute in (a for node in graph.node for a in node.attribute):
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            todo += [attribute.g] if attribute.HasField("g") else []
            todo += attribute.graphs


def _check_texts(model: Any, path: Path) -> None:
    """Raises: ModelError for a name that is no text: protobuf hands those out as bytes."""
    todo: list[Any] = [model]
    while todo:
        message = todo.pop()
        for field, value in message.ListFields():
            if field.type == field.TYPE_STRING and any(isinstance(v, bytes) for v in _all(value)):
                raise ModelError(f"{path} is not an ONNX file, or a broken one", found=f"{field.name} is no text")
            if field.type == field.TYPE_MESSAGE:
                todo += _all(value)


def _all(value: Any) -> list[Any]:
    """The members of a repeated field, or the one value of another."""
    return [value] if isinstance(value, (str, bytes)) or hasattr(value, "ListFields") else list(value)


class _Reader:
    """Reads tensors of one file. `folder` is what locations are relative to, `root` where they must really lie."""

    def __init__(self, folder: Path, root: Path, name: str) -> None:
        self.folder, self.root, self.name = folder, root, name
        self._files: dict[str, np.ndarray] = {}

    def check(self, tensor: Any) -> None:
        """Raises: ModelError where a tensor's bytes are not all there, or lie where they must not."""
        from onnx import TensorProto

        if tensor.data_type == TensorProto.STRING:
            return  # read by no op of ours
        wanted = self._bytes(tensor)
        if tensor.data_location == TensorProto.EXTERNAL:
            self._external(tensor, wanted)
        elif tensor.raw_data or not _typed(tensor):
            if len(tensor.raw_data) != wanted:
                raise self._broken(tensor, f"{len(tensor.raw_data)} bytes where its shape needs {wanted}")
        elif _typed(tensor) != _fields(tensor):
            raise self._broken(tensor, f"{_typed(tensor)} numbers where its shape needs {_fields(tensor)}")

    def array(self, tensor: Any) -> np.ndarray:
        """The elements; a view of the file's memory map for external data. Raises: ModelError."""
        from onnx import TensorProto, helper, numpy_helper

        if tensor.data_location != TensorProto.EXTERNAL:
            try:
                return np.asarray(numpy_helper.to_array(tensor))
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                raise self._broken(tensor, str(error)[:120]) from error
        data = self._external(tensor, self._bytes(tensor))
        kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if _bits(tensor) >= 8:
            return data.view(kind).reshape(tuple(tensor.dims))
        whole = TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=data.tobytes())
        return np.asarray(numpy_helper.to_array(whole))

    def _bytes(self, tensor: Any) -> int:
        bits = _bits(tensor)
        if bits == 0:
            raise self._broken(tensor, f"element type {tensor.data_type}, which ONNX does not have")
        if any(d < 0 for d in tensor.dims):
            raise self._broken(tensor, f"the shape {list(tensor.dims)}")
        return (prod(tensor.dims) * bits + 7) // 8

    def _external(self, tensor: Any, wanted: int) -> np.ndarray:
        entries = {e.key: e.value for e in tensor.external_data}
        data = self._opened(tensor, entries.get("location", ""))
        try:
            offset, length = int(entries.get("offset") or 0), int(entries.get("length") or wanted)
        except ValueError as error:
            raise self._broken(tensor, f"an offset or length that is no number: {error}") from error
        if offset < 0 or length != wanted or offset + length > len(data):
            raise self._broken(
                tensor, f"bytes {offset}..{offset + length} of {entries.get('location')}, which has {len(data)}; "
                f"its shape needs {wanted}",
            )  # fmt: skip
        return data[offset : offset + length]

    def _opened(self, tensor: Any, location: str) -> np.ndarray:
        if location in self._files:
            return self._files[location]
        parts = Path(location).parts
        if not parts or os.path.isabs(location) or ".." in parts or "\\" in location or "\0" in location:
            raise self._outside(tensor, location)
        real = Path(os.path.realpath(self.folder / location))
        if not real.is_relative_to(self.root):
            raise self._outside(tensor, location)
        if not os.path.isfile(real):  # also False for a name too long to be one
            raise ModelError(f"{self.name} lacks its file of weights {location[:200]}", hint="keep both in one folder")
        empty = real.stat().st_size == 0
        self._files[location] = np.zeros(0, np.uint8) if empty else np.memmap(real, np.uint8, "r").view(np.ndarray)
        return self._files[location]

    def _outside(self, tensor: Any, location: str) -> ModelError:
        return ModelError(
            f"the weight {tensor.name!r} of {self.name} lies outside the model's folder", found=location or "no file",
            hint="such a file could read anything of this machine; put the data beside the model",
        )  # fmt: skip

    def _broken(self, tensor: Any, found: str) -> ModelError:
        return ModelError(f"the weight {tensor.name!r} of {self.name} is broken", found=found)


def _bits(tensor: Any) -> int:
    """Storage bits of one element; 0 for a type that ONNX does not have."""
    return _BITS.get(tensor.data_type, 0)


def _typed(tensor: Any) -> int:
    """How many numbers stand in the fields by type."""
    fields = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
    return sum(len(getattr(tensor, f)) for f in fields)


def _fields(tensor: Any) -> int:
    """How many numbers the shape needs in them: complex ones take two, those under 8 bits share one."""
    count = prod(tensor.dims)
    if tensor.data_type in (14, 15):
        return 2 * count
    bits = _bits(tensor)
    return -(-count * bits // 8) if bits < 8 else count


# Source: onnx.proto, TensorProto.DataType.
_BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip
