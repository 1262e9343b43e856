"""Writes the final weights of a program into one safetensors file, one weight in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ..ir.diagnostics import BuildError
from ..ir.graph import Program
from ..ir.weights import SAFETENSORS_NAMES, Recipe, Stored, Weight, materialize

_ALIGN = 64
Progress = Callable[[str, int, int], None]  # stage, bytes done, bytes in all


def used_weights(program: Program) -> dict[str, Weight]:
    """The weights that some function names, in the order of the table."""
    nodes = (n for g in program.functions.values() for n in g.nodes)
    names = {n.attrs["name"] for n in nodes if n.op.name == "weight"}
    return {name: w for name, w in program.weights.items() if name in names}


def derived_weights(program: Program) -> dict[str, str]:
    """Used weight -> the used weight that it is the transpose of: a tied head is stored once, as the embedding."""
    used = used_weights(program)
    names = {w: name for name, w in used.items()}
    found: dict[str, str] = {}
    for name, weight in used.items():
        if isinstance(weight.source, Recipe) and weight.source.op.name == "transpose":
            (base,) = weight.source.inputs
            if base in names and names[base] not in found:
                found[name] = names[base]
    return found


def stored_weights(program: Program) -> dict[str, Weight]:
    """The weights whose bytes are written."""
    derived = derived_weights(program)
    return {name: w for name, w in used_weights(program).items() if name not in derived}


def stored_program(program: Program, file: str) -> Program:
    """The program with its weights as references into one file, and transposes of those."""
    derived = derived_weights(program)
    stored = {name: Weight(w.type, Stored(file, name)) for name, w in stored_weights(program).items()}

    def now(name: str, weight: Weight) -> Weight:
        if name in stored:
            return stored[name]
        assert isinstance(weight.source, Recipe)
        recipe = Recipe(weight.source.op, weight.source.attrs, (stored[derived[name]],))
        return Weight(weight.type, recipe)

    return program.replace(weights={name: now(name, w) for name, w in used_weights(program).items()})


def write_weights(path: Path, weights: Mapping[str, Weight], progress: Progress | None = None) -> None:
    """Streams the weights in order; recipes are computed one at a time.

    Raises: BuildError on a type that safetensors has no name for; LoadError where bytes are missing.
    Source: the format's description, https://github.com/huggingface/safetensors#format.
    """
    header: dict[str, object] = {}
    offset = 0
    for name, weight in weights.items():
        kind = SAFETENSORS_NAMES.get(weight.type.dtype.name)
        if kind is None:
            raise BuildError(f"weight {name!r}: {weight.type.dtype} cannot be stored", hint="pack it to u8 first")
        size = int(str(weight.type.bytes))
        header[name] = {"dtype": kind, "shape": list(weight.type.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGN)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        done = 0
        for name, weight in weights.items():
            array = np.asarray(materialize(weight), order="C")
            if array.nbytes != int(str(weight.type.bytes)):
                raise AssertionError(f"{name}: {array.dtype}{array.shape} is not {weight.type}")
            file.write(array.reshape(-1).view(np.uint8).data)
            done += array.nbytes
            if progress:
                progress("weights", done, offset)
