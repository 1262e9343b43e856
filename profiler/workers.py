"""One competitor in one process: opens a model, then runs it for a while for every line it is sent.

`python -m tundish.profiler.workers JOB` with JOB a JSON object. The process answers one JSON line when it is ready
and one for each `run`; anything that goes wrong is the line {"error": "..."}. While it is not its turn it is stopped
by a signal, so that no pool of threads spins beside another competitor, whatever its library does when idle.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from .process import environment, peak_bytes
from .quiet import between, read

SLOT_S = 0.25  # a round runs a model again until so much time has passed
_WARMUP = 3
_ENDING_S = 20.0


def resolve(reference: str) -> Callable[..., Any]:
    """`module:function` as the function: how a process is handed what its parent may not import."""
    module, name = reference.split(":")
    found = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found  # type: ignore[return-value]


class Worker:
    """The parent's end of one process. limit_s: how long it may take to get ready before it is given up."""

    def __init__(self, job: dict[str, Any], limit_s: float, cpus: list[int] | None = None) -> None:
        self._rest = b""
        self._said = Path(job["folder"]) / f"{job['peer']}.stderr"
        with self._said.open("wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tundish.profiler.workers", json.dumps({**job, "cpus": cpus})],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, bufsize=0,
                env={**environment(), **job.get("environment", {})},
            )  # fmt: skip
        try:
            self.ready = self._answer(limit_s)
        except BaseException:
            self.close()
            raise
        self._signal(signal.SIGSTOP)

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self, limit_s: float) -> dict[str, Any]:
        """{"ms": milliseconds of one run, and the fields of a `quiet.Load`}, or {"error": ...}."""
        self._signal(signal.SIGCONT)
        self._send("run")
        answer = self._answer(limit_s)
        self._signal(signal.SIGSTOP)
        return answer

    def close(self) -> dict[str, Any]:
        """Ends the process; what it says last."""
        last: dict[str, Any] = {}
        if self._process.poll() is None and "error" not in getattr(self, "ready", {"error": ""}):
            self._signal(signal.SIGCONT)
            self._send("end")
            last = self._answer(_ENDING_S)
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # what was not sent need not be
                pipe.close()  # type: ignore[union-attr]
        self._process.wait()
        return last

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has died, and the answer says so
            self._process.stdin.write(f"{line}\n".encode())

    def _answer(self, limit_s: float) -> dict[str, Any]:
        """The next line it says, or the error that it said none: it ended, or took too long and is killed."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + limit_s
        while b"\n" not in self._rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                self._process.kill()
                return {"error": f"gave no answer in {limit_s:.0f} s and was ended"}
            chunk = self._process.stdout.read(1 << 16)
            if not chunk:
                return {"error": self._obituary(self._process.wait())}
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _obituary(self, code: int) -> str:
        """How it ended, and the last thing it said."""
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
        lines = [x.strip() for x in self._said.read_text(errors="replace").splitlines() if x.strip()]
        return f"the process ended {how}" + (f": {lines[-1][:200]}" if lines else "")


# -- the child's end -----------------------------------------------------------------------------------


def _prepare(job: dict[str, Any]) -> dict[str, Any]:
    from .peers import prepare

    return {**prepare(job), "peak_bytes": peak_bytes()}


def _serve(job: dict[str, Any]) -> None:
    from .openers import OPEN

    with np.load(job["inputs"], allow_pickle=False) as file:
        inputs = {k: file[k] for k in file.files}
    begin = (OPEN.get(job["kind"]) or resolve(job["kind"]))(job, inputs)
    started = time.perf_counter()
    run = begin()
    outputs = run()
    first_s = time.perf_counter() - started
    np.savez(job["answer"], allow_pickle=False, **{f"{i}:{n}": _plain(a) for i, (n, a) in enumerate(outputs())})
    del outputs
    run_s = min(_timed(run) for _ in range(_WARMUP))
    _say({"opened_s": max(0.0, first_s - run_s), "run_s": run_s, "peak_bytes": peak_bytes()})
    cpus = job["cpus"] or sorted(os.sched_getaffinity(0))
    for line in sys.stdin:
        if line.strip() != "run":
            break
        _say(_slot(run, cpus, job.get("slot_s", SLOT_S)))
    _say({"peak_bytes": peak_bytes()})


def _plain(array: np.ndarray) -> np.ndarray:
    """A type that a .npz file holds: bf16 is none."""
    return array.astype(np.float32) if array.dtype.kind == "V" or not array.dtype.isbuiltin else array


def _timed(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _slot(run: Callable[[], Any], cpus: list[int], least_s: float) -> dict[str, Any]:
    """The mean over runs that together last `least_s` at least, after one that finds its weights out of the caches."""
    run()
    runs, before = 0, read(cpus)
    started = now = time.perf_counter()
    while now - started < least_s:
        run()
        runs, now = runs + 1, time.perf_counter()
    return {"ms": (now - started) / runs * 1e3, "runs": runs, "load": asdict(between(before, read(cpus)))}


def _say(row: dict[str, Any]) -> None:
    sys.__stdout__.write(json.dumps(row) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def _end_with_parent() -> None:
    """A stopped process would outlive a parent that was killed: the kernel ends it then."""
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def main() -> None:
    """Runs the job named on the command line; whatever libraries print goes to stderr."""
    job = json.loads(sys.argv[1])
    _end_with_parent()
    if job["cpus"]:
        os.sched_setaffinity(0, job["cpus"])
    sys.stdout = sys.stderr
    try:
        if job["kind"] == "prepare":
            _say(_prepare(job))
        else:
            _serve(job)
    except Exception as error:
        _say({"error": f"{type(error).__name__}: {error}".strip().split("\n")[0][:300]})


if __name__ == "__main__":
    main()
