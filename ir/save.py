"""A program as a folder: `program.txt` and `weights.safetensors`."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from .diagnostics import BuildError, LoadError
from .graph import Program
from .text import from_text, to_text
from .verify import verify
from .weight_file import Item, write_weights, writing
from .weights import Held, Recipe, Source, Stored, Weight, in_file, leaves, materialize, open_safetensors

PROGRAM = "program.txt"
WEIGHTS = "weights.safetensors"


def save(program: Program, folder: Path, *, base: Path | None = None) -> None:
    """Writes a program so that `load` gives it back: recipes computed, one weight in memory at a time.

    Weights without bytes (a program captured for its shapes) stay without. The folder is written aside and takes its
    place at the end. `base` is what relative weight files of the program are relative to.

    Raises: BuildError where the folder holds something else than a program, or the disk is full; LoadError where bytes
    are missing.
    """
    with _folder_aside(folder) as aside:
        items = [_item(n, w, base) for n, w in program.weights.items() if _has_bytes(w)]
        stored = write_weights(aside / WEIGHTS, items) if items else {}
        weights = {n: Weight(w.type, stored[n]) if n in stored else w for n, w in program.weights.items()}
        with writing(PROGRAM):
            (aside / PROGRAM).write_text(to_text(program.replace(weights=weights)), encoding="utf-8")


def load(path: Path, *, check: bool = False) -> Program:
    """The program that `save` wrote, verified; its weights are memory-mapped when they are first read.

    path:  the folder, or its program.txt.
    check: also hash all weights.

    Raises: LoadError on what is not a program, or on weights that are not those it was saved with; VerifyError.
    """
    file = path / PROGRAM if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"cannot read {file.name} of {path.name}: {error}", hint="is it a saved program?") from error
    program = from_text(text, origin=file.name)
    weights = {n: replace(w, source=_anchored(n, w.source, file.parent)) for n, w in program.weights.items()}
    for name, weight in weights.items():
        for leaf in leaves(weight):
            _check_stored(name, leaf, check)
    return verify(program.replace(weights=weights))


def _has_bytes(weight: Weight) -> bool:
    return all(not isinstance(w.source, Held) or w.source.array is not None for w in leaves(weight))


def _item(name: str, weight: Weight, base: Path | None) -> Item:
    make: Callable[[], np.ndarray] = partial(materialize, weight, base)
    return name, weight.type, make


def _anchored(name: str, source: Source, folder: Path) -> Source:
    """The source with its files under the folder. Raises: LoadError on a file elsewhere."""
    if isinstance(source, Recipe):
        inputs = tuple(replace(w, source=_anchored(name, w.source, folder)) for w in source.inputs)
        return Recipe(source.op, source.attrs, inputs)
    if not isinstance(source, Stored):
        return source
    relative = PurePosixPath(source.file)
    if relative.is_absolute() or ".." in relative.parts or "\0" in source.file or "\\" in source.file:
        raise LoadError(f"weight {name!r} lies outside of the program's folder", found=source.file)
    return replace(source, file=str(folder / relative))


def _check_stored(name: str, weight: Weight, check_hash: bool) -> None:
    source = weight.source
    if not isinstance(source, Stored):
        return
    array = open_safetensors(Path(source.file))[source.key]
    wanted = in_file(weight.type)
    if array.dtype != wanted.dtype.numpy or array.shape != wanted.shape:
        raise LoadError(f"weight {name!r} is {weight.type}", found=f"{array.dtype}{list(array.shape)} in the file")
    if check_hash and hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest() != source.sha256:
        raise LoadError(f"weight {name!r} is not the one that was saved: its sha256 differs")


@contextmanager
def _folder_aside(folder: Path) -> Iterator[Path]:
    """A hidden sibling to write into; when the block ends well it takes the place of `folder`."""
    folder = folder.parent.resolve() / folder.name
    if folder.is_dir() and any(folder.iterdir()) and not (folder / PROGRAM).is_file():
        raise BuildError(f"{folder.name} is there and is not a saved program", hint="choose another name")
    if folder.exists() and not folder.is_dir():
        raise BuildError(f"{folder.name} is there and is not a folder", hint="choose another name, or remove it")
    aside = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    try:
        with writing(folder.name):
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(aside, ignore_errors=True)  # of a killed process that bore this number
            aside.mkdir()
            yield aside
            if folder.exists():
                folder.rename(old)
            aside.rename(folder)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(aside, ignore_errors=True)
