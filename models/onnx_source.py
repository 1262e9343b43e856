"""An ONNX file as a Source: its inputs described, its original answers given by ONNX Runtime."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ModelError
from .onnx_file import load
from .source import DTYPES, Arrays, InputSpec, Source, warned

# What exporters call the two sizes that every text model has.
_SIZES = {
    "batch": ("batch", "batch_size", "batchsize", "bs", "b", "n"),
    "seq": ("seq", "sequence", "sequence_length", "seq_len", "seq_length", "seqlen", "max_seq_len", "s"),
}
_MADE_UP = re.compile(r"(s\d+|unk__\d+|dynamic_axes_\d+|\?|)")
# Ops through which an index reaches its table unchanged.
_UNCHANGED = frozenset(("Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Flatten"))


@dataclass(frozen=True, eq=False)
class OnnxSource(Source):
    """A model that is an ONNX file; it has no torch module.

    model:  the ModelProto. arrays: reads a TensorProto of it.
    """

    path: Path = Path()
    model: Any = None
    arrays: Callable[[Any], np.ndarray] | None = None

    @property
    def form(self) -> str:
        return "onnx"

    @property
    def origin(self) -> str:
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}"

    @property
    def on_meta(self) -> bool:
        return False

    @property
    def exact(self) -> None:
        """Nothing else computes the file in double precision."""
        return None

    def buffers(self) -> frozenset[str]:
        return frozenset()

    def call(self, inputs: Arrays) -> dict[str, np.ndarray]:
        """Runs the file once. Raises: ModelError on missing or unknown inputs."""
        names = [spec.name for spec in self.inputs]
        if set(inputs) != set(names):
            raise ModelError(f"{self.name} takes the inputs {', '.join(names)}", found=", ".join(inputs) or "none")
        found = self._session.run(list(self.outputs), {**inputs, **self.fixed})
        return {n: np.asarray(a) for n, a in zip(self.outputs, found, strict=True)}

    @cached_property
    def _session(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        # The file as it stands: rewrites round otherwise, and on odd files some of them bring the process down.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            return onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no base class
            first = str(error).strip().splitlines()[0][:200]
            raise ModelError(f"ONNX Runtime cannot open {self.path}, so it has no answers to verify by",
                             found=first) from error  # fmt: skip


def onnx_source(
    path: Path, *, dims: Mapping[str, Sequence[int | str]] | None = None,
    fixed: Mapping[str, Any] | None = None, within: Path | None = None, name: str = "",
) -> OnnxSource:  # fmt: skip
    """Describes an ONNX file. Sizes have the file's names, `batch` and `seq` where those are meant.

    dims: which sizes vary, by input, in place of what the file says. fixed: inputs whose values are settled now: an
    array, a list, a .npy file, or numbers (`1,2,3`).
    Raises: ModelError.
    """
    model, arrays = load(path, within)
    held = {t.name for t in model.graph.initializer}
    fixed = _settled(model.graph, fixed or {})
    given = [v for v in model.graph.input if v.name not in held and v.name not in fixed]
    _check_names(dims or {}, {v.name for v in given}, "dims")
    namer, tables = _Namer(), _tables(model.graph)
    specs = tuple(_spec(v, namer, tables, (dims or {}).get(v.name)) for v in given)
    ids = [s for s in specs if s.role == "ids"]
    weights, nan = _weights(model.graph, arrays)
    return OnnxSource(
        name=name or path.stem, kind="onnx", module=None, inputs=specs,  # type: ignore[arg-type]
        notes=(*namer.notes, *warned(name or path.stem, "NaN", nan)),
        outputs=tuple(o.name for o in model.graph.output), parameter_bytes=weights,
        vocab_size=ids[0].high + 1 if ids else None, path=path, model=model, arrays=arrays, fixed=fixed,
    )  # fmt: skip


def _weights(graph: Any, arrays: Callable[[Any], np.ndarray]) -> tuple[int, list[str]]:
    """(bytes of all weights, the names of those that hold a NaN)."""
    total, nan = 0, []
    for tensor in graph.initializer:
        if tensor.data_type == _STRING:
            continue
        array = arrays(tensor)
        total += array.nbytes
        if tensor.data_type in _FLOATS and np.isnan(np.sum(array)) and np.isnan(array).any():
            nan.append(tensor.name)
    return total, nan


def _check_names(given: Mapping[str, Any], known: set[str], what: str) -> None:
    odd = sorted(set(given) - known)
    if odd:
        raise ModelError(f"{what}: the model has no input {', '.join(odd)}", hint=f"inputs: {', '.join(sorted(known))}")


def _settled(graph: Any, fixed: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The fixed inputs as arrays of the file's element types. Raises: ModelError."""
    kinds = {v.name: v.type.tensor_type.elem_type for v in graph.input}
    _check_names(fixed, set(kinds), "fixed")
    found = {}
    for name, value in fixed.items():
        try:
            array = np.load(value, allow_pickle=False) if str(value).endswith(".npy") else _numbers(value)
            found[name] = np.asarray(array).astype(DTYPES[_DTYPES[kinds[name]]])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"the fixed input {name!r} cannot be read", found=str(error)[:120],
                             hint="give a .npy file, or numbers: --fix NAME=1,2,3") from error  # fmt: skip
    return found


