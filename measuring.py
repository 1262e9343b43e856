"""The verbs that give numbers: one short function each, as in `api`, which offers them too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .ir.diagnostics import TundishError
from .profiler.diff import Diff
from .profiler.report.progress import Progress, silent


def account(
    model: Any, *, batch: int | None = None, seq: int | None = None, phase: str | None = None, past: int | None = None,
    symbolic: bool = False, task: str | None = None, csv: str | Path | None = None, weights: str | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:  # fmt: skip
    """Parameters, FLOPs, bytes, cache and activations, exact, by module, op and phase.

    batch:    1 by default. seq: 128 by default, or what the model can take where that is less. past: `seq` likewise.
    phase:    `prefill` or `decode`; by default both of a model that decodes, and the rows are the prefill's.
    symbolic: sizes that are not given stay symbols, and counts that hang on them are formulas in text.
    csv:      the file for all rows: of phases, modules and ops.
    weights:  the format to count with, as in `compile`; as captured by default.
    Gives parameters and active_parameters (those that one token uses), weights_bytes; flops (what the model asks for)
    and hardware_flops (what dense kernels do), read_bytes, written_bytes, intensity (hardware_flops a byte); kv_cache
    (bytes_per_token, bytes, layers) or None; activation_peak_bytes at the sizes activation_peak_at; by_phase;
    by_module (a module's own counts, and total_ ones of all within it, parents first); by_op; notes.
    A model by name or folder is opened without its weights, however large it is; notes say so.
    Counted on the captured program with norms, attention and activations raised to single ops, before fusion: every op
    reads its inputs from memory and writes its outputs back.
    """
    from .accounts import account_phases
    from .profiler.report.accounting import write_csv

    sizes = {"batch": batch, "seq": seq, "past": past}
    found = account_phases(model, task, sizes, phase, symbolic, progress, weights)
    if csv is not None:
        write_csv(found, Path(csv))
    return found


def bench(
    model: Any = None, *, peers: list[str] | None = None, batch: int = 1, seq: int | None = None,
    phase: str = "prefill", past: int | None = None, task: str | None = None, against: str | None = None,
    backend: str | None = None, rounds: int = 15, threads: int | None = None, limit_s: float = 1200.0,
    write: str | Path | None = None, progress: Progress = silent,
) -> dict[str, Any]:  # fmt: skip
    """Times our bundle against its peers, interleaved, each in a process of its own; rows with ratios.

    model: a path or name of a model or of a bundle, or None for the workloads of docs/benchmarks.md.
    peers: names of `profiler.peers`; all of them by default. seq, past: 128, or what the model can take.
    against: the original of a bundle, where it is not a model whose name it bears.
    backend: ours that a model is compiled for, `onnxruntime` by default or `tvm`; the other is then one of the peers.
    rounds: the clean rounds that each needs. limit_s: a peer that takes longer to compile or open is given up.
    write: the markdown file to rewrite.
    """
    from .compiler.hardware.machine import check_threads
    from .contests import contest
    from .profiler.benchmarks import OF_BACKEND, WORKLOADS, Workload, standings, tables, write_tables
    from .profiler.compare import compare_peers
    from .profiler.peers import chosen
    from .profiler.report.write import check_file

    check_threads(threads)
    if write is not None:
        check_file(Path(write))
    chosen(peers)
    if not isinstance(model, (str, Path, type(None))):
        raise TundishError("each competitor loads the model itself, so it must have a name",
                           found=type(model).__name__, hint="give a path, a name, or file.py:factory")  # fmt: skip
    usual = OF_BACKEND.get(backend or "", WORKLOADS)
    loads = usual if model is None else (Workload(str(model), batch, seq, phase, past),)
    results = []
    for load in loads:
        made = contest(load, against=against, task=task, backend=backend, progress=progress)
        race = compare_peers(made, chosen(peers, load.phase, made.backend), rounds=rounds, threads=threads,
                             limit_s=limit_s, say=_saying(progress, load.model))  # fmt: skip
        results.append({**race, "workload": load.spoken, "phase": load.phase})
    if write is not None:
        write_tables(Path(write), results)
    if model is not None:
        return {"rows": results[0]["rows"], **{k: v for k, v in results[0].items() if k != "rows"}}
    stands = standings(tables(results))
    return {"rows": [{"workload": r["workload"], **row} for r in results for row in r["rows"]], "notes": [stands]}


def diff(before: str | Path, after: str | Path, *, threshold: float | str = 5.0) -> Diff:
    """What got slower between two profiles that `profile --json` wrote: the whole, each module, each node.

    threshold: percent; a change also counts only where the medians are farther apart than half of both IQRs.
    Raises: LoadError on a file that is no profile.
    """
    from .profiler.diff import diff as compared
    from .profiler.diff import read_percent
    from .profiler.report.rows import read_json

    percent = read_percent(threshold, "the threshold")
    return compared(read_json(Path(before)), read_json(Path(after)), percent)


def calibrate(
    *, target: str = "cpu", backend: str = "onnxruntime", output: str | Path | None = None, threads: str | None = None,
    quick: bool = False, plot: str | Path | None = None, progress: Progress = silent,
) -> dict[str, Any]:  # fmt: skip
    """Measures this machine, and the backend's kernels on it, in under two minutes; writes the calibration file.

    output: by default where predictions look for it. threads: numbers of threads, `1,2`; 1 and all cores by default.
    quick: in seconds, with few samples. plot: an .svg or .html file for the roofline.
    Raises: TundishError where the target is not there.
    """
    from .profiler.calibrate.verb import calibrate as measure

    return measure(
        target, backend, None if output is None else Path(output), threads, quick,
        None if plot is None else Path(plot), progress,
    )  # fmt: skip


def _saying(progress: Progress, name: str) -> Callable[[str], None]:
    return lambda text: progress(f"{name}: {text}", 0.0)
