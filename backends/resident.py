"""Experts of a file larger than memory: read into a few slots as they are asked for, past the system's own cache."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import numpy as np

from ..compiler.experts.residency import Slots
from ..ir.diagnostics import BuildError, LoadError

ALIGNMENT = 4096  # of what is read past the cache: offset, length and address


def write_expert_file(path: Path, experts: Iterable[np.ndarray]) -> int:
    """Writes experts of equal size one after the other, each padded to ALIGNMENT; the bytes that one takes.

    Raises: BuildError where they differ in size, or the file cannot be written.
    """
    each = 0
    try:
        with path.open("wb") as file:
            for expert in experts:
                data = np.ascontiguousarray(expert)
                size = -(-data.nbytes // ALIGNMENT) * ALIGNMENT
                if each not in (0, size):
                    raise BuildError("experts of one file are of one size", found=f"{size} and {each} bytes")
                each = size
                file.write(data.data)
                file.write(bytes(size - data.nbytes))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise BuildError(f"{path.name} cannot be written", found=error.strerror or str(error)) from error
    return each


class ResidentExperts:
    """The experts of a file, of which as many are in memory as there are slots.

    Reads go past the system's cache where the file system allows that, so that memory holds each byte once and what is
    read is what the disk gave; elsewhere the cache is told to forget what was read. Not safe for several threads.
    Raises: LoadError where the file is no such file, or ends early.
    """

    def __init__(self, path: Path, expert_bytes: int, slots: Slots) -> None:
        self.path, self.each, self.slots = path, expert_bytes, slots
        if expert_bytes < 1 or expert_bytes % ALIGNMENT:
            raise LoadError(f"an expert takes a multiple of {ALIGNMENT} bytes", found=f"{expert_bytes}")
        self.file, self.direct = _opened(path)
        size = os.fstat(self.file).st_size
        if not size or size % expert_bytes:
            os.close(self.file)
            raise LoadError(f"{path.name} does not hold experts of {expert_bytes} bytes", found=f"{size} bytes")
        self.experts = size // expert_bytes
        room = (slots.slots + len(slots.pinned)) * expert_bytes
        self.memory = mmap.mmap(-1, room)  # begins at a page
        self.reads = 0

    def __enter__(self) -> ResidentExperts:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Views that `expert` gave must be gone by then."""
        os.close(self.file)
        self.memory.close()

    @property
    def read_bytes(self) -> int:
        """What was read of the file so far."""
        return self.reads * self.each

    def expert(self, number: int) -> np.ndarray:
        """u8 [expert_bytes], a view that holds until another expert is asked for."""
        if not 0 <= number < self.experts:
            raise LoadError(f"{self.path.name} holds {self.experts} experts", found=f"expert {number}")
        slot, missing = self.slots.place(number)
        view = memoryview(self.memory)[slot * self.each : (slot + 1) * self.each]
        if missing:
            self._read(view, number * self.each)
            self.reads += 1
        return np.frombuffer(view, np.uint8)

    def _read(self, view: memoryview, offset: int) -> None:
        done = 0
        while done < self.each:
            count = os.preadv(self.file, [view[done:]], offset + done)
            if not count:
                raise LoadError(f"{self.path.name} ends early", found=f"at byte {offset + done}")
            done += count
        if not self.direct:
            os.posix_fadvise(self.file, offset, self.each, os.POSIX_FADV_DONTNEED)


def _opened(path: Path) -> tuple[int, bool]:
    """(file, whether reads go past the system's cache). Raises: LoadError."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECT), True
    except OSError:
        pass
    try:
        return os.open(path, os.O_RDONLY), False
    except OSError as error:
        raise LoadError(f"{path.name} cannot be read", found=error.strerror or str(error)) from error
