"""A model on its way into the compiler: opened, captured, and able to answer as the original does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .backends.bundle import FORWARD
from .backends.cases import Case, Cases
from .backends.generation.generator import WHY_NOT
from .backends.generation.session import STEP
from .ir.diagnostics import CaptureError, CompileError, RunError, TundishError
from .ir.dims import Range
from .ir.graph import Program
from .ir.join import join
from .originals import answers_of, captured, open_source
from .profiler.report.progress import Progress
from .steps import Step

if TYPE_CHECKING:
    from .backends.base import Backend
    from .compiler.hardware.machine import Machine
    from .compiler.plan import Plan

DEFAULT_BATCH, DEFAULT_SEQ = Range(1, 8), Range(1, 512)
USUAL_LENGTH = 128  # tokens of a run, where none are asked for
# phase -> the length that varies in it
PHASES = {"generate": "seq", "prefill": "seq", "decode": "past"}
RUNS = ("prefill", "decode")  # the phases that are one run of one entry
PRECISIONS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
Span = Range | str | int | None


@dataclass(frozen=True)
class Asked:
    """How a user wants a model opened and captured.

    task:       the head, in a transformers pipeline's words. batch, seq: sizes to allow, None for the usual ones.
    inputs:     sample tensors of a torch module.
    fixed:      inputs settled now, by name: an array, a .npy file, or `1,2,3`.
    packed:     rows hold several texts end to end; `position_ids` in place of a mask.
    shapes:     only looked at: opened without its weights where that can be.
    phase:      `generate`: the whole model, and a decoder's step beside it; `prefill`: the whole model alone; `decode`:
                one token a row, against the keys and values of `past` tokens before it, concatenated.
    past:       sizes to allow, None for as many as `seq` would have.
    """

    task: str | None = None
    batch: Span = None
    seq: Span = None
    inputs: Mapping[str, Any] | None = None
    fixed: Mapping[str, Any] | None = None
    packed: bool = False
    phase: str = "prefill"
    past: Span = None
    shapes: bool = False

    @property
    def length(self) -> tuple[str, Span]:
        """The length that varies in this phase, and the sizes asked for."""
        name = PHASES[self.phase]
        return name, self.past if name == "past" else self.seq

    def check(self, phases: Iterable[str] = PHASES) -> None:
        """Raises: TundishError where the phase is none of these, or a length is given that it does not have."""
        if self.phase not in phases:
            raise TundishError(f"there is no phase {self.phase!r}", hint=f"one of {', '.join(phases)}")
        if self.phase != "decode" and self.past is not None:
            raise TundishError("a prefill has no past", found=f"--past {self.past}", hint="add --phase decode")
        if self.phase == "decode" and self.seq not in (None, 1, "1", "1..1", Range(1, 1)):
            raise TundishError("a decode step takes one token a row", found=f"--seq {self.seq}",
                               hint="--past says how many tokens stand before it")  # fmt: skip


class Work:
    """A model on its way into the compiler: captured once, and able to answer as the original does."""

    def __init__(self, model: Any, asked: Asked, progress: Progress, source: Any = None) -> None:
        """source: the model, where it is opened already."""
        asked.check()
        self.phase = "prefill" if asked.phase == "generate" else asked.phase  # of the first entry
        self.length, span = asked.length
        rows = as_range("batch", asked.batch, DEFAULT_BATCH)
        self.ranges = {"batch": rows, self.length: as_range(self.length, span, DEFAULT_SEQ)}
        self.source: Any = None
        self.notes: tuple[str, ...] = ()
        self.step: Step | None = None
        if str(model) == "":
            raise CaptureError("no model is named")
        saved = saved_program(model)
        if saved is not None:
            self.name, program = saved
            self.program = _narrowed(program, asked)
            self.notes = ("from a captured graph, without answers of an original model to verify by",)
            return
        if source is None:
            progress("loading the model", 0.0)
            source = open_source(model, asked)
        self.source = source
        self.name, self.notes = self.source.name, tuple(self.source.notes)
        self._limit_length(asked=span is not None)
        lengths = {d for axes in self.source.axes().values() for d in axes.values() if d.isidentifier()}
        self.ranges |= {name: self.ranges[self.length] for name in lengths - set(self.ranges)}
        self._keep_within({"batch": asked.batch, self.length: span})
        progress("capturing", 0.25)
        self.program = captured(self.source, self.ranges)
        self.notes += _narrower(self.ranges, self.program.symbols)
        self.step = self._stepping(progress) if asked.phase == "generate" and self.source.form == "torch" else None
        if self.step is not None:
            beside = {name: entry.program for name, entry in self.step.entries.items()}
            self.program = join({FORWARD: self.program, **beside})
        if self.source.quantized:
            self._hold_quantized()

    def _stepping(self, progress: Progress) -> Step | None:
        """The step of a model that generates; None, and a note where it might be expected, for others."""
        from .models.decoding import generates

        if not generates(self.source) or self.source.depths or any(self.source.fixed):
            return None
        progress("capturing the step", 0.33)
        try:
            step = Step(self.source, self.ranges["batch"], self.program.symbols.get("seq", self.ranges["seq"]))
            self.notes += step.notes
            return step
        except CaptureError as error:
            self.notes += (f"{WHY_NOT}: {error.problem}",)
            return None

    def _hold_quantized(self) -> None:
        """The weights that lie quantised in the user's file enter as they are."""
        from .ir.capture.quantized import hold_quantized

        self.program, notes = hold_quantized(self.program, self.source.quantized)
        self.notes += notes

    def _limit_length(self, asked: bool) -> None:
        """No longer than the model's positions allow. Raises: CaptureError where more was asked for."""
        longest, span = self.source.max_seq, self.ranges[self.length]
        if longest is None or (span.high is not None and span.high <= longest):
            return
        if asked and (span.high is not None or span.low > longest):
            of = "positions" if self.length == "seq" else "positions before the new one"
            raise CaptureError(f"{self.name} takes at most {longest} {of}", found=f"--{self.length} {span}")
        self.ranges[self.length] = Range(span.low, longest)

    def _keep_within(self, asked: Mapping[str, Span]) -> None:
        """No other sizes than the model's file allows. Raises: CaptureError where others were asked for."""
        for name, (low, high) in self.source.spans.items():
            span = self.ranges[name]
            highs = [h for h in (high, span.high) if h is not None]
            met = Range(max(low, span.low), min(highs, default=None))
            if met != span and (asked.get(name) is not None or (met.high is not None and met.high < met.low)):
                raise CaptureError(f"{self.name} takes {name} {Range(low, high)}", found=f"{name} {span}")
            self.ranges[name] = met

    @property
    def origin(self) -> str:
        """Who answers the cases."""
        return "tundish numpy evaluator" if self.source is None else self.source.origin

    @property
    def settled(self) -> dict[str, list[Any]]:
        """The inputs that were fixed, as the manifest holds them."""
        return {} if self.source is None else {name: array.tolist() for name, array in self.source.fixed.items()}

    @cached_property
    def files(self) -> Mapping[str, bytes]:
        """What a bundle needs to turn text into ids, and the configs by which others' loaders know the model."""
        from .models.config_file import config_files

        return {} if self.source is None else {**config_files(self.source), **self.source.tokenizer_files()}

    @property
    def buffers(self) -> frozenset[str]:
        """Weights that are no parameters: tables of positions and frequencies."""
        return frozenset() if self.source is None else self.source.buffers()

    def call(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        if self.source is not None:
            return answers_of(self.source, inputs)
        from .ir.evaluate import evaluate

        return evaluate(self.program, inputs)

    @property
    def exact(self) -> Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] | None:
        """The original in double precision, or None where there is no original."""
        return None if self.source is None else self.source.exact

    def cases(self) -> list[tuple[str, dict[str, np.ndarray]]]:
        """Seeded inputs within the compiled sizes; a saved graph has no original to ask."""
        if self.source is None:
            return []
        from .models.cases import cases
        from .models.text_cases import text_cases

        spans = [self._span("batch", DEFAULT_BATCH), self._span(self.length, DEFAULT_SEQ)]
        made = (*cases(self.source, *spans), *text_cases(self.source, self.files, *spans))
        return [(c.name, c.inputs) for c in made]

    def _span(self, name: str, default: Range) -> tuple[int, int]:
        """The sizes of cases: as asked for, and what tracing has found that all lengths can be."""
        asked = self.ranges[name]
        found = [r for n, r in self.program.symbols.items() if (n == "batch") == (name == "batch")]
        low = max([asked.low, *(r.low for r in found)])
        high = asked.high if asked.high is not None else default.high or low
        return low, max(low, min([high, *(r.high for r in found if r.high is not None)]))


