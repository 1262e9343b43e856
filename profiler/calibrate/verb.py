"""`tundish calibrate`: measures, writes the file, and tells what was found."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...compiler.hardware.calibration import Calibration, default_path, write_calibration
from ...compiler.hardware.machine import this_machine
from ...ir.diagnostics import TundishError
from ...ir.weight_file import writing
from ..host_lock import measuring_alone
from ..report.progress import Progress
from ..report.write import check_file
from .measure import calibrate as measure_cpu
from .rows import plot as write_plot
from .rows import rows

Measure = Callable[[str, tuple[int, ...], bool, Progress], Calibration]


def _cpu(backend: str, threads: tuple[int, ...], quick: bool, progress: Progress) -> Calibration:
    return measure_cpu(backend, threads, quick=quick, progress=progress)


def _cuda(backend: str, threads: tuple[int, ...], quick: bool, progress: Progress) -> Calibration:
    from .cuda import calibrate as measure_cuda

    if threads:
        raise TundishError("a GPU has no threads to count", found=f"--threads {threads[0]}")
    return measure_cuda(backend, quick=quick, progress=progress)


PLOTS = (".svg", ".html")
TARGETS: dict[str, Measure] = {"cpu": _cpu, "cuda": _cuda}


def calibrate(
    target: str, backend: str, output: Path | None, threads: str | None, quick: bool, plot: Path | None,
    progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """See `tundish.measuring.calibrate`."""
    if target not in TARGETS:
        raise TundishError(f"there is no target {target!r} to calibrate", hint=f"one of {', '.join(TARGETS)}")
    place = output or default_path(target)
    check_place(place)
    if plot is not None:
        check_plot(plot)
    counts = _counts(threads)
    with measuring_alone(lambda text: progress(text, 0.0)):
        made = TARGETS[target](backend, counts, quick, progress)
    write_calibration(place, made)
    if plot is not None:
        write_plot(made, this_machine(target), plot)
    return {
        "file": str(place), "machine": made.machine.name, "created": made.created, "seconds": made.seconds,
        "quick": made.quick, "disturbed_share": made.disturbed,
        "runtime_bytes": {name: e.runtime_bytes for name, e in made.backends.items()},
        "not_measured": made.not_measured,
        "untimed": {name: len(e.untimed) for name, e in made.backends.items() if e.untimed}, **rows(made),
    }  # fmt: skip


def check_place(path: Path) -> None:
    """Before anything is measured; makes its folder. Raises: TundishError where the file cannot be one."""
    if path.is_dir():
        raise TundishError(f"{path} is a folder", hint="-o takes the file to write")
    with writing(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise TundishError(f"cannot write {path}: its folder is not to be written into", hint="-o names another place")


def check_plot(path: Path) -> None:
    """Before anything is measured. Raises: TundishError on a file that cannot be written, or is no kind of ours."""
    if path.suffix not in PLOTS:
        raise TundishError(f"--plot takes {' or '.join(PLOTS)}, got {path.name}")
    check_file(path)


def _counts(threads: str | None) -> tuple[int, ...]:
    """`1,4` as numbers. Raises: TundishError."""
    try:
        counts = tuple(int(word) for word in threads.split(",")) if threads else ()
    except ValueError:
        raise TundishError(f"--threads takes numbers such as 1,4, got {threads!r}") from None
    if any(n < 1 for n in counts):
        raise TundishError(f"--threads takes numbers from 1, got {threads!r}")
    return counts
