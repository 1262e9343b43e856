"""Our bundle against its peers: interleaved rounds in one run, one process and one thread pool each."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.bundle import open_bundle
from ..backends.manifest import MANIFEST
from ..compiler.hardware.machine import available_memory_bytes
from ..ir.diagnostics import TundishError
from .answers import ANSWER, Reference, difference, read_answer
from .ceilings import ceiling
from .counted import Counted, counted
from .host_lock import measuring_alone
from .peers import OURS, PEERS, cannot
from .report.table import size
from .rounds import Round, figures, race
from .workers import Worker

LIMIT_S = 1200.0  # for a competitor to compile, and again to open and answer once
_KEYS = ("name", "median_ms", "iqr_ms", "ratio", "clean_rounds", "max_abs_difference", "compile_s", "peak_bytes")


@dataclass(frozen=True, eq=False)
class Contest:
    """What is timed.

    model: as on the command line, "" where only the bundle is known. inputs: what every competitor runs on.
    job: what its processes are handed: "source", "plain", "samples" and "compile" as `module:function`, because this
    package imports no models; "options" for the first and the last; "form", what the model is (`torch`, `onnx`).
    wanted: what the original answers, None to hold all against ours. bundle: ours, where it is compiled already.
    dtype: what ours computes in. backend: which of ours is compiled.
    """

    model: str
    inputs: Mapping[str, np.ndarray]
    job: Mapping[str, Any]
    wanted: Reference | None = None
    bundle: Path | None = None
    dtype: str = "f32"
    backend: str = "onnxruntime"
    notes: list[str] = field(default_factory=list)

    def replace(self, **changes: Any) -> Contest:
        """A copy with some fields changed."""
        return replace(self, **changes)


@dataclass
class _Entrant:
    """A competitor on its way: why it cannot, or what it told."""

    name: str
    cannot: str = ""
    made: dict[str, Any] = field(default_factory=dict)
    worker: Worker | None = None
    ready: dict[str, Any] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)


def compare_peers(
    contest: Contest, peers: list[str], *, rounds: int = 15, threads: int | None = None, limit_s: float = LIMIT_S,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:  # fmt: skip
    """Rows {"name", "median_ms", "iqr_ms", "ratio", ...} or {"name", "cannot"}; ratio above 1: we are faster.

    peers: of `peers.chosen`, ours first. rounds: how many clean ones each needs. threads: of each, on as many CPUs,
    the same ones for all. limit_s: what takes longer to get ready is given up.
    Raises: TundishError where ours itself cannot run.
    """
    contest = contest.replace(job={**contest.job, "asked_threads": threads})
    cpus = sorted(os.sched_getaffinity(0))
    threads = threads or len(cpus)
    cpus = cpus[:threads]
    entrants = [_Entrant(name, _refused(name, contest)) for name in peers]
    with tempfile.TemporaryDirectory(prefix="tundish-bench-") as text, ExitStack() as stack:
        folder = Path(text)
        np.savez(folder / "inputs.npz", allow_pickle=False, **contest.inputs)  # type: ignore[arg-type]
        for entrant in entrants:
            _prepare(entrant, contest, _job(entrant.name, contest, folder, threads), limit_s, say)
        for entrant in entrants:
            needed = int(1.2 * entrants[0].ready.get("peak_bytes", 0))
            _open(entrant, _job(entrant.name, contest, folder, threads), limit_s, cpus, stack, needed, say)
            if entrant.name == OURS and entrant.cannot:
                raise TundishError(f"{contest.model or contest.bundle} cannot be timed: {entrant.cannot}")
        live = {e.name: (e.worker, e.ready["run_s"]) for e in entrants if e.worker is not None}
        with measuring_alone(say):
            most = ceiling(threads)
            ran, failed = race(live, OURS, rounds, threads, cpus, say)
        for entrant in entrants:
            entrant.cannot = entrant.cannot or failed.get(entrant.name, "")
            entrant.last = entrant.worker.close() if entrant.worker is not None else {}
        if OURS in failed:
            raise TundishError(f"{contest.model or contest.bundle} cannot be timed: {failed[OURS]}")
        rows = _rows(entrants, contest, ran, folder, rounds)
    shapes = {k: list(v.shape) for k, v in contest.inputs.items()}
    limits = {"peak_flops_per_s": most.flops_per_s, "read_bytes_per_s": most.bytes_per_s}
    return {"model": contest.model, "shapes": shapes, "threads": threads, "backend": contest.backend, **limits,
            "notes": contest.notes, "rows": rows}  # fmt: skip


def _refused(name: str, contest: Contest) -> str:
    if name == OURS:
        return ""
    if not contest.model:
        return "needs the original model, which the bundle does not name: give it with --against"
    return cannot(name, contest.job["form"]) or ""


def _job(name: str, contest: Contest, folder: Path, threads: int) -> dict[str, Any]:
    own = folder / name
    own.mkdir(exist_ok=True)
    return {
        **contest.job, "model": contest.model, "backend": contest.backend, "peer": name, "threads": threads,
        "folder": str(own), "inputs": str(folder / "inputs.npz"), "answer": str(own / ANSWER),
        # compiled anew, so that its time is the whole of it
        "environment": {"TORCHINDUCTOR_CACHE_DIR": str(own / "cache"), "OMP_NUM_THREADS": str(threads)},
    }  # fmt: skip


def _prepare(entrant: _Entrant, contest: Contest, job: dict[str, Any], limit_s: float, say: Any) -> None:
    """Makes the files of a competitor that has some, in a process of its own."""
    if entrant.name == OURS and contest.bundle is not None:
        entrant.made = {"path": str(contest.bundle)}
        return
    if entrant.cannot or PEERS[entrant.name].make[contest.job["form"]] is None:
        return
    say(f"preparing {entrant.name}")
    worker = Worker({**job, "kind": "prepare"}, limit_s)
    worker.close()
    entrant.made, entrant.cannot = worker.ready, worker.ready.get("error", "")


def _open(entrant: _Entrant, job: dict[str, Any], limit_s: float, cpus: list[int], stack: ExitStack,
          needed: int, say: Any) -> None:  # fmt: skip
    """Starts its process, which runs the model a few times and then waits, stopped."""
    if entrant.cannot:
        return
    say(f"opening {entrant.name}")
    if needed > available_memory_bytes():
        entrant.cannot = f"needs {size(needed)} of memory, and {size(available_memory_bytes())} are free"
        return
    worker = Worker({**job, **entrant.made, "kind": PEERS[entrant.name].kind}, limit_s, cpus)
    stack.callback(worker.close)
    entrant.ready, entrant.cannot = worker.ready, worker.ready.get("error", "")
    entrant.worker = None if entrant.cannot else worker


def _rows(entrants: list[_Entrant], contest: Contest, ran: list[Round], folder: Path, wanted: int
) -> list[dict[str, Any]]:  # fmt: skip
    compared = contest.wanted or Reference(OURS, dict(read_answer(folder / OURS / ANSWER)))
    own, rows = _counted(entrants[0], contest), []
    for e in entrants:
        if e.cannot:
            rows.append({"name": e.name, "cannot": e.cannot})
            continue
        dtype = contest.dtype if e.name == OURS else PEERS[e.name].weights or "f32"
        apart = difference(read_answer(folder / e.name / ANSWER), compared, contest.inputs, dtype)
        row = {"name": e.name, **figures(ran, e.name, OURS, wanted)}
        like = _beside_like(e.name, ran, wanted)
        work = own if e.name == OURS or not PEERS[e.name].weights else _counted(e, contest)
        row |= {
            "flops": work and work.flops, "weights_bytes": work and work.weights_bytes,
            "max_abs_difference": apart.max_abs, "same_answer": not apart.problem,
            "compile_s": (e.made.get("compile_s") or 0.0) + e.ready["opened_s"],
            "compile_peak_bytes": e.made.get("peak_bytes"), "peak_bytes": e.last.get("peak_bytes"),
            "note": "; ".join(n for n in (like, apart.problem, row["note"], e.made.get("note", "")) if n),
        }  # fmt: skip
        rows.append({key: row[key] for key in (*_KEYS, *(k for k in row if k not in _KEYS))})
    return rows


def _counted(entrant: _Entrant, contest: Contest) -> Counted | None:
    """What a bundle must do; None for what is no bundle. Peers with the model's own weights do what ours does."""
    path = Path(entrant.made.get("path", ""))
    if entrant.cannot or not (path / MANIFEST).is_file():
        return None
    return counted(open_bundle(path), contest.inputs)


def _beside_like(name: str, ran: list[Round], wanted: int) -> str:
    """Its time beside that of ours with as many bits, which is another than the first."""
    like = PEERS[name].like
    if not any(name in r and like in r for r in ran):
        return ""
    found = figures(ran, name, like, wanted)
    return f"{found['ratio']:.2f} times {like}, which holds weights in as many bits (IQR {found['ratio_iqr']:.2f})"
