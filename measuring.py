"""The verbs that give numbers: one short function each, as in `api`, which offers them too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .ir.diagnostics import CaptureError, TundishError
from .ir.dims import Range
from .profiler.report.progress import Progress, silent
from .work import DEFAULT_BATCH, DEFAULT_SEQ, Asked, Work, after_passes, open_source

SEQ = 128  # the sequence length that is taken when none is given


def account(
    model: Any, *, batch: int = 1, seq: int | None = None, phase: str = "prefill", past: int | None = None,
    task: str | None = None, progress: Progress = silent,
) -> dict[str, Any]:  # fmt: skip
    """Parameters, FLOPs and bytes, exact, by module and op, at one batch and sequence length.

    seq: 128 by default, or what the model can take where that is less; `past` likewise, in the phase `decode`.
    Counted on the captured program with norms, attention and activations raised to single ops, before fusion.
    """
    from .profiler.account import account as count

    asked = Asked(task, _beyond(batch, DEFAULT_BATCH), _beyond(seq, DEFAULT_SEQ), phase=phase,
                  past=_beyond(past, DEFAULT_SEQ))  # fmt: skip
    work = Work(model, asked, progress)
    buffers = work.source.buffers() if work.source is not None else frozenset()
    longest = work.program.symbols.get(work.length, DEFAULT_SEQ).high
    given = past if phase == "decode" else seq
    length = min(SEQ, longest or SEQ) if given is None else given
    sizes = {name: batch if name == "batch" else length for name in work.program.symbols}
    raised = after_passes(work.program, "reference")
    return count(raised, sizes, buffers=buffers, captured=work.program).to_json()


def bench(
    model: Any = None, *, peers: list[str] | None = None, batch: int = 1, seq: int | None = None, rounds: int = 15,
    threads: int | None = None, write: str | Path | None = None, progress: Progress = silent,
) -> dict[str, Any]:  # fmt: skip
    """Times our bundle against its peers, interleaved, each in a process of its own; rows with ratios.

    model: a path or name, or None for the workloads of docs/benchmarks.md. seq: 128, or what the model can take.
    write: the markdown file to rewrite.
    """
    from .models.cases import make
    from .profiler.benchmarks import WORKLOADS, write_tables
    from .profiler.compare import check_peers, compare_peers

    check_peers(peers)
    if not isinstance(model, (str, Path, type(None))):
        raise TundishError("each competitor loads the model itself, so it must have a name",
                           found=type(model).__name__, hint="give a path, a name, or file.py:factory")  # fmt: skip
    handed = {
        "compile": f"{__package__}.api:compile", "loader": f"{__package__}.models.open:open_model",
        "inputs_maker": f"{__package__}.models.cases:make",
    }  # fmt: skip
    results = []
    for name, rows, length in WORKLOADS if model is None else [(str(model), batch, seq)]:
        progress(f"{name}: loading the model", 0.0)
        source = open_source(name, Asked())
        longest = source.max_seq or length or SEQ
        length = length or min(SEQ, longest)
        if length > longest:
            raise CaptureError(f"{name} takes at most {longest} positions", found=f"--seq {length}")
        sizes = {"batch": _beyond(rows, DEFAULT_BATCH), "seq": _beyond(length, DEFAULT_SEQ), "form": source.form}
        results.append(
            compare_peers(
                name, make(source, rows, length, np.random.default_rng(0)), {**handed, **sizes}, peers=peers,
                rounds=rounds, threads=threads, say=_saying(progress, name),
            )
        )
        del source
    if write is not None:
        write_tables(Path(write), results)
    return {"rows": [{"model": r["model"], **row} for r in results for row in r["rows"]]}


def _saying(progress: Progress, name: str) -> Callable[[str], None]:
    return lambda text: progress(f"{name}: {text}", 0.0)


def _beyond(size: int | None, default: Range) -> str | None:
    """The range to capture for a size that the default range does not hold."""
    return None if size is None or size in default or size < 1 else f"1..{size}"
