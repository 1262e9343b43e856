"""Writing safetensors files one tensor at a time: aligned, hashed, in the same bytes every time."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from .diagnostics import BuildError
from .packing import is_packed, pack
from .tensor import TensorType
from .weights import SAFETENSORS_NAMES, Stored, in_file

ALIGN_BYTES = 64
Item = tuple[str, TensorType, Callable[[], np.ndarray]]
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_weights(path: Path, items: Iterable[Item]) -> dict[str, Stored]:
    """Writes (name, type, function that gives the array) and tells where each stands, with its sha256.

    Only one array is asked for at a time. Tensors of whole 64-byte blocks come first, the others in falling alignment
    of their size: the format allows no gaps, and so the former begin at multiples of 64 bytes and every tensor at a
    multiple of its element. Numbers of four bits are packed, two in a byte of a flat U8 tensor. The file appears whole
    or not at all. The names of `Stored` are relative: `path.name`.

    Raises: BuildError on a disk that is full, or an array that is not of its type.
    Source: the format's description, https://github.com/huggingface/safetensors#format.
    """
    ordered = sorted(items, key=lambda item: -_alignment(_size_bytes(item[1])))
    header = _header(ordered)
    stored: dict[str, Stored] = {}
    with writing(path.name), replacing(path) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name, type, make in ordered:
            data = _bytes(name, type, make())
            file.write(data)
            stored[name] = Stored(path.name, name, hashlib.sha256(data).hexdigest())
    return stored


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Turns an OSError inside into a BuildError about `what`."""
    try:
        yield
    except OSError as error:
        full = error.errno in _FULL
        problem = "the disk is full" if full else str(error.strerror or error)
        hint = "free some space, or write to another disk" if full else ""
        raise BuildError(f"cannot write {what}: {problem}", hint=hint) from error


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A sibling to write into, on the disk and renamed to `path` when the block ends well."""
    aside = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Writes a small file that appears whole or not at all. Raises: BuildError where it cannot be written."""
    with writing(path.name), replacing(path) as file:
        file.write(data)


def read_at_most(path: Path, limit_bytes: int) -> bytes:
    """A small file's bytes; one more than the limit where it is larger, also where it never ends (a device)."""
    with path.open("rb") as file:
        return file.read(limit_bytes + 1)


def _header(items: Iterable[Item]) -> bytes:
    entries: dict[str, object] = {}
    offset = 0
    for name, type, _ in items:
        held = in_file(type)
        kind = SAFETENSORS_NAMES[held.dtype.name]
        if name in entries or name == "__metadata__":
            raise BuildError(f"two tensors cannot both be named {name!r}")
        end = offset + _size_bytes(type)
        entries[name] = {"dtype": kind, "shape": list(held.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    return text + b" " * (-(8 + len(text)) % ALIGN_BYTES)


def _size_bytes(type: TensorType) -> int:
    size = type.bytes
    if not isinstance(size, int):
        raise BuildError(f"a weight has numbers for sizes, found {type}")
    return size


def _alignment(size: int) -> int:
    """The largest power of two that divides the size, up to 64."""
    return ALIGN_BYTES if size % ALIGN_BYTES == 0 else size & -size


def _bytes(name: str, type: TensorType, array: np.ndarray) -> memoryview:
    if array.dtype != type.dtype.numpy or array.shape != type.shape:
        raise BuildError(f"weight {name!r} is {type}", found=f"{array.dtype}{list(array.shape)}")
    array = pack(array) if is_packed(type) else array
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
