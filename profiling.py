"""The verb `profile`: which bundle, at which sizes, with which predictions."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .backends.bundle import Bundle, open_bundle
from .backends.generation.session import STEP
from .backends.manifest import MANIFEST
from .backends.registry import BACKENDS
from .compiler.hardware.calibration import read_calibration
from .compiler.hardware.machine import check_threads
from .ir.diagnostics import RunError, TundishError
from .ir.dims import Range
from .originals import open_source
from .profiler.host_lock import measuring_alone
from .profiler.profiles import Profile, RoutingRow
from .profiler.report.progress import Progress, silent
from .work import RUNS, USUAL_LENGTH, Asked, Work, after_passes, saved_program, single_sizes, single_spans

WHOLE = "generate"  # the phase of a bundle that has a step beside the whole model


def profile(
    model: Any, *, batch: int = 1, seq: int | None = None, past: int | None = None, phase: str | None = None,
    threads: int | None = None, backend: str | None = None, entry: str | None = None, warmup: int = 3,
    repeats: int = 15, calibration: str | Path | None = None, memory: bool = True, task: str | None = None,
    weights: str | None = None, record_routing: str | Path | None = None, text: str | Path | None = None,
    progress: Progress = silent,
) -> Profile:  # fmt: skip
    """Times a bundle node by node, each with its module, source line, FLOPs, bytes and predicted time.

    model:   a bundle or its folder, or a model as `compile` takes it, which is compiled into a temporary bundle first.
    seq:     128 by default, or what the bundle takes; `past` likewise, in the phase `decode`.
    phase:   the bundle's own by default; `prefill` for a model. `decode` is one token of the step that writes in place.
    backend: for a model; a bundle has its own. `torch` profiles the model's own module in eager mode.
    memory:  measure peak memory too, in a process of its own.
    weights: for a model, as in `compile`.
    record_routing: for a model with experts: the file to write what its routers choose on `text` (a file; drawn tokens
             when None) to. `compile` reads it, and reports show it.
    Raises: TundishError, LoadError, RunError, each in one line.
    """
    from .profiler.measure import check_asked, measure

    check_asked(warmup, repeats)
    if text is not None and record_routing is None:
        raise TundishError("a text is what routing is recorded on", found="--text", hint="add --record-routing FILE")
    check_threads(threads)
    if calibration is not None:
        read_calibration(Path(calibration))  # before anything is compiled
    routing = () if record_routing is None else _recorded(model, Path(record_routing), text, task, progress)
    asked = {"batch": batch, "seq": seq, "past": past}
    if backend == "torch":
        found = _of_torch(model, asked, phase or "prefill", task, progress, warmup, repeats, threads)
        return replace(found, routing=routing)
    if backend is not None and backend not in BACKENDS:
        raise TundishError(f"there is no backend {backend!r}", hint=f"one of {', '.join([*BACKENDS, 'torch'])}")
    with _bundle(model, asked, phase, backend, task, progress, weights) as bundle:
        own, name = _asked_of(bundle, phase, entry)
        inputs = stepped(bundle, **asked) if name == STEP else _inputs(bundle, name, single_sizes(
            bundle.entries[name].ranges, own, **asked))  # fmt: skip
        threads = bundle.threads(threads)
        costs = _costs(bundle, threads, calibration)
        with measuring_alone(lambda text: progress(text, 0.85)):
            peak = _measured_peak(bundle, inputs, name, threads, progress) if memory else {}
            progress("profiling", 0.9)
            found = measure(
                bundle, inputs, entry=name, warmup=warmup, repeats=repeats, threads=threads, costs=costs, phase=own,
                peak_bytes=peak,
            )  # fmt: skip
    progress("done", 1.0)
    return replace(found, routing=routing)


def _recorded(model: Any, output: Path, text: Any, task: str | None, progress: Progress) -> tuple[RoutingRow, ...]:
    from .recording import record_routing

    routing = record_routing(model, text=text, task=task, progress=progress)
    routing.save(output)
    return tuple(
        RoutingRow(x.module, x.experts, x.k, x.counts, x.max_over_mean, x.kept, x.kept_by_chance)
        for x in routing.layers
    )  # fmt: skip


def predictions(
    model: Any = None, *, batch: int = 1, seq: int | None = None, threads: int | None = None, repeats: int = 25,
    calibration: str | Path | None = None, write: str | Path | None = None, progress: Progress = silent,
) -> dict[str, Any]:  # fmt: skip
    """How far the predicted times and memory of a model are from measured ones; rows as `predictions.compared` gives.

    model: None for the five of docs/benchmarks.md, each on one thread and on all. write: the markdown file to rewrite.
    Raises: TundishError where this machine is not calibrated.
    """
    from .compiler.hardware.calibration import find_calibration
    from .compiler.hardware.machine import this_machine
    from .profiler.benchmarks import Workload
    from .profiler.predictions import WORKLOADS, compared, write_predictions
    from .profiler.report.write import check_file

    if write is not None:
        check_file(Path(write))
    found, reason = find_calibration(this_machine(), None if calibration is None else Path(calibration))
    if found is None:
        raise TundishError("nothing is predicted that could be compared", found=reason, hint="run `tundish calibrate`")
    cores = len(os.sched_getaffinity(0))
    rows = []
    for load in WORKLOADS if model is None else (Workload(str(model), batch, seq),):
        with _bundle(load.model, {"batch": load.batch, "seq": load.seq, "past": None}, None, None, None, progress) as b:
            for count in (threads,) if threads else sorted({1, cores}):
                progress(f"{load.model}, {count} threads", 0.9)
                profiled = profile(
                    b, batch=load.batch, seq=load.seq, threads=count, repeats=repeats, calibration=calibration
                )  # fmt: skip
                rows.append({**compared(profiled), "model": load.model})
    if write is not None:
        write_predictions(Path(write), rows)
    return {"rows": rows}


def _of_torch(
    model: Any, asked: Mapping[str, int | None], phase: str, task: str | None, progress: Progress, warmup: int,
    repeats: int, threads: int | None,
) -> Profile:  # fmt: skip
    """The original torch module, in eager mode. Raises: TundishError for what is none."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler speaks on stderr; read when torch is loaded
    from .models.cases import make
    from .profiler.torch_profile import measure_torch

    if isinstance(model, (str, Path)) and (Path(model) / MANIFEST).is_file():
        raise TundishError("a bundle holds no torch module", found="--backend torch", hint="name the model itself")
    _check_lengths(asked, phase)
    work = Work(model, Asked(task, phase=phase, **single_spans(**asked)), progress)
    if work.source is None or work.source.form != "torch":
        raise TundishError(f"{work.name} is no torch module", found="--backend torch", hint="profile it as a bundle")
    sizes = single_sizes(work.program.symbols, phase, **asked)
    length = next((size for name, size in sizes.items() if name != "batch"), 1)
    inputs = make(work.source, sizes.get("batch", 1), length, np.random.default_rng(0))
    program = after_passes(work.program, "reference")
    with measuring_alone(lambda text: progress(text, 0.8)):
        progress("profiling", 0.8)
        found = measure_torch(
            lambda: work.source.call(inputs), work.source.module, model=work.name, phase=phase, sizes=sizes,
            program=program, warmup=warmup, repeats=repeats, threads=threads,
        )  # fmt: skip
    progress("done", 1.0)
    return found


