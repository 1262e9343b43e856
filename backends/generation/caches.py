"""The memory of a batch's keys and values: reserved once for its capacity, taken from the machine as it is filled."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ...ir import dims
from ...ir.diagnostics import RunError
from ..signature import Signature

_PAGE = mmap.PAGESIZE


def allocate(signature: Signature, sizes: Mapping[str, int], runner: Any = None) -> dict[str, np.ndarray]:
    """Zeros for every input that an entry writes over, at these sizes, in one reserved piece of memory; or as the
    runner makes them, where its device has memory of its own (`zeros`).

    A page of it takes room in the machine once something is written there, so what is not yet filled costs nothing.
    Huge pages are declined: one of them would span the places of thousands of tokens.
    Raises: RunError where the machine does not give so much.
    """
    specs = [s for s in signature.inputs if s.name in set(signature.aliases.values())]
    shapes = {s.name: tuple(dims.evaluate(d, sizes) for d in s.type.shape) for s in specs}
    kinds = {s.name: s.type.dtype.numpy for s in specs}
    if hasattr(runner, "zeros"):
        return {name: runner.zeros(shape, kinds[name]) for name, shape in shapes.items()}
    room = {name: -(-prod(shape) * kinds[name].itemsize // _PAGE) * _PAGE for name, shape in shapes.items()}
    try:
        held = mmap.mmap(-1, max(_PAGE, sum(room.values())), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError, ValueError) as error:
        size = f"{sum(room.values()):,}"
        raise RunError(f"no memory for caches of {size} bytes", hint="take a smaller context") from error
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        held.madvise(mmap.MADV_NOHUGEPAGE)
    found, at = {}, 0
    for name, shape in shapes.items():
        found[name] = np.frombuffer(held, kinds[name], prod(shape), at).reshape(shape)
        at += room[name]
    return found


@dataclass(frozen=True)
class Prefix:
    """What is kept of a text's first `length` tokens: a copy, one row [heads, places, size] of each cache.

    window_length: how many places the layers with a sliding window hold.
    """

    length: int
    window_length: int
    arrays: Mapping[str, np.ndarray]

    @property
    def bytes(self) -> int:
        """Of memory."""
        return sum(a.nbytes for a in self.arrays.values())
