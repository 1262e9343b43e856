"""The verb `tune`: a model, or a bundle, at one size, and the table that its measurements go to."""

from __future__ import annotations

import re
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .backends.bundle import Bundle, open_bundle
from .backends.cases import write_cases
from .backends.inputs import random_inputs
from .backends.manifest import MANIFEST
from .backends.registry import get
from .backends.signature import Signature, signatures
from .compiler.driver import compile_program
from .compiler.hardware.machine import check_threads, this_machine
from .compiler.task import Precision, Task
from .compiler.tuning import WHOLE, Pick, Table, model_key
from .compiler.tuning_file import PLACE, Chip, check_chip, default_place, engine_of, read_table
from .ir.diagnostics import BuildError, TundishError
from .ir.graph import Program
from .profiler.alone import timer
from .profiler.candidates import Builders, Job, builders, check_workers
from .profiler.duel import USUAL, Ring
from .profiler.parity import record
from .profiler.report.progress import Progress, silent
from .profiler.tune import Subject, Tuner
from .work import PRECISIONS, Asked, Work, builder, single_sizes, single_spans

_MOST_POSITIONS = 1024  # of a case that candidates are held against, unless it is the size that is tuned for
_UNITS_S = {"": 1.0, "s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}
Named = list[tuple[str, dict[str, np.ndarray]]]


def tune(
    model: Any, output: str | Path | None = None, *, batch: int = 1, seq: int | None = None, phase: str = "prefill",
    past: int | None = None, task: str | None = None, precision: str = "fp32", threads: int | None = None,
    target: str = "cpu", backend: str = "onnxruntime", budget: str | float = "5min", workers: int | str = 1,
    ring: Ring = USUAL, progress: Progress = silent,
) -> dict[str, Any]:  # fmt: skip
    """Measures the choices that the compiler offers for a model, and writes the table that `compile` reads.

    Of a bundle only what is set when it is opened can be chosen: threads and session options.
    output:  the table's file, added to where it is there; by default this chip's, which `compile` finds.
    threads: fixed to so many; one of the choices when not given.
    budget:  `90s`, `5min`, `1h`. What was measured by then is kept, and the next run goes on from there.
    workers: processes that build, 0 for this one; `ray`, or `ray://host:port`. Measuring is never done beside it.
    ring:    how many rounds a comparison has.
    Rows have "ratio": the whole model's time with "option" over that with "against", and its 99% interval.
    Raises: LoadError on a table that is broken or another chip's, before anything is measured.
    """
    deadline = time.monotonic() + seconds(budget)
    check_workers(workers)
    check_threads(threads)
    if is_bundle(model):
        _refuse_for_bundles(
            task=task, phase=phase != "prefill", precision=precision != "fp32", target=target != "cpu",
            backend=backend != "onnxruntime",
        )  # fmt: skip
        subject = of_bundle(model, batch, seq, past, threads)
        place = _place(output, subject.chip)
    else:
        place = _place(output, Chip.of(this_machine(target)))
        subject = of_model(
            model, batch=batch, seq=seq, phase=phase, past=past, task=task, precision=precision, threads=threads,
            target=target, backend=backend, progress=progress,
        )  # fmt: skip
    made = builders(workers)
    try:
        with tempfile.TemporaryDirectory(prefix="tundish-tune-") as folder:
            tuner = Tuner(subject, place, Path(folder), made, ring, deadline, progress)
            return tuner.run()
    finally:
        made.close()


def _place(output: str | Path | None, chip: Chip) -> Path:
    """The table's file. Raises: LoadError where something else is there; TundishError where none is named."""
    place = Path(output) if output is not None else default_place(chip)
    if place is None:
        raise TundishError(f"{PLACE} says that there is no table", hint="name a file with -o")
    if place.exists():
        check_chip(place, read_table(place), chip)
    return place


def _refuse_for_bundles(**given: object) -> None:
    named = [f"--{name}" for name, value in given.items() if value]
    if named:
        raise TundishError(f"a bundle has its {named[0][2:]} already", found=named[0], hint="tune the model")


def seconds(text: str | float) -> float:
    """`90`, `90s`, `5min` or `1.5h` in seconds. Raises: TundishError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", str(text).strip().lower())
    if match is None or match[2] not in _UNITS_S:
        raise TundishError("--budget takes a time such as 90s, 5min or 1h", found=str(text)[:80])
    return float(match[1]) * _UNITS_S[match[2]]


def is_bundle(model: Any) -> bool:
    """Whether it is the folder of a bundle."""
    return isinstance(model, Bundle) or (isinstance(model, (str, Path)) and (Path(model) / MANIFEST).is_file())


def of_bundle(model: Any, batch: int, seq: int | None, past: int | None, threads: int | None) -> Subject:
    """A bundle as it is: only what is set when it is opened can be chosen. Raises: LoadError, TundishError."""
    bundle = model if isinstance(model, Bundle) else open_bundle(Path(model))
    m = bundle.manifest
    machine, engine = this_machine(m.target), get(m.backend)
    key = m.info.get("model")
    if not isinstance(key, str):
        raise TundishError(f"{m.name} does not say what it was compiled from", hint="compile it again")
    signature = next(iter(bundle.entries.values()))
    sizes = single_sizes(signature.ranges, str(m.info.get("phase", "prefill")), batch, seq, past)
    runs = engine.capabilities(machine).runs

    def picks(table: Table) -> tuple[Pick, ...]:
        return tuple(table.pick(choice, WHOLE, key, m.dtype) for choice in runs)

    return Subject(
        m.name, key, sizes, m.dtype, threads, engine_of(m.backend, engine.versions()), Chip.of(machine),
        _drawn(signature, sizes), picks, bundle=bundle.path,
    )  # fmt: skip


def of_model(
    model: Any, *, batch: int, seq: int | None, phase: str, past: int | None, task: str | None, precision: str,
    threads: int | None, target: str, backend: str, progress: Progress,
) -> Subject:  # fmt: skip
    """A model: all that the compiler chooses for it. Raises: CaptureError, CompileError."""
    Asked(seq=seq, phase=phase, past=past).check()
    (machine, engine), dtype = builder(target, backend, precision), PRECISIONS[precision]
    work = Work(model, Asked(task, phase=phase, **single_spans(batch, seq, past)), progress)
    program, name, key = work.program, work.name, model_key(work.program)
    sizes = single_sizes(program.symbols, phase, batch, seq, past)
    request = Task(machine, engine.capabilities(machine), Precision(weights=dtype, compute=dtype), program.symbols,
                   model=key)  # fmt: skip

    def picks(table: Table) -> tuple[Pick, ...]:
        return compile_program(program, replace(request, tuning=table)).picks

    inputs = _inputs(work, request, sizes)
    cases: Named = [("the size that is tuned for", inputs), *_small(work.cases())]
    blank = Job("", "", "", backend, target, dtype, key)
    timed = timer(compile_program(program, request), request.capabilities.alone, sizes, engine,
                  threads or machine.cores) if request.capabilities.alone else None  # fmt: skip
    return Subject(
        name, key, sizes, dtype, threads, engine_of(backend, engine.versions()), Chip.of(machine), inputs, picks,
        prepare=lambda folder, default, builders: _prepare(program, blank, cases, folder, default, builders),
        alone=timed,
    )  # fmt: skip


def _prepare(program: Program, blank: Job, cases: Named, folder: Path, default: Path, builders: Builders) -> Job:
    """Saves the program, builds the default and records its answers. Raises: BuildError."""
    from .ir.save import save

    place, known, token = folder / "program", folder / "cases", f"token-{uuid.uuid4().hex}"
    save(program, place)
    (place / token).touch()
    job = replace(blank, program=str(place), token=token)
    (outcome,) = builders.build_all([replace(job, out=str(default))])
    if outcome.problem:
        raise BuildError(f"the default cannot be built: {outcome.problem}")
    known.mkdir()
    with open_bundle(default) as bundle:
        write_cases(known, record(bundle.run, cases, program, "the default"))
    return replace(job, cases=str(known))


def _inputs(work: Work, task: Task, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    from .models.cases import make

    if work.source is not None:
        return make(work.source, sizes.get("batch", 1), sizes.get(work.length, 1), np.random.default_rng(0))
    return _drawn(next(iter(signatures(compile_program(work.program, task)).values())), sizes)


def _drawn(signature: Signature, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    return random_inputs(replace(signature, symbols={n: (size, size) for n, size in sizes.items()}))


def _small(cases: Named) -> Named:
    def positions(arrays: Mapping[str, np.ndarray]) -> int:
        return max((int(np.prod(a.shape[:2])) for a in arrays.values()), default=0)

    return [(name, arrays) for name, arrays in cases if positions(arrays) <= _MOST_POSITIONS]
