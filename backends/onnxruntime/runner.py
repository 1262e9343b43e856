"""Runs built models in ONNX Runtime. Needs numpy and onnxruntime, nothing else."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from ...ir.diagnostics import LoadError, RunError
from ..base import Built
from ..options import OrtOptions, typed
from ..signature import choose, known_entry

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# What numpy has no type of its own for passes by its bits: onnxruntime's name and number for it.
_BITS = {
    np.dtype(ml_dtypes.bfloat16): ("tensor(bfloat16)", 16),
    np.dtype(ml_dtypes.float8_e4m3fn): ("tensor(float8e4m3fn)", 17),
    np.dtype(ml_dtypes.float8_e4m3fnuz): ("tensor(float8e4m3fnuz)", 18),
    np.dtype(ml_dtypes.float8_e5m2): ("tensor(float8e5m2)", 19),
    np.dtype(ml_dtypes.float8_e5m2fnuz): ("tensor(float8e5m2fnuz)", 20),
}
_NAMED = {name: dtype for dtype, (name, _) in _BITS.items()}


def session(model: Path, weights: Path, target: str, threads: int | None) -> onnxruntime.InferenceSession:
    """Opens one model on the provider that was asked for, never on another.

    Raises: LoadError where that provider is missing or does not start, or the file is not a model.
    """
    import onnxruntime as ort

    wanted = PROVIDERS[target]
    if wanted not in ort.get_available_providers():
        raise LoadError(
            f"this build of onnxruntime has no {wanted}", found=", ".join(ort.get_available_providers()),
            hint="install onnxruntime-gpu, or compile with --target cpu",
        )  # fmt: skip
    try:
        opened = ort.InferenceSession(
            model.read_bytes(), _options(ort, weights, threads), providers=[wanted], enable_fallback=False
        )
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise LoadError(f"onnxruntime cannot open {model.name}: {error}") from error
    if opened.get_providers()[0] != wanted:
        raise LoadError(
            f"{wanted} did not start", found=f"running on {', '.join(opened.get_providers())}",
            hint="check the driver and the CUDA libraries (`tundish doctor`), or compile with --target cpu",
        )  # fmt: skip
    return opened


def _options(ort: Any, weights: Path, threads: int | None) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its lines would stand beside our own message on stderr
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    # The model is given as bytes, and its weights are one file of the bundle, outside the model's own folder.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(weights.parent.resolve())
    )
    return options


class OrtRunner:
    """An opened set of models: one session per variant, opened when it first runs."""

    def __init__(self, built: Built, threads: int | None) -> None:
        self.built, self.threads = built, threads
        self._options = typed(built.options, OrtOptions)
        self._variants = self._options.variants()
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}

    def session(self, file: str) -> onnxruntime.InferenceSession:
        """The session of one of the model files."""
        if file not in self._sessions:
            path = self.built.folder / file
            self._sessions[file] = session(path, self.built.weights, self._options.target, self.threads)
        return self._sessions[file]

    def run(
        self, entry: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Runs an entry once. Raises: RunError."""
        signature = known_entry(entry, self.built.entries)
        sizes = signature.bind(inputs)
        names = signature.select(outputs)
        if not names:
            return {}  # ONNX Runtime takes no names for all of them
        variants = self._variants[entry]
        opened = self.session(variants[choose(variants, sizes)].function)
        try:
            results = fed(opened, names, inputs)
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise RunError(f"onnxruntime failed in entry {entry!r}: {error}") from error
        return dict(zip(names, results, strict=True))

    def close(self) -> None:
        """Frees the sessions."""
        self._sessions.clear()


def fed(opened: Any, names: list[str], inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs of an opened session, by these names in order."""
    taken = {i.name: i.type for i in opened.get_inputs()}
    given_back = {o.name: o.type for o in opened.get_outputs()}
    if not any(t in _NAMED for t in (*taken.values(), *(given_back[n] for n in names))):
        given = {name: np.asarray(inputs[name], order="C") for name in taken}
        results: list[np.ndarray] = opened.run(names, given)
        return results
    values = opened.run_with_ort_values(names, {name: _value(inputs[name]) for name in taken})
    return [_array(v) for v in values]


def _value(array: np.ndarray) -> Any:
    """An OrtValue; what numpy has no type for goes by its bits."""
    import onnxruntime as ort

    array = np.asarray(array, order="C")
    if array.dtype in _BITS:
        bits = array.view(f"u{array.itemsize}")
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, _BITS[array.dtype][1])
    return ort.OrtValue.ortvalue_from_numpy(array)


def _array(value: Any) -> np.ndarray:
    dtype = _NAMED.get(value.data_type())
    if dtype is None:
        result: np.ndarray = value.numpy()
        return result
    shape = tuple(value.shape())
    if not prod(shape):
        return np.zeros(shape, dtype)
    bits = (ctypes.c_uint8 * (prod(shape) * dtype.itemsize)).from_address(value.data_ptr())
    return np.array(bits, np.uint8).view(dtype).reshape(shape)  # a copy: the value owns its memory
