"""The peak memory of a run: measured in a process that does nothing else, and predicted from the plan."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..ir.diagnostics import RunError
from .process import environment, file_bytes, own_bytes, peak_bytes, resident_bytes

_RUNS = 3
_EVERY_S = 0.001


@dataclass(frozen=True, slots=True)
class Peak:
    """Memory of a fresh process, in bytes.

    peak:      the most that was resident, pages of the weight file aside.
    mapped:    pages of the bundle's weight file that are mapped in at the end. They are the file's: the system drops
               them when memory is wanted, and maps as many around each one that is read as it sees fit.
    libraries: resident before the bundle's session opened, with numpy and the backend's library loaded.
    """

    peak: int
    mapped: int
    libraries: int


def measured_peak(bundle: Path, inputs: Mapping[str, np.ndarray], *, entry: str, threads: int | None) -> Peak:
    """Opens and runs the bundle in a process of its own. Raises: RunError where that fails.

    While it opens, its own memory is read every millisecond, since the kernel keeps no maximum of that alone; in the
    runs, whose peaks are shorter and whose mapped pages no longer change, the kernel's maximum is taken.
    """
    with tempfile.TemporaryDirectory(prefix="tundish-memory-") as folder:
        file = Path(folder) / "inputs.npz"
        np.savez(file, **dict(inputs))  # type: ignore[arg-type]
        job = {"bundle": str(bundle), "inputs": str(file), "entry": entry, "threads": threads}
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tundish.profiler.memory", json.dumps(job)], env=environment(),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        own = 0
        while process.poll() is None:
            own = max(own, own_bytes(process.pid))
            time.sleep(_EVERY_S)
        said, complaint = process.communicate()
    lines = said.splitlines()
    if process.returncode or not lines:
        last = (complaint.strip().splitlines() or ["nothing"])[-1]
        raise RunError("the process that measures memory failed", found=f"code {process.returncode}: {last[:300]}")
    found = json.loads(lines[-1])
    return Peak(max(found["running"], own + found["files"]), found["mapped"], found["libraries"])


# -- the child's end -----------------------------------------------------------------------------------


def _measure(job: dict[str, str]) -> dict[str, int]:
    """running: the most in a run; files: pages of libraries; both without the weight file's."""
    from ..backends.bundle import open_bundle
    from ..backends.registry import get

    bundle = open_bundle(Path(job["bundle"]), threads=job["threads"])  # type: ignore[arg-type]
    get(bundle.plan_backend).versions()  # loads its library
    with np.load(job["inputs"], allow_pickle=False) as file:
        inputs = {k: file[k] for k in file.files}
    libraries = resident_bytes()
    bundle.run(inputs, entry=job["entry"])  # opens it too
    with suppress(OSError):  # not every system lets it: what it needs while it opens then counts for all of its life
        Path("/proc/self/clear_refs").write_text("5")  # the largest size so far is counted from here on
    for _ in range(_RUNS - 1):
        bundle.run(inputs, entry=job["entry"])
    mapped = mapped_bytes(bundle.weights)
    return {
        "running": peak_bytes() - mapped, "files": max(0, file_bytes() - mapped), "mapped": mapped,
        "libraries": libraries,
    }  # fmt: skip


def mapped_bytes(file: Path) -> int:
    """Resident bytes of the mappings of a file in this process."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            ours = line.endswith(f"/{file.name}")
        elif ours and words[0] == "Rss:":
            total += int(words[1]) * 1024
    return total


def main() -> None:
    """Measures the job named on the command line."""
    print(json.dumps(_measure(json.loads(sys.argv[1]))))


if __name__ == "__main__":
    main()
