"""Making a folder appear whole or not at all: written aside, forced to the disk, swapped in by one rename."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..ir.diagnostics import BuildError
from ..ir.weight_file import writing

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextmanager
def folder_aside(out: Path, marker: str, what: str = "a bundle") -> Iterator[Path]:
    """A hidden sibling of `out` to write into; when the block ends well it takes the place of `out`.

    On any exception, Ctrl-C included, it is removed and `out` stays as it was. What a killed process left is removed
    here too: a folder aside is locked as long as its process lives. `marker` is the file that an old `out` must hold,
    `what` such a folder is called.

    Raises: BuildError where `out` is something else than such a folder, or the disk fails.
    """
    refuse(out, marker, what)
    with writing(out.name):
        out.parent.mkdir(parents=True, exist_ok=True)
        refuse(out, marker, what)  # again: through a folder that was not there, `..` may lead to what is
        _remove_stale(out)
        aside = out.with_name(f".{out.name}.partial-{os.getpid()}")
        aside.mkdir()
    lock = os.open(aside, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with writing(out.name):
            yield aside
            _sync_tree(aside)
            _swap(aside, out)
            _sync_folder(out.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        os.close(lock)


def refuse(out: Path, marker: str, what: str = "a bundle") -> None:
    """Raises: BuildError where `out` is something that may not be replaced, or lies below a file."""
    above = next(p for p in out.absolute().parents if p.exists())
    if not above.is_dir():
        raise BuildError(f"{out.name} cannot be made: {above.name} is not a folder", hint="choose another place")
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise BuildError(f"{out.name} is there and is not a folder", hint="choose another name, or remove it")
    if out.is_dir() and any(out.iterdir()) and not (out / marker).is_file():
        raise BuildError(
            f"{out.name} is there and is not {what}", hint="choose another name; nothing of it was touched"
        )


def _remove_stale(out: Path) -> None:
    for path in out.parent.glob(f".{_escaped(out.name)}.partial-*"):
        if path.is_dir() and not path.is_symlink() and not _locked(path):
            shutil.rmtree(path, ignore_errors=True)


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _locked(path: Path) -> bool:
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(handle)


def _swap(aside: Path, out: Path) -> None:
    """Puts `aside` in the place of `out`; afterwards `aside` is the old one, if there was one."""
    if not out.exists():
        aside.rename(out)
        return
    if _exchange(aside, out):
        return
    old = out.with_name(f".{out.name}.partial-old-{os.getpid()}")
    out.rename(old)
    try:
        aside.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(left: Path, right: Path) -> bool:
    """Swaps two names in one step; False where the kernel or the file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    args = (_AT_FDCWD, os.fsencode(left), _AT_FDCWD, os.fsencode(right), _RENAME_EXCHANGE)
    if renameat2(*args) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EPERM):
        return False
    raise OSError(code, os.strerror(code))


def _sync_tree(folder: Path) -> None:
    """Forces every file and folder below to the disk."""
    for root, _, names in os.walk(folder, topdown=False):
        for name in (*names, "."):
            handle = os.open(os.path.join(root, name), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
