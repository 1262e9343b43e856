"""One measurement at a time on a machine, whoever makes it: a second one waits."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..ir.diagnostics import RunError

LOCK = "tundish-measuring.lock"
_POLL_S = 0.1


@contextmanager
def measuring_alone(say: Callable[[str], None] = lambda text: None) -> Iterator[float]:
    """Holds this machine's lock; gives the seconds that it was waited for. `say` is told once that it waits.

    The lock ends with the process that holds it, however that ends. Raises: RunError where it cannot be opened.
    """
    handle = _open(Path(tempfile.gettempdir()) / LOCK)
    started = time.monotonic()
    try:
        if not _taken(handle):
            say("waiting: another tundish is measuring on this machine")
            while not _taken(handle):
                time.sleep(_POLL_S)
        yield time.monotonic() - started
    finally:
        os.close(handle)


def _taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open(path: Path) -> int:
    """A handle on a file that all users share: whoever is first makes it, the others only read."""
    with suppress(FileExistsError, PermissionError):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        os.close(handle)
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise RunError(f"cannot open the lock {path}: {error.strerror}", hint="remove it, or set TMPDIR") from error
