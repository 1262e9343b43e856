"""The system's linker, which makes a shared library of compiled kernels. Looked for without TVM."""

from __future__ import annotations

import platform
import shutil

LINKERS = ("gcc", "cc", "clang", "ld")


def linker(arch: str) -> str | None:
    """The path of one that links for a CPU, None where there is none."""
    prefix = "" if arch == platform.machine() else f"{arch}-linux-gnu-"
    return next((path for name in LINKERS if (path := shutil.which(f"{prefix}{name}"))), None)
