"""Sessions of ONNX Runtime, with the options that all of ours have."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import LoadError

if TYPE_CHECKING:
    import onnxruntime

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def session(
    model: Path, weights: Path, target: str, threads: int | None, adjust: Callable[[Any], None] | None = None
) -> onnxruntime.InferenceSession:
    """Opens one model on the provider that was asked for, never on another.

    adjust: is given the session's options before it opens.
    Raises: LoadError where that provider is missing or does not start, or the file is not a model.
    """
    import onnxruntime as ort

    wanted = PROVIDERS[target]
    if wanted not in ort.get_available_providers():
        raise LoadError(
            f"this build of onnxruntime has no {wanted}", found=", ".join(ort.get_available_providers()),
            hint="install onnxruntime-gpu, or compile with --target cpu",
        )  # fmt: skip
    options = session_options(ort, threads)
    # The model is given as bytes, and its weights are one file of the bundle, outside the model's own folder.
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(weights.parent.resolve())
    )
    if adjust is not None:
        adjust(options)
    try:
        opened = ort.InferenceSession(model.read_bytes(), options, providers=[wanted], enable_fallback=False)
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise LoadError(f"onnxruntime cannot open {model.name}: {error}") from error
    if opened.get_providers()[0] != wanted:
        raise LoadError(
            f"{wanted} did not start", found=f"running on {', '.join(opened.get_providers())}",
            hint="check the driver and the CUDA libraries (`tundish doctor`), or compile with --target cpu",
        )  # fmt: skip
    return opened


def session_options(ort: Any, threads: int | None) -> Any:
    """Those of every session; `threads` None takes one per core."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its lines would stand beside our own message on stderr
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.enable_mem_pattern = False  # a second arena beside the first run's, for some microseconds
    return options


def switch(options: Any, run: Mapping[str, str]) -> None:
    """Sets what a bundle says of how it is opened: `spinning` and `arena`, on or off. Threads are set by number."""
    options.enable_cpu_mem_arena = run.get("arena") != "off"
    if run.get("spinning") == "off":
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
