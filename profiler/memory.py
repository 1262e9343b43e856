"""The peak memory of a run: measured in a process that does nothing else, and predicted from the plan."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..ir.diagnostics import RunError
from .workers import environment

_RUNS = 3


@dataclass(frozen=True, slots=True)
class Peak:
    """Resident memory of a fresh process, in bytes.

    libraries: with numpy and the backend's library loaded, before the bundle is opened. opened: with its session open.
    peak: the most until it had run a few times.
    """

    libraries: int
    opened: int
    peak: int


def measured_peak(bundle: Path, inputs: Mapping[str, np.ndarray], *, entry: str, threads: int | None) -> Peak:
    """Opens and runs the bundle in a process of its own. Raises: RunError where that fails."""
    with tempfile.TemporaryDirectory(prefix="tundish-memory-") as folder:
        file = Path(folder) / "inputs.npz"
        np.savez(file, **dict(inputs))  # type: ignore[arg-type]
        job = {"bundle": str(bundle), "inputs": str(file), "entry": entry, "threads": threads}
        done = subprocess.run(
            [sys.executable, "-m", "tundish.profiler.memory", json.dumps(job)], env=environment(),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise RunError("the process that measures memory failed", found=f"code {done.returncode}: {last[:300]}")
    return Peak(**json.loads(lines[-1]))


# -- the child's end -----------------------------------------------------------------------------------


def resident(what: str = "VmRSS") -> int:
    """Bytes of this process now, or at most so far (`VmHWM`), as the kernel counts them."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) * 1024
    raise RunError("this system does not tell how much memory a process holds")


def _measure(job: dict[str, str]) -> Peak:
    from ..backends.bundle import open_bundle
    from ..backends.registry import get

    bundle = open_bundle(Path(job["bundle"]), threads=job["threads"])  # type: ignore[arg-type]
    get(bundle.plan_backend).versions()  # loads its library
    with np.load(job["inputs"], allow_pickle=False) as file:
        inputs = {k: file[k] for k in file.files}
    libraries = resident()
    bundle.run(inputs, entry=job["entry"])
    opened = resident()
    for _ in range(_RUNS - 1):
        bundle.run(inputs, entry=job["entry"])
    return Peak(libraries, opened, resident("VmHWM"))


def main() -> None:
    """Measures the job named on the command line."""
    peak = _measure(json.loads(sys.argv[1]))
    print(json.dumps({"libraries": peak.libraries, "opened": peak.opened, "peak": peak.peak}))


if __name__ == "__main__":
    main()
