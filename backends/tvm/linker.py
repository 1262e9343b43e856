"""The system's linker, which makes a shared library of compiled kernels. Looked for without TVM."""

from __future__ import annotations

import platform
import shutil

from ...ir.diagnostics import BuildError

LINKERS = ("gcc", "cc", "clang", "ld")


def linker(arch: str) -> str | None:
    """The path of one that links for a CPU, None where there is none."""
    prefix = "" if arch == platform.machine() else f"{arch}-linux-gnu-"
    return next((path for name in LINKERS if (path := shutil.which(f"{prefix}{name}"))), None)


def check_linker(arch: str) -> str:
    """The same. Raises: BuildError where there is none."""
    found = linker(arch)
    if found is None:
        raise BuildError(f"there is no linker for {arch} on this system", hint="install gcc, clang or binutils for it")
    return found
