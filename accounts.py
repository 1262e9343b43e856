"""A model accounted for in each of its phases: opened once, captured once for each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .ir.diagnostics import CaptureError
from .ir.dims import Range
from .profiler.account import account, activation_peak_bytes
from .profiler.report.progress import Progress
from .work import DEFAULT_BATCH, DEFAULT_SEQ, PHASES, Asked, Work, after_passes, saved_program, step_of

LENGTH = 128  # of a text, or of the past, where none is given
UNFUSED = "bytes are those before fusion: every op reads its inputs from memory and writes its outputs back"


def account_phases(model: Any, asked: Asked, phase: str | None, symbolic: bool, progress: Progress) -> dict[str, Any]:
    """The account of one phase, or of both where none is given and the model decodes; see `measuring.account`.

    asked: batch, seq and past are single sizes here, or None.
    """
    saved = saved_program(model)
    first = phase or ("decode" if saved is not None and "past" in saved[1].symbols else "prefill")
    work = Work(model, _ranges(asked, first, given=phase is not None), progress)
    found = _phase(work, asked, symbolic)
    rows, notes = [_summary(found)], [UNFUSED, *work.notes]
    if phase is None and work.source is not None:
        try:
            step = Work(model, _ranges(asked, "decode", given=False), progress, step_of(work.source))
            rows.append(_summary(_phase(step, asked, symbolic)))
            notes += [n for n in step.notes if n not in notes]
        except CaptureError as error:
            notes.append(f"no decode phase: {error.problem}")
    return {**found, "by_phase": rows, "notes": notes}


def _ranges(asked: Asked, phase: str, given: bool) -> Asked:
    """What to capture for these sizes. A length of another phase is refused only where the phase was given."""
    one = replace(asked, batch=_beyond(asked.batch, DEFAULT_BATCH), seq=_beyond(asked.seq, DEFAULT_SEQ),
                  past=_beyond(asked.past, DEFAULT_SEQ), phase=phase, shapes=True)  # fmt: skip
    if given:
        replace(asked, phase=phase).check()
        return one
    return replace(one, **{length: None for name, length in PHASES.items() if name != phase})


def _beyond(size: Any, default: Range) -> str | None:
    """The range to capture for a size that the default range does not hold."""
    return None if size is None or size in default or size < 1 else f"1..{size}"


def _phase(work: Work, asked: Asked, symbolic: bool) -> dict[str, Any]:
    given = {"batch": asked.batch, work.length: replace(asked, phase=work.phase).length[1]}
    limit = work.program.symbols.get(work.length, DEFAULT_SEQ).high
    usual = {"batch": 1, "past": min(asked.seq or LENGTH, limit or LENGTH)} if work.length == "past" else {"batch": 1}
    length = min(LENGTH, limit or LENGTH)
    named = {n: given.get(n if n in given else work.length) for n in work.program.symbols}
    full = {n: size if size is not None else usual.get(n, length) for n, size in named.items()}
    sizes = {n: s for n, s in named.items() if s is not None} if symbolic else full
    raised = after_passes(work.program, "reference")
    buffers = work.source.buffers() if work.source is not None else frozenset()
    counted = account(raised, sizes, buffers=buffers, captured=work.program, kept=_kept(work), symbolic=symbolic)
    rows = counted.to_json()
    tables = {name: rows.pop(name) for name in ("by_module", "by_op")}
    return {
        "model": work.name, "phase": work.phase, "sizes": {n: sizes.get(n, n) for n in full}, **rows,
        "activation_peak_bytes": activation_peak_bytes(raised, full), "activation_peak_at": full, **tables,
    }  # fmt: skip


def _kept(work: Work) -> dict[int, int] | None:
    """What the model keeps of a token, where it can be asked; a decode step says it by its inputs."""
    from .models.decoding import kept_bytes
    from .models.errors import ModelError

    if work.source is None or work.phase == "decode":
        return None
    try:
        return kept_bytes(work.source)
    except ModelError:  # it does not decode
        return None


def _summary(found: dict[str, Any]) -> dict[str, Any]:
    """One phase in a row."""
    keys = ("phase", "sizes", "flops", "hardware_flops", "read_bytes", "written_bytes", "intensity")
    kept = found["kv_cache"]
    return {
        **{k: found[k] for k in keys}, "kv_cache_bytes": kept["bytes"] if kept else 0,
        "activation_peak_bytes": found["activation_peak_bytes"], "activation_peak_at": found["activation_peak_at"],
    }  # fmt: skip
