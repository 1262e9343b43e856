"""A weight is a reference or a recipe; its bytes are read once, when something is built or run."""

from __future__ import annotations

import json
import mmap
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Union
from weakref import WeakKeyDictionary

import numpy as np

from .diagnostics import LoadError
from .dtypes import DTYPES
from .op import Attrs, Op
from .packing import is_packed, packed_bytes, unpack
from .tensor import TensorType


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a safetensors file, opened by memory map. `sha256` is of its bytes, "" when not yet known."""

    file: str
    key: str
    sha256: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """An array in memory (a torch parameter shares its storage), or None: shape only, as on the meta device."""

    array: np.ndarray | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """An array that lies in a file of another form: `read` makes it anew each time, and nothing keeps it."""

    read: Callable[[], np.ndarray]


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """An op applied to other weights: `transpose(w)`, `concat(wq, wk, wv)`. Its numpy reference is its meaning."""

    op: Op
    attrs: Attrs
    inputs: tuple[Weight, ...]


Source = Union[Stored, Held, Read, Recipe]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Weight:
    """A typed tensor that does not depend on the user's input. Shapes hold ints only."""

    type: TensorType
    source: Source = field(default_factory=Held)


# What is small, and dear to work out, beside a large weight: kept as long as the weight is.
_KEPT = frozenset({"quantize_scale"})
_kept: MutableMapping[Weight, np.ndarray] = WeakKeyDictionary()


def materialize(weight: Weight, folder: Path | None = None) -> np.ndarray:
    """The array: a memory-mapped or shared view for a reference, computed for a recipe.

    `folder` is what relative file names of `Stored` are relative to.
    Raises: LoadError where the bytes are not at hand.
    """
    source = weight.source
    if isinstance(source, Held):
        if source.array is None:
            raise LoadError(
                "a weight has a shape but no bytes", found=str(weight.type),
                hint="the program was captured without weights; capture it from a checkpoint to run it",
            )  # fmt: skip
        return source.array
    if isinstance(source, Stored):
        path = (folder / source.file) if folder else Path(source.file)
        data = open_safetensors(path)[source.key]
        kind = in_file(weight.type)
        if data.shape != kind.shape or data.dtype != kind.dtype.numpy:
            raise LoadError(f"{path.name} holds {source.key!r} in another form than the program says",
                            found=f"{data.dtype}{list(data.shape)}, not {kind}")  # fmt: skip
        return unpack(data, weight.type) if is_packed(weight.type) else data
    if isinstance(source, Read):
        return source.read()
    if weight in _kept:
        return _kept[weight]
    arrays = [materialize(w, folder) for w in source.inputs]
    result: Any = source.op.reference(*arrays, **source.attrs)  # of a reduction to a scalar: no array, but a number
    made = np.asarray(result, dtype=weight.type.dtype.numpy, order="C")
    if source.op.name in _KEPT:
        _kept[weight] = made
    return made


def in_file(type: TensorType) -> TensorType:
    """The type under which safetensors holds a tensor: one of less than a byte is packed, a flat row of bytes."""
    return TensorType(DTYPES["u8"], (packed_bytes(type),)) if is_packed(type) else type


def leaves(weight: Weight) -> Iterator[Weight]:
    """The references that a weight's bytes come from."""
    if isinstance(weight.source, Recipe):
        for w in weight.source.inputs:
            yield from leaves(w)
    else:
        yield weight


_SAFETENSORS = {
    "F64": "f64", "F32": "f32", "F16": "f16", "BF16": "bf16", "I64": "i64", "I32": "i32", "I16": "i16", "I8": "i8",
    "U64": "u64", "U32": "u32", "U16": "u16", "U8": "u8", "BOOL": "bool", "F8_E4M3": "f8e4m3", "F8_E5M2": "f8e5m2",
    "F8_E4M3FNUZ": "f8e4m3fnuz", "F8_E5M2FNUZ": "f8e5m2fnuz", "F8_E8M0": "f8e8m0",
}  # fmt: skip
SAFETENSORS_NAMES = {ours: theirs for theirs, ours in _SAFETENSORS.items()}


