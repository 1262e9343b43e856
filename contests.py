"""What `tundish bench` times: a model or a bundle at one size, its inputs, and what the original answers to them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .backends.bundle import Bundle, open_bundle
from .backends.generation.session import STEP
from .backends.inputs import random_inputs
from .ir.diagnostics import CaptureError, TundishError
from .ir.dims import Range
from .originals import answers_of, open_source
from .profiler.answers import Reference, reference
from .profiler.benchmarks import Workload
from .profiler.compare import Contest
from .profiler.report.progress import Progress
from .work import PHASES, RUNS, USUAL_LENGTH, Asked, saved_program, single_sizes, single_spans

TIMED = ("onnxruntime", "tvm")  # our backends, the usual one first


def contest(
    load: Workload, *, against: str | None = None, task: str | None = None, backend: str | None = None,
    progress: Progress,
) -> Contest:  # fmt: skip
    """Everything a race needs: the inputs, the original's answer, and what the competitors' processes are handed.

    against: the original of a bundle. backend: ours that a model is compiled for; a bundle has its own.
    Raises: TundishError for what has no name that a process could open it by, or sizes that the model does not take.
    """
    if (Path(load.model) / "manifest.json").is_file():
        if backend is not None:
            raise TundishError("a bundle has its backend already", found=f"--backend {backend}")
        return _of_bundle(open_bundle(load.model), load, against, task, progress)
    if backend is not None and backend not in TIMED:
        raise TundishError(f"the backend {backend!r} is not timed", hint=f"one of {', '.join(TIMED)}")
    if against is not None:
        raise TundishError("--against names the original of a bundle, and this is a model", found=load.model)
    if saved_program(load.model) is not None:
        raise TundishError("a captured graph holds no original that peers could run", found=load.model,
                           hint="compile it, and bench the bundle with --against MODEL")  # fmt: skip
    Asked(task, load.batch, load.seq, phase=load.phase, past=load.past).check(RUNS)
    options = {"task": task, "phase": load.phase, **single_spans(load.batch, load.seq, load.past)}
    return _of_original(load.model, load, options, progress).replace(backend=backend or TIMED[0])


def _of_original(model: str, load: Workload, options: dict[str, Any], progress: Progress) -> Contest:
    progress(f"{model}: loading the model", 0.0)
    source = opened(model, options)
    length = _length(source, load)
    prompt, inputs = _drawn(source, load, length)
    progress(f"{model}: asking the original", 0.0)
    exact = source.exact
    wanted = reference(source.origin, answers_of(source, inputs), None if exact is None else exact(inputs))
    return Contest(model, inputs, {**_job(source, options, load, length), **prompt}, wanted)


def _of_bundle(bundle: Bundle, load: Workload, against: str | None, task: str | None, progress: Progress) -> Contest:
    """A bundle as it is. Its original is `against`, or the model whose name it bears; without, peers have none."""
    from .models.zoo import PACKAGED, ZOO

    info, name = bundle.manifest.info, bundle.manifest.name
    phase = str(info.get("phase", "prefill"))
    if load.phase == "decode" and STEP in bundle.entries:
        phase = "decode"
    if load.phase not in (phase, "prefill"):  # which is the option's default
        raise TundishError(f"the bundle was compiled for {phase}", found=f"--phase {load.phase}")
    if task is not None and task != info.get("task"):
        raise TundishError("a bundle has its head already", found=f"--task {task}")
    stepping = phase == "decode" and STEP in bundle.entries
    original = against or (name if name in {**ZOO, **PACKAGED} else None)
    if stepping:
        if original is None:
            raise TundishError("a step is timed on what its original keeps of a prompt, and the bundle names none",
                               hint="name it with --against")  # fmt: skip
        Asked(task, load.batch, load.seq, phase=phase, past=load.past).check()
    else:
        entry = next(iter(bundle.entries.values()))
        ranges = {n: Range(*span) for n, span in entry.symbols.items()}
        sizes = single_sizes(ranges, phase, load.batch, load.seq, load.past)
        length = next((size for name, size in sizes.items() if name != "batch"), USUAL_LENGTH)
        lengths = (length, phase, None) if phase == "prefill" else (None, phase, length)
        load = Workload(load.model, load.batch, *lengths)
    if original is None:
        inputs = random_inputs(entry, sizes=sizes)
        notes = ["answers are held against the bundle's own: it does not name its original"]
        made = Contest("", inputs, {"form": "torch"}, None, notes=notes)
    else:
        options = {"task": info.get("task"), "fixed": info.get("fixed") or None, "phase": phase,
                   "packed": bool(info.get("packed"))}  # fmt: skip
        made = _of_original(original, load, options, progress)
        if against is None:
            made.notes.append(f"the original is taken to be the model named {name}; --against names another")
    if not stepping:
        _check_taken(bundle, made.inputs)
    return made.replace(bundle=bundle.path.resolve(), dtype=bundle.manifest.dtype, backend=bundle.manifest.backend)


def _check_taken(bundle: Bundle, inputs: Mapping[str, np.ndarray]) -> None:
    taken = {spec.name for spec in bundle.inputs}
    if taken != set(inputs):
        raise TundishError("the bundle is not of this model: their inputs differ", found=", ".join(sorted(inputs)),
                           hint=f"the bundle takes {', '.join(sorted(taken))}")  # fmt: skip


def _asked_length(load: Workload) -> int | None:
    return load.past if load.phase == "decode" else load.seq


def _length(source: Any, load: Workload) -> int:
    """The length that varies in this phase. Raises: CaptureError where the model does not take it."""
    name, asked = PHASES[load.phase], _asked_length(load)
    longest = source.max_seq or asked or USUAL_LENGTH
    if asked is not None and asked > longest:
        of = "positions" if name == "seq" else "positions before the new one"
        raise CaptureError(f"{source.name} takes at most {longest} {of}", found=f"--{name} {asked}")
    return asked or min(USUAL_LENGTH, longest)


def _drawn(source: Any, load: Workload, length: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What is timed; of a decode also the prompt that the caches are of, whose last token is the one to run."""
    if load.phase != "decode":
        return {}, _inputs(source, load.batch, length)
    from .models.decoding import prompted

    rows = np.random.default_rng(0).integers(0, source.vocab_size, (load.batch, length + 1))
    inputs = prompted(source, {"input_ids": rows, "attention_mask": np.ones_like(rows)})
    return {"prompt": rows.tolist()}, inputs


