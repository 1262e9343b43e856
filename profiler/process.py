"""A process, as the kernel sees it: how much memory it holds, and what a child needs to find us."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from pathlib import Path


def environment() -> dict[str, str]:
    """Of a child process that finds us where we are found."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def resident_bytes() -> int:
    """Of memory that this process holds now; the most so far where the system does not tell."""
    return _status("VmRSS") or peak_bytes()


def own_bytes(pid: int) -> int:
    """Of a process's memory that is no file's; 0 where the system does not tell, or when it has ended."""
    return _status("RssAnon", str(pid)) or 0


def file_bytes() -> int:
    """Of files that are mapped into this process and resident; 0 where the system does not tell."""
    return _status("RssFile") or 0


def peak_bytes() -> int:
    """The most memory that this process has held so far.

    From VmHWM: getrusage's figure begins with what the parent had when it started this process.
    """
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _status(name: str, process: str = "self") -> int | None:
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None