@contextmanager
def _bundle(
    model: Any, asked: Mapping[str, int | None], phase: str | None, backend: str | None, task: str | None,
    progress: Progress, weights: str | None = None,
) -> Iterator[Bundle]:  # fmt: skip
    """The bundle that is asked for, opened; what is compiled for it is removed."""
    if isinstance(model, Bundle):
        yield model
        return
    if isinstance(model, (str, Path)) and (Path(model) / MANIFEST).is_file():
        with open_bundle(Path(model)) as opened:
            if task is not None:
                raise TundishError("a bundle has its head already", found=f"--task {task}", hint="profile the model")
            if weights is not None:
                raise TundishError("a bundle has its weights already", found=f"--weights {weights}",
                                   hint="profile the model")  # fmt: skip
            if backend is not None and backend != opened.plan_backend:
                raise TundishError(f"the bundle was compiled for {opened.plan_backend}", found=f"--backend {backend}",
                                   hint="profile the model, or compile it again for that backend")  # fmt: skip
            yield opened
        return
    from .profiler.workers import resolve

    _check_lengths(asked, phase or "prefill")
    compile = resolve(f"{__package__}.api:compile")  # it stands above this file
    with tempfile.TemporaryDirectory(prefix="tundish-profile-") as folder:
        for chosen, spans in _compilable(model, phase or "prefill", task, asked):
            with compile(
                model, Path(folder) / f"{chosen}.tundish", phase=chosen, backend=backend or "onnxruntime",
                task=task, weights=weights, progress=lambda stage, share: progress(stage, 0.85 * share), **spans,
            ) as made:  # fmt: skip
                if chosen != WHOLE or STEP in made.entries:
                    yield made
                    return


