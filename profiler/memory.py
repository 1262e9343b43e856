"""The peak memory of a run: measured in a process that does nothing else, and predicted from the plan."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..ir.diagnostics import RunError
from .process import environment, peak_bytes, resident_bytes

_RUNS = 3
_MARGIN = 1 << 20


@dataclass(frozen=True, slots=True)
class Peak:
    """Memory of a fresh process, in bytes.

    peak:      the most that was resident: while it opened, or in a later run, and then less `mapped`.
    mapped:    pages of the bundle's weight file that are mapped in. They are the file's: the system drops them when
               memory is wanted, and maps as many around each one that is read as it sees fit.
    libraries: resident before the bundle's session opened, with numpy and the backend's library loaded.
    """

    peak: int
    mapped: int
    libraries: int


def measured_peak(bundle: Path, inputs: Mapping[str, np.ndarray], *, entry: str, threads: int | None) -> Peak:
    """Opens and runs the bundle in a process of its own. Raises: RunError where that fails."""
    with tempfile.TemporaryDirectory(prefix="tundish-memory-") as folder:
        file = Path(folder) / "inputs.npz"
        np.savez(file, **dict(inputs))  # type: ignore[arg-type]
        job = {"bundle": str(bundle), "inputs": str(file), "entry": entry, "threads": threads}
        done = subprocess.run(
            [sys.executable, "-P", "-m", "tundish.profiler.memory", json.dumps(job)], env=environment(),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise RunError("the process that measures memory failed", found=f"code {done.returncode}: {last[:300]}")
    return Peak(**json.loads(lines[-1]))


# -- the child's end -----------------------------------------------------------------------------------


def _measure(job: dict[str, str]) -> Peak:
    from ..backends.bundle import open_bundle
    from ..backends.registry import get

    bundle = open_bundle(Path(job["bundle"]), threads=job["threads"])  # type: ignore[arg-type]
    get(bundle.plan_backend).versions()  # loads its library
    with np.load(job["inputs"], allow_pickle=False) as file:
        inputs = {k: file[k] for k in file.files}
    libraries = resident_bytes()
    bundle.run(inputs, entry=job["entry"])  # opens it too
    opened = peak_bytes()
    with suppress(OSError):  # not every system lets it: what it needs while it opens then counts for all of its life
        Path("/proc/self/clear_refs").write_text("5")  # the largest size so far is counted from here on
    for _ in range(_RUNS - 1):
        bundle.run(inputs, entry=job["entry"])
    later, mapped = peak_bytes(), mapped_bytes(bundle.weights)
    opening = opened > later + _MARGIN  # what it holds for good is in both; so the most was while it opened
    return Peak(opened if opening else later - mapped, mapped, libraries)


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
    peak = _measure(json.loads(sys.argv[1]))
    print(json.dumps(asdict(peak)))


if __name__ == "__main__":
    main()
