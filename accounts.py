"""A model accounted for in each of its phases: opened once, captured once for each."""

from __future__ import annotations

from typing import Any

from .compiler.passes.memory import weights_bytes
from .compiler.task import Precision
from .ir.diagnostics import CaptureError
from .originals import step_of
from .profiler.account import account, activation_peak_bytes
from .profiler.report.progress import Progress
from .weight_formats import policy
from .work import PHASES, RUNS, USUAL_LENGTH, Asked, Work, after_passes, saved_program, single_sizes, single_spans

UNFUSED = "bytes are those before fusion: every op reads its inputs from memory and writes its outputs back"


def account_phases(
    model: Any, task: str | None, sizes: dict[str, int | None], phase: str | None, symbolic: bool, progress: Progress,
    weights: str | None = None,
) -> dict[str, Any]:
    """The account of one phase, or of both where none is given and the model decodes; see `measuring.account`.

    sizes: batch, seq and past, each a size or None. Raises: TundishError on a length that no phase of the model has.
    """
    held = policy("fp32", weights)
    saved = saved_program(model)
    only = phase or (None if saved is None else "decode" if "past" in saved[1].symbols else "prefill")
    work = Work(model, _asked(task, sizes, only or "prefill", given=only is not None), progress)
    found = _phase(work, sizes, symbolic, held)
    rows, notes = [_summary(found)], [UNFUSED, *work.notes]
    if sizes["seq"] is not None and not work.program.symbols.keys() - {"batch", "past"}:
        notes.append("the length is settled by the model: --seq changes nothing")
    if only is None:
        try:
            asked = _asked(task, sizes, "decode", given=False)
            step = Work(model, asked, progress, step_of(work.source))
        except CaptureError as error:
            if sizes["past"] is not None:
                raise
            notes.append(f"no decode phase: {error.problem}")
        else:
            rows.append(_summary(_phase(step, sizes, symbolic, held)))
            notes += [n for n in step.notes if n not in notes]
    return {**found, "by_phase": rows, "notes": notes}


def _asked(task: str | None, sizes: dict[str, int | None], phase: str, given: bool) -> Asked:
    """What to capture. given: there is only this phase, so that a length of the other is refused."""
    if given:
        Asked(phase=phase, seq=sizes["seq"], past=sizes["past"]).check(RUNS)
    return Asked(task, **single_spans(**_own(sizes, phase)), phase=phase, shapes=True)


def _own(sizes: dict[str, int | None], phase: str) -> dict[str, int | None]:
    """The sizes that a phase has: rows, and its own length."""
    return {"batch": sizes["batch"], PHASES[phase]: sizes[PHASES[phase]]}


def _phase(work: Work, sizes: dict[str, int | None], symbolic: bool, held: Precision) -> dict[str, Any]:
    own, spans = _own(sizes, work.phase), work.program.symbols
    given = {n for n in spans if own["batch" if n == "batch" else work.length] is not None}
    if work.phase == "decode" and own["past"] is None:  # as long as the text
        longest = spans["past"].high
        text = sizes["seq"] or USUAL_LENGTH
        own["past"] = text if longest is None else min(text, longest)
    full = single_sizes(spans, work.phase, **own)
    bound = {n: size for n, size in full.items() if n in given or not symbolic}
    raised = after_passes(work.program, "reference", held)
    counted = account(raised, bound, buffers=work.buffers, captured=work.program, kept=_kept(work), symbolic=symbolic)
    rows = counted.to_json()
    if held != Precision():
        rows["weights_bytes"] = weights_bytes(raised)
    tables = {name: rows.pop(name) for name in ("by_module", "by_op")}
    return {
        "model": work.name, "phase": work.phase, "sizes": {n: bound.get(n, n) for n in full}, **rows,
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
