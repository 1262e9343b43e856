"""The manifest of a bundle: what is in it, for which machine, and the hash of every file."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from ..ir.diagnostics import LoadError
from .manifest_check import problems
from .signature import Signature, TensorSpec

SCHEMA = 1
MANIFEST = "manifest.json"
ROUNDED = ("bf16", "int8", "int4", "stored")  # formats of weights that round more than fp32 computation does
_LIMIT_BYTES = 64 << 20


class FileEntry(msgspec.Struct, frozen=True):
    """Size in bytes and sha256 of one file."""

    size: int
    sha256: str


class EntryPoint(msgspec.Struct, frozen=True):
    """How one entry is called."""

    inputs: tuple[tuple[str, str, tuple[int | str, ...]], ...]
    outputs: tuple[tuple[str, str, tuple[int | str, ...]], ...]
    symbols: dict[str, tuple[int, int | None]]
    aliases: dict[str, str] = {}

    @property
    def signature(self) -> Signature:
        inputs, outputs = (tuple(TensorSpec(*s) for s in specs) for specs in (self.inputs, self.outputs))
        return Signature(inputs, outputs, self.symbols, self.aliases)

    @staticmethod
    def of(signature: Signature) -> EntryPoint:
        inputs, outputs = (
            tuple((s.name, s.dtype, s.shape) for s in specs) for specs in (signature.inputs, signature.outputs)
        )
        return EntryPoint(inputs, outputs, dict(signature.symbols), dict(signature.aliases))


class Manifest(msgspec.Struct, frozen=True):
    """features: CPU features that the files need. options: the backend's own. info: whatever the maker noted."""

    schema: int
    name: str
    backend: str
    target: str
    features: list[str]
    versions: dict[str, str]
    entries: dict[str, EntryPoint]
    options: dict[str, Any]
    info: dict[str, Any]
    files: dict[str, FileEntry]

    @property
    def dtype(self) -> str:
        """The float type whose rounding its answers may show. Raises: LoadError where the maker noted none."""
        if "dtype" not in self.info:
            raise LoadError(f"{self.name} does not say in what type it computes", hint="compile it again")
        return str(self.info["dtype"])

    @property
    def judged(self) -> str:
        """What its answers may be off by, as a key of the tolerances: the format of its weights, where that rounds
        more than the type it computes in does. Raises: LoadError where the maker noted neither."""
        held = self.info.get("weights")
        known = held.get("format", "") if isinstance(held, dict) else ""
        return known if known in ROUNDED else self.dtype

    def text(self) -> bytes:
        """As it stands in the file; the same manifest gives the same bytes."""
        return (json.dumps(msgspec.to_builtins(self), indent=1, sort_keys=True) + "\n").encode()


def read_manifest(folder: Path) -> Manifest:
    """Raises: LoadError where there is none, it is broken, or it was made by a newer version.

    Its files are not looked at here.
    """
    path = folder / MANIFEST
    try:
        if path.is_symlink() or not path.is_file():
            raise LoadError(f"{folder.name} is not a bundle: it has no {MANIFEST}")
        if path.stat().st_size > _LIMIT_BYTES:
            raise LoadError(f"{folder.name}: {MANIFEST} is too large to be one")
        raw = path.read_bytes()
    except OSError as error:
        raise LoadError(f"cannot read {MANIFEST} of {folder.name}: {error.strerror}") from error
    try:
        schema = msgspec.json.decode(raw, type=dict[str, Any]).get("schema")
        if isinstance(schema, int) and schema > SCHEMA:
            raise LoadError(
                f"{folder.name} was made by a newer tundish", found=f"schema {schema}, this one reads up to {SCHEMA}",
                hint="update tundish",
            )  # fmt: skip
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LoadError(f"{folder.name}: {MANIFEST} is broken", found=str(error)) from error
    problem = f"there is no schema {schema}" if schema != SCHEMA else next(problems(manifest), None)
    if problem:
        raise LoadError(f"{folder.name}: {MANIFEST} is broken", found=problem)
    return manifest


def file_sha256(path: Path, seen: Callable[[int], None] | None = None) -> str:
    """The sha256 of a file's bytes, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):  # larger ones stay with the process
            digest.update(chunk)
            if seen:
                seen(len(chunk))
    return digest.hexdigest()


def entries_of(folder: Path, names: list[str]) -> dict[str, FileEntry]:
    """Size and hash of each of these files, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        hashes = pool.map(lambda name: file_sha256(folder / name), names)
        return {
            name: FileEntry((folder / name).stat().st_size, digest)
            for name, digest in zip(names, hashes, strict=True)
        }


def check_files(folder: Path, files: Mapping[str, FileEntry]) -> None:
    """Holds the folder against the manifest. Raises: LoadError naming the first file that differs."""
    there = set(list_files(folder))
    there.discard(MANIFEST)
    for problem, names in (("is missing", set(files) - there), ("does not belong to it", there - set(files))):
        if names:
            raise LoadError(f"{folder.name}: {sorted(names)[0]} {problem}")
    for name, entry in files.items():
        size = (folder / name).stat().st_size
        if size != entry.size:
            raise LoadError(f"{folder.name}: {name} has the wrong size", found=f"{size} bytes, not {entry.size}")
    order = sorted(files, key=lambda n: -files[n].size)  # the largest first, so that two threads end together
    for name, found in entries_of(folder, order).items():
        if found.sha256 != files[name].sha256:
            raise LoadError(f"{folder.name}: {name} was changed: its sha256 is not the manifest's")


def list_files(folder: Path) -> list[str]:
    """Every file below, by its path from `folder`.

    Raises: LoadError on a link or anything not a plain file. A hard link is one too: through its other name the file
    could be changed after its hash was checked.
    """
    found: list[str] = []
    for path in sorted(folder.rglob("*")):
        name, kind = path.relative_to(folder).as_posix(), path.lstat()
        if stat.S_ISDIR(kind.st_mode):
            continue
        if not stat.S_ISREG(kind.st_mode) or kind.st_nlink > 1:
            raise LoadError(
                f"{folder.name}: {name} is a link or a special file, which a bundle may not hold",
                found="a file with several names (hard links)" if stat.S_ISREG(kind.st_mode) else "",
                hint="use a plain copy of the bundle, where you trust it: `cp -rL` makes one",
            )
        found.append(name)
    return found
