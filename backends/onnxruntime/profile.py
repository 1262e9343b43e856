"""ONNX Runtime's own profiling, read back as the kernels of each run."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from ...ir.diagnostics import RunError
from ..base import KernelTime, Profiled
from .clock import SHAPE, chain
from .nodes import Keys, attribute, map_file, read_map, read_nodes
from .sessions import session_options

if TYPE_CHECKING:
    import onnxruntime

_KERNEL = "_kernel_time"
_DATA = "optimized.data"
_CLOCK_RUNS = 15


class _Event(msgspec.Struct):
    """ts, dur: microseconds."""

    cat: str
    name: str
    ts: int
    dur: int
    args: dict[str, Any] = {}


def profiled(
    open_session: Callable[[Callable[[Any], None]], onnxruntime.InferenceSession],
    run: Callable[[Any], object], model: Path, threads: int | None, *, warmup: int, repeats: int,
) -> Profiled:  # fmt: skip
    """Times a model in turns in a session that profiles and in one that does not.

    Raises: LoadError where the model's map of nodes is missing; RunError where a run fails.
    """
    known = read_map(model.with_name(map_file(model.name)))
    with tempfile.TemporaryDirectory(prefix="tundish-profile-") as folder:
        plain = open_session(_calm)
        watched = open_session(lambda options: _watch(options, Path(folder)))
        totals, seconds = [], []
        for _ in range(warmup + repeats):
            totals.append(_timed(run, plain))
            seconds.append(_timed(run, watched))
        events = _events(Path(watched.end_profiling()))
        kept = read_nodes((Path(folder) / "optimized.onnx").read_bytes())
    costs = _clock(threads)
    keys = attribute(read_nodes(model.read_bytes()), known.keys, kept)
    runs = tuple(tuple(_kernels(events, start, end, keys)) for start, end in _spans(events))
    if len(runs) != warmup + repeats:
        raise RunError("onnxruntime's profile does not hold every run", found=f"{len(runs)} of {warmup + repeats}")
    return Profiled(known.function, tuple(totals[warmup:]), tuple(seconds[warmup:]), runs[warmup:], *costs)


def _clock(threads: int | None) -> tuple[float, float]:
    """Seconds that profiling adds to each kernel's time, and after each kernel: see `clock`."""
    import onnxruntime as ort

    def opened(folder: str) -> Any:
        options = session_options(ort, threads)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        _calm(options)
        if folder:
            options.enable_profiling, options.profile_file_prefix = True, f"{folder}/clock"
        return ort.InferenceSession(chain(), options, providers=["CPUExecutionProvider"])

    with tempfile.TemporaryDirectory(prefix="tundish-profile-") as folder:
        plain, watched = opened(""), opened(folder)
        totals, seconds = [], []
        for _ in range(_CLOCK_RUNS):
            totals.append(_timed(_one, plain))
            seconds.append(_timed(_one, watched))
        events = _events(Path(watched.end_profiling()))
    times = [[k.seconds for k in _kernels(events, *span, {})] for span in _spans(events)]
    each = [sum(run) / len(run) for run in times]
    within = max(0.0, min(each) - min(totals) / len(times[0]))  # the best of each: a disturbed run says nothing
    whole = (min(seconds) - min(totals)) / len(times[0])
    return within, max(0.0, whole - within)


def _one(session: Any) -> object:
    return session.run(["y"], {"x": np.ones(SHAPE, np.float32)})


def _calm(options: Any) -> None:
    """The threads of one session must not spin on while the other one runs."""
    options.add_session_config_entry("session.force_spinning_stop", "1")


def _watch(options: Any, folder: Path) -> None:
    """With the profile, and the model as ONNX Runtime rewrites it, whose weights nobody needs."""
    _calm(options)
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "run")
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    (folder / _DATA).symlink_to(os.devnull)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", _DATA)
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "0")


def _timed(run: Callable[[Any], object], session: Any) -> float:
    started = time.perf_counter()
    try:
        run(session)
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise RunError(f"onnxruntime failed: {error}") from error
    return time.perf_counter() - started


def _events(path: Path) -> list[_Event]:
    return sorted(msgspec.json.decode(path.read_bytes(), type=list[_Event]), key=lambda e: e.ts)


def _spans(events: list[_Event]) -> Iterator[tuple[int, int]]:
    """From when to when each run went."""
    return ((e.ts, e.ts + e.dur) for e in events if e.cat == "Session" and e.name == "model_run")


def _kernels(events: list[_Event], start: int, end: int, keys: Mapping[str, Keys]) -> Iterator[KernelTime]:
    for e in events:
        if e.cat == "Node" and e.name.endswith(_KERNEL) and start <= e.ts <= end:
            name = e.name.removesuffix(_KERNEL)
            found = keys.get(name, ())
            kernel = str(e.args.get("op_name", name))
            yield KernelTime(found[0] if found else "", kernel, (e.ts - start) / 1e6, e.dur / 1e6, found)
