"""A gguf file's header, read with every count held against the file's size before anything is made of it."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ModelError

VERSIONS = (2, 3)
MOST_ELEMENTS = 4_000_000  # in all metadata arrays together; the largest vocabularies have some 1.5 million
MOST_NAMED = 65_535  # bytes in a name, as the format says
MOST_AXES = 4
MOST_EXPERTS = 4096
_SCALARS = ("<B", "<b", "<H", "<h", "<I", "<i", "<f", "<B", None, None, "<Q", "<q", "<d")  # by type number
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor in the file. shape: outermost axis first. offset: of its bytes in the file."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int

    @property
    def elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """metadata: the scalars and strings; an array is left out."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def elements(self) -> int:
        """Numbers in all tensors together."""
        return sum(t.elements for t in self.tensors.values())


def read_header(path: Path) -> Header:
    """The header, checked against the file. Raises: ModelError on what is not gguf, or is broken or cut short."""
    try:
        stat = path.stat()
        with path.open("rb") as stream:
            magic = stream.read(4)
    except OSError as error:
        raise ModelError(f"cannot open {path}: {error.strerror}") from error
    if magic != b"GGUF":
        raise ModelError(f"{path} is not a gguf file", found=f"it starts with {magic!r}")
    return _parsed(path.resolve(), stat.st_size, stat.st_mtime_ns)


def tensor_bytes(header: Header, tensor: Tensor) -> np.ndarray:
    """The tensor's bytes under a memory map, u8[size_bytes]."""
    return np.memmap(header.path, np.uint8, "r", tensor.offset, (tensor.size_bytes,))


@lru_cache(maxsize=8)
def _parsed(path: Path, size_bytes: int, stamp: int) -> Header:
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Parser(path, data).header()
    except _Broken as error:
        raise ModelError(f"{path} is a broken gguf file", found=str(error), hint="fetch it again") from error


class _Broken(Exception):
    """What is wrong with the file, in words."""