def generation_info(work: Work, plan: Plan) -> dict[str, Any]:
    """What a bundle says of generation: `Step.info`, and the longest text of one row that fits beside the weights."""
    if work.step is None:
        return {}
    room = plan.decisions["memory"]["caches"][STEP]
    longest = work.step.context if room.longest is None else room.longest
    return {"generation": {**work.step.info, "longest_context": longest}}


def record_all(work: Work, stored: Sequence[Case] = ()) -> Cases:
    """What the original answers to the cases of every entry; to those `stored` where there are any."""
    from .profiler.parity import record

    def asked(entry: str, own: Any) -> list[tuple[str, Mapping[str, np.ndarray]]]:
        return [(c.name, c.inputs) for c in stored if c.entry == entry] or own.cases()

    first = work.program.entries[0]
    made = record(work.call, asked(first, work), work.program, work.origin, work.exact)
    if work.step is None:
        return made
    found = list(made.cases)
    for name, entry in work.step.entries.items():
        found += record(entry.call, asked(name, entry), work.program, work.origin, entry.exact, name).cases
    return Cases(made.origin, tuple(found))


def _narrower(wanted: Mapping[str, Range], found: Mapping[str, Range]) -> tuple[str, ...]:
    """A note for each size of which the model takes less than was wanted."""
    return tuple(
        f"{name} is {found[name]} and not {span}: the model's code goes another way at other sizes"
        for name, span in wanted.items()
        if name in found and found[name] != span
    )


