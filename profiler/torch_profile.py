"""A torch module's calls timed by torch.profiler, each at its module and source line, as the same table."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ..compiler.hardware.machine import this_machine
from ..ir.capture.places import model_frame
from ..ir.diagnostics import RunError, Where
from ..ir.graph import Program
from ..ir.tensor import Work
from ..ir.walk import walk
from .measure import check_asked, iqr, shared, source_of
from .profiles import NodeRow, Profile

_MARK = "tundish:"


@dataclass(frozen=True, slots=True)
class _Call:
    """One call into torch by Python code: torch's name for it, and its place, or None outside the module."""

    where: Where | None
    name: str


def measure_torch(
    run: Callable[[], object], module: Any, *, model: str, phase: str, sizes: Mapping[str, int],
    program: Program | None = None, warmup: int = 3, repeats: int = 15, threads: int | None = None,
    precision: str = "fp32",
) -> Profile:  # fmt: skip
    """Times each call into torch that the module's Python makes, in turns with runs without profiling.

    run: runs the module once. program: what was captured of it, whose FLOPs and bytes are told by place.
    A row is one call. What lies between calls (Python, modules, hooks) is unattributed.
    Raises: TundishError, RunError.
    """
    import torch

    check_asked(warmup, repeats)
    before = torch.get_num_threads()
    torch.set_num_threads(threads or this_machine().cores)
    try:
        calls = _learn(run, module)
        totals, profiled, spans = _timed(run, module, len(calls), warmup, repeats)
    finally:
        torch.set_num_threads(before)
    rows = _with_work(_rows(calls, spans, totals, profiled), {} if program is None else _work_by_place(program, sizes))
    total = float(np.median(totals)) * 1e3
    return Profile(
        model=model, backend="torch", target="cpu", machine=this_machine().name,
        date=datetime.now(UTC).isoformat(timespec="seconds"), phase=phase, precision=precision,
        threads=threads or this_machine().cores, sizes=sizes, warmup=warmup, repeats=repeats, total_ms=total,
        iqr_ms=iqr(np.asarray(totals)) * 1e3, profiled_ms=float(np.median(profiled)) * 1e3, predicted_ms=None,
        unattributed_ms=total - sum(r.measured_ms for r in rows), nodes=tuple(rows),
        peak_bytes={"measured": None, "predicted": None}, calibration="none: torch is not predicted",
        versions={"torch": torch.__version__}, time_scale=total / 1e3 / float(np.median(profiled)),
        notes=("a row is one call into torch, timed by torch.profiler; times are scaled to a run without profiling",
               *(() if program is None else ("FLOPs and bytes are the captured graph's at the same place",))),
    )  # fmt: skip


def _learn(run: Callable[[], object], module: Any) -> list[_Call]:
    """The calls of one run, in order, with their places; nothing is timed."""
    calls: list[_Call] = []
    with _modules(module) as stack, _calls(lambda f: calls.append(_Call(_place(stack), _name(f)))):
        run()
    if not calls:
        raise RunError("the module makes no call into torch")
    return calls


def _place(stack: Sequence[str]) -> Where | None:
    if not stack:
        return None
    file, line = model_frame("".join(traceback.format_stack()[:-3]))
    return Where(file, line, stack[-1])


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", function)).strip("_")


@contextmanager
def _modules(module: Any) -> Iterator[list[str]]:
    """The paths of the modules that are running, the innermost last."""
    from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

    paths = {id(m): name for name, m in module.named_modules()}
    stack: list[str] = []

    def enter(m: Any, args: Any) -> None:
        stack.append(paths.get(id(m), stack[-1] if stack else ""))

    def leave(m: Any, args: Any, out: Any) -> None:
        stack.pop()

    entered, left = register_module_forward_pre_hook(enter), register_module_forward_hook(leave)
    try:
        yield stack
    finally:
        entered.remove()
        left.remove()


@contextmanager
def _calls(seen: Callable[[Any], object], marked: bool = False) -> Iterator[None]:
    """Tells of each call that Python makes into torch; calls that such a call makes are its own."""
    from torch.overrides import TorchFunctionMode
    from torch.profiler import record_function

    class Mode(TorchFunctionMode):
        count = 0

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen(func)
            if not marked:
                return func(*args, **(kwargs or {}))
            with record_function(f"{_MARK}{self.count}"):
                self.count += 1
                return func(*args, **(kwargs or {}))

    with Mode():
        yield


