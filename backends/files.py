"""Writing files so that what goes wrong with the disk is said in one line."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..ir.diagnostics import BuildError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Turns an OSError inside into a BuildError about `what`."""
    try:
        yield
    except OSError as error:
        problem = "the disk is full" if error.errno in _FULL else str(error.strerror or error)
        hint = "free some space, or write to another disk" if error.errno in _FULL else ""
        raise BuildError(f"cannot write {what}: {problem}", hint=hint) from error


def sync_tree(folder: Path) -> None:
    """Forces every file and folder below to the disk."""
    for root, _, names in os.walk(folder, topdown=False):
        for name in (*names, "."):
            handle = os.open(os.path.join(root, name), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
