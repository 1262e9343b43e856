"""Which weights of a program are written, and writing them: one in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ..ir.graph import Program
from ..ir.weight_file import Item, write_weights
from ..ir.weights import Recipe, Stored, Weight, materialize
from .base import WEIGHTS

Progress = Callable[[str, int, int], None]  # stage, bytes done, bytes in all


def used_weights(program: Program) -> dict[str, Weight]:
    """The weights that some function names, in the order of the table."""
    nodes = (n for g in program.functions.values() for n in g.nodes)
    names = {n.attrs["name"] for n in nodes if n.op.name == "weight"}
    return {name: w for name, w in program.weights.items() if name in names}


def derived_weights(program: Program) -> dict[str, str]:
    """Used weight -> the stored weight that it is the transpose of: a tied head is stored once, as the embedding.

    The other one must be used as it is, or be known to lie in a bundle's file already.
    """
    used = used_weights(program)
    names: dict[object, str] = {}
    for name, weight in (*used.items(), *program.weights.items()):
        names.setdefault(_identity(weight), name)
    found: dict[str, str] = {}
    for name, weight in used.items():
        base = _transposed(weight)
        if base is None or _transposed(base) is not None or _identity(base) not in names:
            continue
        kept = names[_identity(base)]
        if kept in used or (isinstance(base.source, Stored) and base.source.file == WEIGHTS):
            found[name] = kept
    return found


def _identity(weight: Weight) -> object:
    return weight.source if isinstance(weight.source, Stored) else weight


def _transposed(weight: Weight) -> Weight | None:
    """What a weight is the transpose of."""
    source = weight.source
    return source.inputs[0] if isinstance(source, Recipe) and source.op.name == "transpose" else None


def stored_weights(program: Program) -> dict[str, Weight]:
    """The weights whose bytes are written."""
    derived = derived_weights(program)
    names = (used_weights(program).keys() - derived.keys()) | set(derived.values())
    return {name: w for name, w in program.weights.items() if name in names}


def stored_program(program: Program) -> Program:
    """The program with its weights as references into the bundle's file, and transposes of those."""
    derived = derived_weights(program)
    stored = {name: Weight(w.type, Stored(WEIGHTS, name)) for name, w in stored_weights(program).items()}

    def now(name: str, weight: Weight) -> Weight:
        if name in stored:
            return stored[name]
        assert isinstance(weight.source, Recipe)
        recipe = Recipe(weight.source.op, weight.source.attrs, (stored[derived[name]],))
        return Weight(weight.type, recipe)

    kept = {name: w for name, w in program.weights.items() if name in stored or name in derived}
    return program.replace(weights={name: now(name, w) for name, w in kept.items()})


def write(path: Path, weights: Mapping[str, Weight], progress: Progress | None = None) -> None:
    """Streams the weights into a safetensors file; recipes are computed one at a time.

    Raises: BuildError on a type that safetensors has no name for, or a full disk; LoadError where bytes are missing.
    """
    total = sum(int(str(w.type.bytes)) for w in weights.values())
    done = 0

    def item(name: str, weight: Weight) -> Item:
        def make() -> np.ndarray:
            nonlocal done
            done += int(str(weight.type.bytes))
            if progress:
                progress("weights", done, total)
            return materialize(weight)

        return name, weight.type, make

    write_weights(path, [item(name, weight) for name, weight in weights.items()])