_Spans = list[list[tuple[float, float, str]]]  # of each run and call: seconds since its start, seconds, the kernel


def _timed(
    run: Callable[[], object], module: Any, calls: int, warmup: int, repeats: int
) -> tuple[list[float], list[float], _Spans]:
    from torch.profiler import ProfilerActivity, profile

    totals, profiled, spans = [], [], []
    for i in range(warmup + repeats):
        started = time.perf_counter()
        run()
        total = time.perf_counter() - started
        with profile(activities=[ProfilerActivity.CPU]) as prof, _calls(lambda f: None, marked=True):
            started = time.perf_counter()
            run()
            seconds = time.perf_counter() - started
        if i >= warmup:
            totals.append(total)
            profiled.append(seconds)
            spans.append(_read(prof.events(), calls))
    return totals, profiled, spans


def _read(events: Any, calls: int) -> list[tuple[float, float, str]]:
    """One span for each call. Raises: RunError where the run made other calls than the first one."""
    marks = sorted((e for e in events if e.name.startswith(_MARK)), key=lambda e: e.time_range.start)
    if len(marks) != calls:
        raise RunError("the module makes other calls each time it runs", found=f"{len(marks)} and {calls}")
    first = marks[0].time_range.start
    return [((e.time_range.start - first) / 1e6, e.time_range.elapsed_us() / 1e6, _kernel(e)) for e in marks]


def _kernel(event: Any) -> str:
    """What torch ran: the call's own operators, the longest one's innermost with it."""
    inside = sorted(event.cpu_children, key=lambda e: -e.time_range.elapsed_us())
    if not inside:
        return ""
    deeper = sorted(inside[0].cpu_children, key=lambda e: -e.time_range.elapsed_us())
    return ">".join(e.name for e in (inside[0], *deeper[:1]))


def _rows(calls: list[_Call], spans: _Spans, totals: Sequence[float], profiled: Sequence[float]) -> list[NodeRow]:
    whole, total = np.asarray(profiled), float(np.median(totals))
    kept = {i: call.where for i, call in enumerate(calls) if call.where is not None}
    seconds = shared({str(i): np.array([run[i][1] for run in spans]) for i in kept}, whole, total)
    rows, seen = [], dict[str, int]()
    for i, where in kept.items():
        name = f"{where.module}/{calls[i].name}" if where.module else calls[i].name
        seen[name] = seen.get(name, 0) + 1
        start = float(np.median([run[i][0] for run in spans] / whole)) * total
        rows.append(
            NodeRow(
                name=f"{name}#{seen[name]}", op=calls[i].name, module=where.module, source=source_of(where),
                kernel=spans[0][i][2], start_ms=start * 1e3, measured_ms=float(np.median(seconds[str(i)])) * 1e3,
                iqr_ms=iqr(seconds[str(i)]) * 1e3,
            )
        )
    return rows


# -- what the calls do -----------------------------------------------------------------------------------


def _work_by_place(program: Program, sizes: Mapping[str, int]) -> dict[tuple[str, str], Work]:
    """(module, source) -> the work of all nodes there."""
    found: dict[tuple[str, str], Work] = {}
    for where, node in walk(program):
        if node.op.name not in ("weight", "constant", "dim_value"):
            place = where.module, source_of(where)
            work = node.op.work(node.output_types, node.input_types, node.attrs).at(sizes)
            found[place] = found.get(place, Work()) + work
    return found


def _with_work(rows: list[NodeRow], works: Mapping[tuple[str, str], Work]) -> list[NodeRow]:
    """Each place's work in its longest row: a line's work cannot be told apart further."""
    longest: dict[tuple[str, str], int] = {}
    for i, row in enumerate(rows):
        place = row.module, row.source
        if place not in longest or row.measured_ms > rows[longest[place]].measured_ms:
            longest[place] = i
    made = list(rows)
    for place, i in longest.items():
        work = works.get(place, Work())
        flops, hardware, read, written = (int(str(x)) for x in work.counts.values())
        made[i] = replace(made[i], flops=flops, hardware_flops=hardware, read_bytes=read, written_bytes=written)
    return made