def _numbers(value: Any) -> np.ndarray:
    """`1,2,3` as a vector, `7` as a scalar; arrays and lists as they are."""
    if not isinstance(value, str):
        return np.asarray(value)
    numbers = np.array([float(v) for v in value.split(",") if v.strip()])
    return numbers if "," in value else numbers.reshape(())


class _Namer:
    """Names of ours for a file's names of sizes."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}

    def __call__(self, theirs: str, at: str) -> str:
        """`at` names a size that has no name, or one that an exporter made up (`s72`, `unk__12`).

        Exporters make up a name for each input's batch; those are one size here, which a note says.
        """
        key = theirs or at
        if key not in self.known:
            made_up = _MADE_UP.fullmatch(theirs) is not None
            name = next((ours for ours, names in _SIZES.items() if theirs.lower() in names), None)
            name = name or re.sub(r"[^A-Za-z0-9_]", "_", at if made_up else theirs).strip("_") or "size"
            name = f"size_{name}" if name[0].isdigit() or keyword.iskeyword(name) else name
            while name in self.known.values() and not (made_up and name in _SIZES):
                name = f"{name}_"
            self.known[key] = name
        return self.known[key]

    @property
    def notes(self) -> tuple[str, ...]:
        """Which of the file's sizes are taken to be one."""
        theirs = {ours: [t for t, o in self.known.items() if o == ours] for ours in _SIZES}
        return tuple(f"the file's sizes {' and '.join(n)} are one: {ours}" for ours, n in theirs.items() if len(n) > 1)


def _spec(value: Any, namer: _Namer, tables: Mapping[str, int], asked: Sequence[int | str] | None) -> InputSpec:
    tensor = value.type.tensor_type
    dtype = _DTYPES.get(tensor.elem_type)
    if value.type.WhichOneof("value") != "tensor_type" or dtype is None:
        raise ModelError(f"the input {value.name!r} is no tensor of numbers", hint=f"one of {', '.join(DTYPES)}")
    if not tensor.HasField("shape"):
        raise ModelError(f"the input {value.name!r} has no shape", hint="write its sizes into the file")
    if asked is not None and len(asked) != len(tensor.shape.dim):
        raise ModelError(f"dims of {value.name!r} are {len(asked)}, the file has {len(tensor.shape.dim)} axes")
    dims = tuple(asked) if asked is not None else tuple(
        _dim(d, i, value.name, dtype[0] in "ib", namer) for i, d in enumerate(tensor.shape.dim)
    )  # fmt: skip
    integer = dtype[0] in "iu" or dtype == "bool"
    if integer and len(dims) == 2 and "mask" in value.name.lower():
        return InputSpec(value.name, dtype, dims, role="mask", inverted="padding" in value.name.lower())
    if integer and value.name in tables:
        role = "ids" if value.name.lower() in ("input_ids", "ids", "tokens", "input") else "data"
        return InputSpec(value.name, dtype, dims, role=role, high=tables[value.name] - 1)
    return InputSpec(value.name, dtype, dims)


def _dim(dim: Any, at: int, name: str, text: bool, namer: _Namer) -> int | str:
    if dim.HasField("dim_value") and dim.dim_value > 0:
        return int(dim.dim_value)
    return namer(dim.dim_param, _place(name, at, text))


def _place(name: str, at: int, text: bool) -> str:
    """What a size without a name is called: the second of ids and masks is the length of the text."""
    return "batch" if at == 0 else "seq" if at == 1 and text and "decoder" not in name else f"{name}_{at}"


def _tables(graph: Any) -> dict[str, int]:
    """Input -> rows of the smallest table that it indexes, where a Gather takes it."""
    rows = {t.name: t.dims[0] for t in graph.initializer if t.dims}
    source: dict[str, str] = {v.name: v.name for v in graph.input}
    found: dict[str, int] = {}
    for node in graph.node:
        if node.op_type in _UNCHANGED and node.input and node.output and node.input[0] in source:
            source[node.output[0]] = source[node.input[0]]
        if node.op_type == "Gather" and len(node.input) == 2 and node.input[0] in rows and node.input[1] in source:
            name = source[node.input[1]]
            found[name] = min(rows[node.input[0]], found.get(name, rows[node.input[0]]))
    return found


_FLOATS, _STRING = frozenset({1, 10, 11, 16}), 8
# ONNX's number for an element type -> its name here, for inputs that cases can be made for.
_DTYPES = {
    1: "f32", 2: "u8", 3: "i8", 4: "u16", 5: "i16", 6: "i32", 7: "i64", 9: "bool", 10: "f16", 11: "f64", 12: "u32",
    13: "u64", 16: "bf16",
}  # fmt: skip
