"""What one run of a bundle must do: its FLOPs, and the bytes of the weights that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backends.generation.session import STEP
from ..compiler.analysis import static_values
from ..ir import dims
from ..ir.graph import Program
from ..ir.walk import walk

FIRST_KEYS = "past_key_0"
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Counted:
    """flops: of all ops. weights_bytes: what is read of weights, of a table only the rows that are looked up."""

    flops: int
    weights_bytes: int


def steps_on(entries: Mapping[str, Any], inputs: Arrays) -> bool:
    """Whether these inputs are timed by a bundle's step, which writes its caches in place."""
    return STEP in entries and FIRST_KEYS in inputs


def step_inputs(signature: Any, inputs: Arrays) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(caches that hold what the inputs say of the past and have room for one more, what else the step takes)."""
    rows, past = inputs[FIRST_KEYS].shape[0], inputs[FIRST_KEYS].shape[2]
    specs = {s.name: s for s in signature.inputs}
    caches = {}
    for name in signature.aliases.values():
        kept = inputs[name.replace("cache_", "past_", 1)]
        caches[name] = np.zeros((rows, kept.shape[1], past + 1, kept.shape[3]), kept.dtype)
        caches[name][:, :, :past] = kept
    at = np.full(rows, past, np.int64)
    every = {"input_ids": inputs["input_ids"], "position": at, "window_position": at, "select": np.zeros(1, np.int64)}
    return caches, {name: array for name, array in every.items() if name in specs}


def counted(bundle: Any, inputs: Arrays) -> Counted:
    """Of the entry that runs on these inputs."""
    entry = next(iter(bundle.entries))
    given = dict(inputs)
    if steps_on(bundle.entries, inputs):
        entry = STEP
        caches, others = step_inputs(bundle.entries[STEP], inputs)
        given = {**caches, **others}
    return of_program(bundle.program, entry, bundle.entries[entry].bind(given))


def of_program(program: Program, entry: str, sizes: Mapping[str, int]) -> Counted:
    """Of one entry at these sizes."""
    static = set().union(*static_values(program).values())
    flops = read = 0
    for _, node in walk(program, entry):
        if all(v is None or v in static for v in node.inputs):
            continue  # it makes or holds weights, and its readers count them
        work = node.op.work(node.output_types, node.input_types, node.attrs).at(sizes)
        held = sum(dims.evaluate(v.type.bytes, sizes) for v in node.inputs if v is not None and v in static)
        assert isinstance(work.flops, int) and isinstance(work.read_bytes, int)
        flops, read = flops + work.flops, read + min(held, work.read_bytes)
    return Counted(flops, read)