def gguf(model: str) -> Path | None:
    """The GGUF file of a model, where it is one."""
    from .models.zoo import PACKAGED, packaged_path

    path = packaged_path(model) if model in PACKAGED else Path(model)
    return path if path.suffix == ".gguf" and path.is_file() else None


def _inputs(source: Any, batch: int, length: int) -> dict[str, np.ndarray]:
    from .models.cases import make

    return make(source, batch, length, np.random.default_rng(0))


def _job(source: Any, options: dict[str, Any], load: Workload, length: int) -> dict[str, Any]:
    """What the competitors' processes find the model by; functions go by name, as `profiler` imports no models."""
    here = f"{__package__}.contests"
    return {
        "compile": f"{__package__}.api:compile", "source": f"{here}:opened", "samples": f"{here}:samples",
        "plain": f"{__package__}.models.plain:plain_module", "gguf": f"{here}:gguf",
        "form": source.form, "options": options,
        # a size of 1 would be taken for a rule of the model while it is traced
        "sizes": [max(load.batch, 2), max(length, 2)], "exact": [load.batch, length],
    }  # fmt: skip


def opened(model: str, options: Mapping[str, Any]) -> Any:
    """The Source, in a competitor's process."""
    return open_source(model, Asked(**options))


def samples(source: Any, sizes: tuple[int, int]) -> dict[str, Any]:
    """Tensors to trace the model with: of the sizes that it is timed at, where tracing can take those."""
    from .models.source import to_torch

    return {name: to_torch(array) for name, array in _inputs(source, *sizes).items()}


__all__ = ["Contest", "Reference", "contest", "opened", "samples"]
