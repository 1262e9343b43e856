"""Stored cases: inputs and what the ORIGINAL model answered, kept in a bundle to verify it by."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from ..ir.diagnostics import LoadError
from ..ir.dtypes import from_numpy
from ..ir.tensor import TensorType
from ..ir.weight_file import Item, write_weights
from ..ir.weights import open_safetensors

ARRAYS, INDEX = "cases.safetensors", "cases.json"


@dataclass(frozen=True, eq=False)
class Case:
    """One call of an entry. `name` says what it tests (`left padding`).

    rows: for an output with the leading axes of the inputs (batch, seq), which of its batch·seq rows are kept, i64;
    the stored output then is [len(rows), ...].
    noise: how far the original's own rounding takes an output from the same model in f64, the largest difference.
    not_finite: the outputs that the original gives NaN or infinity for, at places that count; those are left out.
    """

    name: str
    entry: str
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    rows: Mapping[str, np.ndarray] = field(default_factory=dict)
    noise: Mapping[str, float] = field(default_factory=dict)
    not_finite: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Cases:
    """origin: what made the outputs, with its version (`torch 2.13.0`, `onnxruntime 1.31.1`)."""

    origin: str
    cases: Sequence[Case]


def write_cases(folder: Path, cases: Cases) -> None:
    """Writes both files. Raises: OSError."""
    items: list[Item] = []
    index = []
    for i, case in enumerate(cases.cases):
        for side, values in (("in", case.inputs), ("out", case.outputs), ("rows", case.rows)):
            for name, array in values.items():
                type = TensorType(from_numpy(array.dtype), array.shape)
                items.append((f"{i}/{side}/{name}", type, partial(np.asarray, array)))
        index.append(
            {"name": case.name, "entry": case.entry, "inputs": list(case.inputs), "outputs": list(case.outputs),
             "rows": list(case.rows), "noise": dict(case.noise),
             **({"not_finite": list(case.not_finite)} if case.not_finite else {})}
        )
    write_weights(folder / ARRAYS, items)
    text = json.dumps({"origin": cases.origin, "cases": index}, indent=1, sort_keys=True)
    (folder / INDEX).write_text(text + "\n")


class _Row(msgspec.Struct):
    """One case in cases.json: the names of its arrays."""

    name: str
    entry: str
    inputs: list[str]
    outputs: list[str]
    rows: list[str]
    noise: dict[str, float]
    not_finite: list[str] = []


class _Index(msgspec.Struct):
    origin: str
    cases: list[_Row]


def read_cases(folder: Path) -> Cases:
    """The cases of an opened bundle; none gives an empty set. Raises: LoadError."""
    if not (folder / INDEX).is_file():
        return Cases("", ())
    try:
        index = msgspec.convert(json.loads((folder / INDEX).read_text(encoding="utf-8")), _Index)
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(f"{INDEX} is broken", found=str(error)[:200]) from error
    arrays = open_safetensors(folder / ARRAYS)

    def held(i: int, side: str, names: Sequence[str]) -> dict[str, np.ndarray]:
        return {name: arrays[f"{i}/{side}/{name}"] for name in names}

    cases = tuple(
        Case(c.name, c.entry, held(i, "in", c.inputs), held(i, "out", c.outputs), held(i, "rows", c.rows), c.noise,
             tuple(c.not_finite))
        for i, c in enumerate(index.cases)
    )  # fmt: skip
    return Cases(index.origin, cases)