class TensorFile(Mapping[str, np.ndarray]):
    """A safetensors file under a memory map: name -> read-only array without a copy.

    Raises: LoadError on a file that is not one, or whose header points outside the data.
    Source: the format's description, https://github.com/huggingface/safetensors#format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(0)
                length = int.from_bytes(file.read(8), "little")
                if size < 8 or not 2 <= length <= min(size - 8, 100_000_000):
                    raise LoadError(f"{path.name} is not a safetensors file")
                self.header = _header(file.read(length))
                self._data = np.frombuffer(
                    mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8
                )[8 + length :]
        except (OSError, ValueError, RecursionError) as error:
            raise LoadError(f"cannot open {path.name}: {str(error)[:200]}") from error
        self.metadata: dict[str, str] = self.header.pop("__metadata__", {})
        self.start = 8 + length
        for name, entry in self.header.items():
            self._check(name, entry)
        self._check_places()

    def _check_places(self) -> None:
        """Tensors follow one another without gaps; one that lies over another could be changed by its name."""
        at = 0
        for name, (begin, end) in sorted(((n, e["data_offsets"]) for n, e in self.header.items()), key=lambda p: p[1]):
            if begin != at:
                raise LoadError(f"{self.path.name}: tensor {name!r} lies over another, or beside a gap",
                                found=f"bytes {begin}..{end}, where {at} is next")  # fmt: skip
            at = end
        if at != len(self._data):
            raise LoadError(f"{self.path.name} is not as long as its header says",
                            found=f"{len(self._data)} bytes of tensors, not {at}")  # fmt: skip

    def _check(self, name: str, entry: Any) -> None:
        try:
            begin, end = entry["data_offsets"]
            if type(begin) is not int or type(end) is not int:
                raise ValueError
            bits = DTYPES[_SAFETENSORS[entry["dtype"]]].bits
            count = 1
            for size in entry["shape"]:
                if type(size) is not int or size < 0:
                    raise ValueError
                count *= size
            if not 0 <= begin <= end <= len(self._data) or (end - begin) * 8 != count * bits:
                raise ValueError
            self._array(entry)  # numpy has limits of its own, as on the number of axes
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise LoadError(f"{self.path.name}: the header entry of {name!r} is broken") from error

    def span(self, name: str) -> tuple[int, int]:
        """(offset in the file, length in bytes) of a tensor."""
        begin, end = self.header[name]["data_offsets"]
        return self.start + begin, end - begin

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.header:
            raise LoadError(f"{self.path.name} holds no tensor {name!r}")
        return self._array(self.header[name])

    def _array(self, entry: Any) -> np.ndarray:
        begin, end = entry["data_offsets"]
        dtype = DTYPES[_SAFETENSORS[entry["dtype"]]].numpy
        return self._data[begin:end].view(dtype).reshape(entry["shape"])

    def __iter__(self) -> Iterator[str]:
        return iter(self.header)

    def __len__(self) -> int:
        return len(self.header)


def _header(text: bytes) -> dict[str, Any]:
    """A header's JSON object. Raises: ValueError where it is none, or names a tensor twice."""
    header = json.loads(text, object_pairs_hook=_once)
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    return header


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("its header names something twice")
    return found


@lru_cache(maxsize=64)
def _opened(path: str, stamp: tuple[int, int]) -> TensorFile:
    return TensorFile(Path(path))


def open_safetensors(path: Path) -> TensorFile:
    """The file under a memory map; opened once as long as it does not change."""
    try:
        stat = path.stat()
    except OSError as error:
        raise LoadError(f"cannot open {path.name}: {error.strerror}") from error
    return _opened(str(path.resolve()), (stat.st_mtime_ns, stat.st_size))
