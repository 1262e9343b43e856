"""One competitor in one process: opens a model, then runs it once for every line it is sent.

`python -m tundish.profiler.workers JOB` with JOB a JSON object. The process answers one JSON line when it is ready
and one for each `run`; anything that goes wrong is the line {"error": "..."}.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[], dict[str, np.ndarray]]


def peak_bytes() -> int:
    """The largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resolve(reference: str) -> Callable[..., Any]:
    """`module:function` as the function: how a process is handed what its parent may not import."""
    module, name = reference.split(":")
    return getattr(importlib.import_module(module), name)


def environment() -> dict[str, str]:
    """Of a child process that finds us where we are found."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


class Worker:
    """The parent's end of one process."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tundish.profiler.workers", json.dumps(job)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=environment(),
        )  # fmt: skip
        self.ready = self._answer()

    def run(self) -> dict[str, Any]:
        """{"ms": milliseconds of one run}, or {"error": ...}."""
        self._send("run")
        return self._answer()

    def close(self) -> dict[str, Any]:
        """Ends the process; what it says last."""
        if self._process.poll() is None and "error" not in self.ready:
            self._send("end")
            last = self._answer()
        else:
            last = {}
        self._process.kill()
        self._process.communicate()
        return last

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has died, and the answer says so
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else {"error": f"the process ended with code {self._process.wait()}"}


# -- the child's end -----------------------------------------------------------------------------------


def _open_bundle(job: dict[str, Any], inputs: dict[str, np.ndarray]) -> Run:
    from ..backends.bundle import open_bundle

    bundle = open_bundle(Path(job["path"]), threads=job["threads"])
    return lambda: bundle.run(inputs)


def _open_onnx(job: dict[str, Any], inputs: dict[str, np.ndarray]) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = job["threads"]
    options.log_severity_level = 4
    session = ort.InferenceSession(job["path"], options, providers=["CPUExecutionProvider"])
    wanted = {i.name for i in session.get_inputs()}
    given = {k: v for k, v in inputs.items() if k in wanted}
    names = [o.name for o in session.get_outputs()]
    return lambda: dict(zip(names, session.run(None, given), strict=True))


def _open_torch(job: dict[str, Any], inputs: dict[str, np.ndarray]) -> Run:
    import torch

    torch.set_num_threads(job["threads"])
    source = resolve(job["loader"])(job["model"])
    if hasattr(source.module, "set_attn_implementation"):
        source.module.set_attn_implementation("sdpa")  # torch's fastest, as a user would run it
    return lambda: source.call(inputs)


_OPEN = {"bundle": _open_bundle, "onnx": _open_onnx, "torch": _open_torch}


def _prepare(job: dict[str, Any]) -> dict[str, Any]:
    from .peers import prepare

    return {**prepare(job), "peak_bytes": peak_bytes()}


def _serve(job: dict[str, Any]) -> None:
    with np.load(job["inputs"], allow_pickle=False) as file:
        inputs = {k: file[k] for k in file.files}
    run = _OPEN[job["kind"]](job, inputs)
    for _ in range(job["warmup"]):
        outputs = run()
    np.save(job["answer"], next(iter(outputs.values())))
    _say({"ok": True})
    for line in sys.stdin:
        if line.strip() != "run":
            break
        started = time.perf_counter()
        run()
        _say({"ms": (time.perf_counter() - started) * 1e3})
    _say({"peak_bytes": peak_bytes()})


def _say(row: dict[str, Any]) -> None:
    sys.__stdout__.write(json.dumps(row) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def main() -> None:
    """Runs the job named on the command line; whatever libraries print goes nowhere."""
    job = json.loads(sys.argv[1])
    sys.stdout = sys.stderr
    try:
        if job["kind"] == "prepare":
            _say(_prepare(job))
        else:
            _serve(job)
    except Exception as error:
        _say({"error": f"{type(error).__name__}: {error}".split("\n")[0][:300]})


if __name__ == "__main__":
    main()
