"""Our bundle against its peers: interleaved rounds in one run, one process and one thread pool each."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.diagnostics import TundishError
from .peers import PEERS, peers_for
from .workers import Worker

OURS = "tundish"
_WARMUP = 3


def compare_peers(
    model: str, inputs: dict[str, np.ndarray], handed: dict[str, str | None], *, peers: list[str] | None = None,
    rounds: int = 15, threads: int | None = None, say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:  # fmt: skip
    """Rows {"name", "median_ms", "iqr_ms", "ratio", ...} or {"name", "cannot"}; ratio above 1: we are faster.

    model:  as on the command line. inputs: what every competitor runs on.
    handed: "compile", "loader" and "inputs_maker" as `module:function`, because this package imports no models; "batch"
    and "seq" are the ranges that ours is compiled for, None for its own; "form" is what the model is (`onnx`).
    Rounds alternate their order, so that a drift of the machine falls on all alike.
    Raises: TundishError on a peer that there is not, or where ours itself cannot run.
    """
    check_peers(peers)
    names = dict.fromkeys([OURS, *(peers or peers_for(handed.get("form") or "torch"))])
    with tempfile.TemporaryDirectory(prefix="tundish-bench-") as folder:
        np.savez(Path(folder) / "inputs.npz", allow_pickle=False, **inputs)
        made = {n: _prepared(n, model, handed, Path(folder), say) for n in names}
        threads = threads or len(os.sched_getaffinity(0))
        rows = _raced(made, model, handed, Path(folder), rounds, threads, say)
    shapes = {k: list(v.shape) for k, v in inputs.items()}
    return {"model": model, "shapes": shapes, "threads": threads, "rows": rows}


def check_peers(peers: list[str] | None) -> None:
    """Raises: TundishError naming the peers that there are not."""
    unknown = [repr(n) for n in peers or () if n not in PEERS]
    if unknown:
        raise TundishError(f"there is no peer {', '.join(unknown)}", hint=f"the peers are {', '.join(PEERS)}")


def _prepared(name: str, model: str, handed: dict[str, str | None], folder: Path, say: Any) -> dict[str, Any]:
    if PEERS[name].make is None:
        return {}
    say(f"preparing {name}")
    own = folder / name
    own.mkdir()
    worker = Worker({"kind": "prepare", "peer": name, "model": model, "folder": str(own), **handed})
    worker.close()
    return worker.ready


def _raced(made: dict[str, dict[str, Any]], model: str, handed: Any, folder: Path, rounds: int, threads: int,
           say: Any) -> list[dict[str, Any]]:  # fmt: skip
    workers: dict[str, Worker] = {}
    failed: dict[str, str] = {}
    for name, files in made.items():
        if "error" in files:
            failed[name] = files["error"]
            continue
        say(f"opening {name}")
        job = {
            "kind": PEERS[name].kind, "model": model, "path": files.get("path", ""), "threads": threads,
            "inputs": str(folder / "inputs.npz"), "answer": str(folder / f"{name}.npy"), "warmup": _WARMUP, **handed,
        }  # fmt: skip
        worker = Worker(job)
        if "error" in worker.ready:
            failed[name] = worker.ready["error"]
        else:
            workers[name] = worker
    times: dict[str, list[float]] = {n: [] for n in workers}
    if OURS in failed:
        for worker in workers.values():
            worker.close()
        raise TundishError(f"{model} cannot be timed: {failed[OURS]}")
    for i in range(rounds):
        say(f"round {i + 1} of {rounds}")
        for name in list(workers) if i % 2 == 0 else reversed(list(workers)):
            answer = workers[name].run()
            if "error" in answer:  # it ended while it ran
                failed[name] = answer["error"]
                workers.pop(name).close()
                continue
            times[name].append(answer["ms"])
    last = {n: w.close() for n, w in workers.items()}
    answers = {n: np.load(folder / f"{n}.npy") for n in workers}
    return [_row(n, times, answers, made[n], last, failed) for n in made]


def _row(name: str, times: Any, answers: Any, made: Any, last: Any, failed: dict[str, str]) -> dict[str, Any]:
    if name in failed:
        return {"name": name, "cannot": failed[name]}
    low, middle, high = np.percentile(times[name], [25, 50, 75])
    row: dict[str, Any] = {"name": name, "median_ms": float(middle), "iqr_ms": float(high - low)}
    if OURS in answers:
        row["ratio"] = float(middle / np.median(times[OURS]))
        row["max_abs_difference"] = float(np.abs(answers[name] - answers[OURS]).max())
    row["clean_rounds"] = len(times[name])
    row["compile_s"] = made.get("compile_s")
    row["compile_peak_bytes"] = made.get("peak_bytes")
    row["peak_bytes"] = last[name].get("peak_bytes")
    return row