def _compilable(
    model: Any, phase: str, task: str | None, asked: Mapping[str, int | None]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The phases to compile a model for, and the sizes, until one has what is to be profiled.

    A decode is of the step that writes in place, which stands beside the whole model; where a model has none, of the
    step that concatenates. Raises: CaptureError for a model that does not decode, before it is compiled.
    """
    if phase == "decode" and saved_program(model) is None:
        open_source(model, Asked(task, phase=phase, shapes=True))
        yield WHOLE, single_spans(asked["batch"])
    yield phase, single_spans(**asked)


def _check_lengths(asked: Mapping[str, int | None], phase: str) -> None:
    """Before a model is loaded. Raises: TundishError on a phase that is none, or a length that it does not have."""
    Asked(phase=phase, seq=asked["seq"], past=asked["past"]).check(RUNS)


def _asked_of(bundle: Bundle, phase: str | None, entry: str | None) -> tuple[str, str]:
    """(phase, entry) to profile: the bundle's own, or its step for `decode`. Raises: TundishError on another."""
    own = str(bundle.manifest.info.get("phase", "prefill"))
    Asked(phase=phase or own).check(RUNS)
    if entry is not None and entry not in bundle.entries:
        raise RunError(f"there is no entry {entry!r}", hint=f"the entries are {', '.join(bundle.entries)}")
    if STEP in bundle.entries and (entry == STEP or (entry is None and phase == "decode")):
        if phase not in (None, "decode"):
            raise TundishError(f"the entry {STEP!r} decodes", found=f"--phase {phase}", hint="leave out one of the two")
        return "decode", STEP
    if phase is not None and phase != own:
        raise TundishError(f"the bundle was compiled for {own}", found=f"--phase {phase}",
                           hint=f"compile the model with --phase {phase}")  # fmt: skip
    return own, entry or next(iter(bundle.entries))


def stepped(
    bundle: Bundle, batch: int | None = None, seq: int | None = None, past: int | None = None
) -> dict[str, np.ndarray]:
    """Seeded inputs of a bundle's step: one token a row, behind `past` that fill the caches but for its own place.

    So what is counted for whole caches is what one token costs. Raises: TundishError on sizes that it does not take.
    """
    Asked(phase="decode", seq=seq, past=past).check()
    ranges = bundle.entries[STEP].ranges
    rows, room = (next((r for n, r in ranges.items() if n == name), Range(1, None)) for name in ("batch", "capacity"))
    longest = (room.high or USUAL_LENGTH + 1) - 1
    behind = Range(max(0, room.low - 1), None if room.high is None else longest)
    sizes = {"batch": batch or max(1, rows.low), "past": min(USUAL_LENGTH, longest) if past is None else past}
    for name, span in (("batch", rows), ("past", behind)):
        if sizes[name] not in span:
            raise RunError(f"{name} is {sizes[name]}, outside {span}", hint=f"choose --{name} within it")
    window = min((w["window"] for w in bundle.generator.info["windows"]), default=1)
    seen = min(sizes["past"], window - 1)
    held = {"capacity": sizes["past"] + 1, "window_capacity": seen + 1, "batch": sizes["batch"]}
    if "seq" in ranges:  # of the text that an encoder has read
        held["seq"] = max(ranges["seq"].low, min(USUAL_LENGTH, ranges["seq"].high or USUAL_LENGTH))
    inputs = _inputs(bundle, STEP, {name: held.get(name, 1) for name in ranges})
    for name, at in (("position", sizes["past"]), ("window_position", seen), ("select", 0), ("attention_mask", 1)):
        if name in inputs:
            inputs[name] = np.full_like(inputs[name], at)
    return inputs


def _inputs(bundle: Bundle, entry: str, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Seeded inputs at these sizes, whose integers go as far as those of the stored cases."""
    from .backends.inputs import random_inputs

    cases = [c.inputs for c in bundle.cases().cases if c.entry == entry]
    like = {name: np.concatenate([np.ravel(c[name]) for c in cases]) for name in (cases[0] if cases else ())}
    return random_inputs(bundle.entries[entry], sizes=sizes, like=like)


def _costs(bundle: Bundle, threads: int | None, calibration: str | Path | None) -> Any:
    from .compiler.cost.estimate import Costs
    from .compiler.hardware.calibration import find_calibration
    from .compiler.hardware.machine import this_machine

    machine = this_machine(bundle.target)
    found, reason = find_calibration(machine, None if calibration is None else Path(calibration))
    return Costs(
        found, machine, bundle.plan_backend, threads, bundle.manifest.dtype,
        weights_bytes=bundle.weights.stat().st_size, reason=reason,
    )  # fmt: skip


def _measured_peak(
    bundle: Bundle, inputs: Mapping[str, np.ndarray], entry: str, threads: int | None, progress: Progress
) -> dict[str, int | None]:
    from .profiler.memory import measured_peak

    progress("measuring memory", 0.85)
    peak = measured_peak(bundle.path, inputs, entry=entry, threads=threads)
    return {"measured": peak.peak, "mapped": peak.mapped, "libraries": peak.libraries}
