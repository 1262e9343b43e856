"""From a captured model to a bundle, by one backend or by the fastest of those that can."""

from __future__ import annotations

import json
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .backends.bundle import Bundle, check_place, write_bundle
from .choosing import fastest
from .compiler.experts.routing import check_routing, read_routing
from .compiler.plan import Plan
from .ir.diagnostics import CheckError, CompileError, RunError, TundishError, ours
from .profiler.report.progress import Progress
from .weight_formats import policy, weights_held
from .work import PRECISIONS, Asked, Work, builder, generation_info, record_all

AUTO = "auto"
CANDIDATES = ("tvm", "onnxruntime")  # what `auto` tries, in this order
NOTES = "notes.json"


@dataclass(frozen=True)
class Wish:
    """What is asked of the compiler, as `compile` says it."""

    precision: str = "fp32"
    weights: str | None = None
    task: str | None = None
    packed: bool = False
    print_after: str | None = None
    verified: bool = False
    tuning: str | Path | None = None
    routing: str | Path | None = None
    expert_memory_bytes: int | None = None


def compiled(
    model: Any, asked: Asked, wish: Wish, backend: str, target: str, output: str | Path | None, progress: Progress
) -> Bundle:
    """The bundle, in `output` or a temporary folder. What cannot be is refused before a model is opened.

    Raises: CaptureError, CompileError, BuildError.
    """
    builders, reasons = _builders(backend, target, wish)
    if output is not None:
        check_place(Path(output))
    work = Work(model, asked, progress)
    for one in builders:
        one.check(work)
    if work.source is not None:
        progress("asking the original model", 0.4)
    cases = record_all(work)
    if backend != AUTO:
        return builders[0].bundle(work, cases, output, progress)
    if len(builders) == 1 and target != "cpu":  # what is made for another machine need not run on this one
        why = f"{builders[0].backend} was taken: nothing else builds for {target}"
        return builders[0].bundle(work, cases, output, progress, notes=(why, *(f"not tried: {r}" for r in reasons)))
    made, failed = _all(builders, work, cases, progress)
    if not made:
        raise failed[0]
    reasons += [f"{one.backend}: {error.problem}" for one, error in zip(_others(builders, made), failed, strict=True)]
    progress("measuring which is the fastest", 0.8)
    chosen, why = fastest({b.backend: bundle for b, bundle in made.items()})
    winner = next(b for b in made if b.backend == chosen)
    return winner.bundle(work, cases, output, progress, notes=(why, *(f"not tried: {r}" for r in reasons)))


def _builders(backend: str, target: str, wish: Wish) -> tuple[list[Builder], list[str]]:
    """One of the backend; of `auto` one of each candidate, and why others are none.

    Raises: TundishError where there is none at all."""
    if backend != AUTO:
        return [Builder(backend, target, wish)], []
    found, reasons, errors = list[Builder](), list[str](), list[TundishError]()
    for name in CANDIDATES:
        try:
            found.append(Builder(name, target, wish, only=False))
        except TundishError as error:
            reasons.append(f"{name}: {error.problem}")
            errors.append(error)
    if not found:
        raise errors[0]
    return found, reasons


def _all(builders: Sequence[Builder], work: Work, cases: Any, progress: Progress) -> tuple[Any, list[TundishError]]:
    """Each candidate's bundle, its answers held against the original's; and what went wrong with the others."""
    made, failed = dict[Builder, Bundle](), list[TundishError]()
    for one in builders:
        try:
            made[one] = one.bundle(work, cases, None, progress, verified=True)
        except TundishError as error:
            failed.append(error)
    return made, failed


def _others(builders: Sequence[Builder], made: Any) -> list[Builder]:
    return [b for b in builders if b not in made]