class _Parser:
    """Walks the header once. Nothing is allocated by a count that the rest of the file cannot hold."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at = path, data, 4
        self.arrays = 0

    def header(self) -> Header:
        version = self._number("<I", "the version")
        if version not in VERSIONS:
            swapped = version & 0xFFFF == 0
            raise _Broken("its bytes are in big-endian order" if swapped else f"it is of version {version}")
        tensors = self._count("<Q", 24, "tensors")
        pairs = self._count("<Q", 13, "metadata entries")
        metadata = dict(self._pairs(pairs))
        infos = [self._info() for _ in range(tensors)]
        start = self._aligned(self._alignment(metadata))
        _check_plausible(metadata, tensors)
        return Header(self.path, metadata, self._placed(infos, start))

    # -- the parts --------------------------------------------------------------------------------

    def _pairs(self, count: int) -> Iterator[tuple[str, Any]]:
        seen: set[str] = set()
        for _ in range(count):
            name = self._text("a metadata name", MOST_NAMED)
            if name in seen:
                raise _Broken(f"metadata {name!r} stands twice")
            seen.add(name)
            kind = self._number("<I", f"the type of {name!r}")
            if kind == _ARRAY:
                self._skip_array(name)
            else:
                yield name, self._value(kind, name)

    def _value(self, kind: int, name: str) -> Any:
        if kind == _STRING:
            return self._text(name, len(self.data))
        form = _SCALARS[kind] if kind < len(_SCALARS) else None
        if form is None:
            raise _Broken(f"metadata {name!r} is of the unknown type {kind}")
        return self._number(form, name)

    def _skip_array(self, name: str) -> None:
        kind = self._number("<I", f"the type of {name!r}")
        if kind == _ARRAY:
            raise _Broken(f"metadata {name!r} is an array of arrays")
        form = _SCALARS[kind] if kind < len(_SCALARS) else None
        if form is None and kind != _STRING:
            raise _Broken(f"metadata {name!r} is of the unknown type {kind}")
        each = 8 if form is None else struct.calcsize(form)
        count = self._count("<Q", each, f"elements of {name!r}")
        self.arrays += count
        if self.arrays > MOST_ELEMENTS:
            raise _Broken(f"its metadata arrays have more than {MOST_ELEMENTS:,} elements")
        if form is not None:
            self.at += count * each
            return
        for _ in range(count):
            length = self._count("<Q", 1, f"bytes in {name!r}")
            self.at += length

    def _info(self) -> tuple[str, int, tuple[int, ...], int]:
        name = self._text("a tensor's name", MOST_NAMED)
        axes = self._number("<I", f"the number of axes of {name!r}")
        if not 1 <= axes <= MOST_AXES:
            raise _Broken(f"tensor {name!r} has {axes} axes")
        shape = tuple(self._number("<Q", f"the shape of {name!r}") for _ in range(axes))
        kind = self._number("<I", f"the type of {name!r}")
        return name, kind, shape[::-1], self._number("<Q", f"the place of {name!r}")

    def _placed(self, infos: list[tuple[str, int, tuple[int, ...], int]], start: int) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, kind, shape, offset in infos:
            if name in found:
                raise _Broken(f"tensor {name!r} stands twice")
            type_name, numbers, size = _block(name, kind)
            if shape[-1] % numbers or 0 in shape:
                raise _Broken(f"tensor {name!r} is {list(shape)}, whose rows are no whole {type_name} blocks")
            found[name] = Tensor(name, type_name, shape, start + offset, prod(shape) // numbers * size)
        end = start
        for tensor in sorted(found.values(), key=lambda t: t.offset):
            if tensor.offset < end:
                raise _Broken(f"tensor {tensor.name!r} lies over another")
            end = tensor.offset + tensor.size_bytes
            if end > len(self.data):
                raise _Broken(f"tensor {tensor.name!r} ends at byte {end:,}, the file at {len(self.data):,}")
        return found

    def _alignment(self, metadata: dict[str, Any]) -> int:
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            raise _Broken(f"its alignment is {alignment!r}, not a power of two")
        return alignment

    def _aligned(self, alignment: int) -> int:
        return -(-self.at // alignment) * alignment

    # -- words ------------------------------------------------------------------------------------

    def _number(self, form: str, what: str) -> Any:
        size = struct.calcsize(form)
        if self.at + size > len(self.data):
            raise _Broken(f"it ends within {what}")
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += size
        return value

    def _count(self, form: str, least_bytes: int, what: str) -> int:
        """A number of things of at least so many bytes each, which the rest of the file must hold."""
        count = int(self._number(form, f"the number of {what}"))
        if count * least_bytes > len(self.data) - self.at:
            raise _Broken(f"it says that it has {count:,} {what}, more than fit into the file")
        return count

    def _text(self, what: str, most: int) -> str:
        length = self._count("<Q", 1, f"bytes in {what}")
        if length > most:
            raise _Broken(f"{what} is {length:,} bytes long")
        raw = self.data[self.at : self.at + length]
        self.at += length
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            raise _Broken(f"{what} is not text: {raw[:40]!r}") from None


def _block(tensor: str, kind: int) -> tuple[str, int, int]:
    """(type, numbers in a block, bytes of a block)."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        known = GGMLQuantizationType(kind)
    except ValueError:
        raise _Broken(f"tensor {tensor!r} is of the unknown type {kind}") from None
    return known.name, *GGML_QUANT_SIZES[known]


def _check_plausible(metadata: dict[str, Any], tensors: int) -> None:
    """What decides how many modules are made must agree with how many tensors there are."""
    family = metadata.get("general.architecture")
    if not isinstance(family, str) or not family:
        raise _Broken("it names no general.architecture")
    for key, most in (("block_count", tensors), ("expert_count", MOST_EXPERTS)):
        value = metadata.get(f"{family}.{key}", 0)
        if not isinstance(value, int) or not 0 <= value <= most:
            raise _Broken(f"{family}.{key} is {value!r}, and it has {tensors} tensors")