def after_passes(program: Program, backend: str, precision: Any = None) -> Program:
    """After all passes for a backend, on a machine of any memory; the reference takes every op and fuses none.

    precision: a compiler.task.Precision; fp32 when None.
    """
    from .backends.registry import get
    from .compiler.driver import compile_program
    from .compiler.hardware.machine import this_machine
    from .compiler.task import Precision, Task

    machine = replace(this_machine(), memory_bytes=sys.maxsize)  # nothing is run
    task = Task(machine, get(backend).capabilities(machine), precision or Precision(), program.symbols)
    return compile_program(program, task).program


def builder(target: str, backend: str, precision: str) -> tuple[Machine, Backend]:
    """The machine to build for, and who builds.

    Raises: CompileError on a word that names nothing here, or a target that this machine lacks something for.
    """
    from .backends.doctor import target_rows
    from .backends.registry import get
    from .compiler.hardware.machine import this_machine

    if precision not in PRECISIONS:
        raise CompileError(f"there is no precision {precision!r}", hint=f"one of {', '.join(PRECISIONS)}")
    machine, engine = this_machine(target), get(backend)
    targets = engine.capabilities(machine).targets
    if target not in targets:
        hint = f"{backend} builds for {', '.join(sorted(targets))}"
        raise CompileError(f"there is no target {target!r} with this backend", hint=hint)
    for row in target_rows() if target != "cpu" else ():  # which is always there
        if (row["target"], row["backend"]) == (target, backend) and not row["usable"]:
            raise CompileError(f"target {target!r} is not usable here: {row['about']}", hint="see `tundish targets`")
    return machine, engine


def saved_program(model: Any) -> tuple[str, Program] | None:
    if isinstance(model, Program):
        return "program", model
    if isinstance(model, (str, Path)) and (Path(model) / "program.txt").is_file():
        from .ir.save import load as load_program

        return Path(model).stem, load_program(Path(model))
    return None


def _narrowed(program: Program, asked: Asked) -> Program:
    """A captured graph for the sizes asked for, which must be among its own. Raises: CaptureError."""
    if asked.task is not None:
        raise CaptureError("a captured graph has its head already", found=f"--task {asked.task}")
    if asked.fixed or asked.packed:
        raise CaptureError("a captured graph has its inputs already", hint="capture the model again")
    symbols = dict(program.symbols)
    if (asked.phase == "decode") != ("past" in symbols):
        raise CaptureError(f"the captured graph is no {asked.phase} step",
                           hint="capture the model again for this phase")  # fmt: skip
    for name, span in (("batch", asked.batch), asked.length):
        if span is None:
            continue
        known, wanted = symbols.get(name), as_range(name, span, DEFAULT_BATCH)
        if known is None:
            raise CaptureError(f"the captured graph has no size named {name}", hint=f"it has {', '.join(symbols)}")
        if wanted.high is None:
            wanted = Range(wanted.low, known.high)
        if wanted.low not in known or (wanted.high is not None and wanted.high not in known):
            raise CaptureError(f"the captured graph allows {name} {known}", found=f"--{name} {wanted}",
                               hint="capture it again for these sizes")  # fmt: skip
        symbols[name] = wanted
    return program.replace(symbols=symbols)


def as_range(name: str, asked: Span, default: Range) -> Range:
    """`4`, `1..8` or `1..` as a Range. Raises: TundishError."""
    if asked is None:
        return default
    if isinstance(asked, Range):
        return asked
    low, dots, high = str(asked).partition("..")
    try:
        first = int(low)
        last = int(high) if high else None if dots else first
        if first < 1 or (last is not None and last < first):
            raise ValueError
    except ValueError:
        raise TundishError(f"--{name} takes a size or a range such as 1..8, got {asked!r}") from None
    return Range(first, last)


def single_spans(batch: int | None = None, seq: int | None = None, past: int | None = None) -> dict[str, Any]:
    """What to capture for a run at single sizes: by name the range, None where the usual one holds the size."""
    given = {"batch": (batch, DEFAULT_BATCH), "seq": (seq, DEFAULT_SEQ), "past": (past, DEFAULT_SEQ)}
    return {n: None if x is None or x in usual or x < 1 else f"1..{x}" for n, (x, usual) in given.items()}


def single_sizes(
    ranges: Mapping[str, Range], phase: str, batch: int | None = None, seq: int | None = None, past: int | None = None
) -> dict[str, int]:
    """A size for each symbol of a graph: the one asked for, else 1 row and USUAL_LENGTH, or what is nearest to it.

    Raises: TundishError on a length that the phase does not have; RunError on a size out of range.
    """
    Asked(seq=seq, past=past, phase=phase).check()
    given = {"batch": batch, "seq": seq, "past": past}
    sizes = {}
    for name, span in ranges.items():
        option = "batch" if name == "batch" else PHASES[phase]
        size = given[option]
        if size is None:
            usual = 1 if name == "batch" else USUAL_LENGTH
            size = max(span.low, usual if span.high is None else min(usual, span.high))
        if size not in span:
            raise RunError(f"{name} is {size}, outside {span}", hint=f"choose --{option} within it")
        sizes[name] = size
    return sizes