class Builder:
    """A backend and what it is to build for. only: no other one compiles.

    Raises: CompileError, LoadError, BuildError."""

    def __init__(self, backend: str, target: str, wish: Wish, *, only: bool = True) -> None:
        from .compiler.driver import pass_names
        from .compiler.passes.precision import check_precision
        from .compiler.passes.quantize import check_blocks
        from .compiler.tuning_file import choose_table, engine_of

        self.backend, self.wish = backend, wish
        self.machine, self.engine = builder(target, backend, wish.precision)
        self.policy = policy(wish.precision, wish.weights)
        if wish.print_after and wish.print_after not in pass_names():
            hint = f"the passes are {', '.join(pass_names())}"
            raise CompileError(f"there is no pass {wish.print_after!r}", hint=hint)
        self.engine.ready(self.machine)
        self.capabilities = self.engine.capabilities(self.machine)
        check_precision(self.capabilities, self.policy)
        check_blocks(self.capabilities, self.policy)
        self.tuning = choose_table(wish.tuning, self.machine, engine_of(backend, self.engine.versions()), only=only)
        self.routing = None if wish.routing is None else read_routing(Path(wish.routing))

    def check(self, work: Work) -> None:
        """Raises: LoadError where the routing is another model's."""
        if self.routing is not None:
            check_routing(self.routing, work.program, work.name)

    def bundle(
        self, work: Work, cases: Any, output: str | Path | None, progress: Progress, *, verified: bool = False,
        notes: Sequence[str] = (),
    ) -> Bundle:  # fmt: skip
        """Optimised, built and written. verified: its answers must be the original's. notes: to stand in it."""
        from .ir.text import to_text
        from .profiler.parity import check

        wish, plan = self.wish, self._plan(work, progress)
        folder, finalize = (Path(output), None) if output is not None else _temporary(work.name)
        told = {"precision": wish.precision, "dtype": PRECISIONS[wish.precision], "task": wish.task,
                "packed": wish.packed, "tuning": self.tuning.info, "model": self._key(work),
                **({"routing": f"of {self.routing.tokens} tokens: {self.routing.of}"} if self.routing else {}),
                "notes": [*work.notes, *([self.tuning.note] if self.tuning.note else []), *notes],
                "weights": weights_held(plan, work.program, wish.precision, wish.weights, work.buffers)}  # fmt: skip
        stage = f"writing the bundle of {self.backend}"
        progress(stage, 0.8)
        with ours(lambda: to_text(plan.program), CheckError, RunError):
            made = write_bundle(
                folder, plan, self.engine, name=work.name, cases=cases,
                extra_files=[*work.files.items(), _notes(plan)],
                info={**told, "memory": _memory(plan), "fixed": work.settled, "phase": work.phase,
                      **generation_info(work, plan)},
                check=(lambda new: check(new, new.manifest.judged)) if verified or wish.verified else None,
                progress=lambda what, done, of: progress(f"{stage}: {what}", 0.8 + 0.15 * done / max(1, of)),
            )  # fmt: skip
        if finalize is not None:
            weakref.finalize(made, finalize)
        progress("done", 1.0)
        return made

    def _plan(self, work: Work, progress: Progress) -> Plan:
        from .compiler.driver import compile_program
        from .compiler.task import Task

        shown = (self.wish.print_after,) if self.wish.print_after else ()
        task = Task(self.machine, self.capabilities, self.policy, work.program.symbols, tuning=self.tuning.table,
                    model=self._key(work), routing=self.routing,
                    expert_memory_bytes=self.wish.expert_memory_bytes)  # fmt: skip
        return compile_program(work.program, task, print_after=shown,
                               on_pass=lambda name, i, n: progress("optimising", 0.55 + 0.2 * i / n))  # fmt: skip

    def _key(self, work: Work) -> str:
        from .compiler.tuning import model_key

        return model_key(work.program)


def _notes(plan: Plan) -> tuple[str, bytes]:
    """What the passes said, as a file of the bundle."""
    rows = [
        {"pass": n.pass_name, "what": n.text, "where": n.where.spoken if n.where else "", "times": n.times}
        for n in plan.notes
    ]
    return NOTES, (json.dumps(rows, indent=1) + "\n").encode()


def _memory(plan: Plan) -> dict[str, int]:
    """What the plan predicts for a run at the largest sizes, in bytes."""
    decision = plan.decisions.get("memory", {})
    return {k: int(v) for k, v in decision.items() if k.endswith("_bytes")}


def _temporary(name: str) -> tuple[Path, Callable[[], None]]:
    """A bundle folder that lives as long as its Bundle."""
    folder = tempfile.TemporaryDirectory(prefix="tundish-")
    return Path(folder.name) / f"{Path(name).name}.tundish", folder.cleanup
