"""What one entry at some sizes needs of a GPU: where everything lies in one block of its memory, and its launches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....compiler.passes.memory import placed
from ....ir import dims
from ....ir.diagnostics import RunError
from ....ir.dtypes import DTYPES
from ...signature import Signature
from ..runner import number_of, size_of
from ..schedule import Arg, Call, Schedule

EACH = 4  # elements of a thread of an element-wise kernel, a block's width apart: several loads are under way
ALIGN = 256  # where arrays begin: what vectors of any kernel need, and a line of the last cache
_MOST = (1 << 31) - 1  # of a size, and of what a kernel's threads compute: kernels count in 32 bits


@dataclass(frozen=True)
class Ready:
    """A kernel's run: `count` words from `first` on are its parameters."""

    call: Call
    number: int
    grid: int
    first: int
    count: int


@dataclass(frozen=True)
class Array:
    """An input or output in the block: where, and what it is there."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class Table:
    """words: of all launches. weights: a weight's address, by name."""

    def __init__(
        self, schedule: Schedule, signature: Signature, sizes: Mapping[str, int], weights: Callable[[str], int]
    ) -> None:
        self._schedule, self._sizes, self._weight = schedule, dict(sizes), weights
        self.words = np.zeros(max(1, schedule.words), np.int64)
        lives = [(_up(size_of(b.bytes, self._sizes)), b.first, b.last) for b in schedule.buffers]
        self._offsets, self.bytes = placed(lives)
        self.inputs = {s.name: self._array(s.type) for s in signature.inputs}
        self.outputs = {s.name: self._array(s.type) for s in signature.outputs if s.name not in signature.aliases}
        self.constants = np.zeros(len(schedule.constants) * 8, np.uint8)
        self._constants = self._room(len(self.constants))
        self.report = self._room(8)
        for i, c in enumerate(schedule.constants):
            value = np.asarray([number_of(c.value, self._sizes)], DTYPES[c.dtype].numpy).view(np.uint8)
            self.constants[8 * i : 8 * i + len(value)] = value
        self._inside: list[tuple[int, int]] = []
        self._given: dict[str, list[tuple[int, int]]] = {}
        self.launches = list(self._launches())
        self.base = 0

    @property
    def constants_at(self) -> int:
        """Where the constants lie, in the block."""
        return self._constants

    def _room(self, size: int) -> int:
        at, self.bytes = self.bytes, self.bytes + _up(size)
        return at

    def _array(self, type: Any) -> Array:
        shape = tuple(dims.evaluate(d, self._sizes) for d in type.shape)
        made = Array(0, shape, type.dtype.numpy)
        return Array(self._room(made.bytes), shape, made.dtype)

    def _launches(self) -> list[Ready]:
        found, at = [], 0
        for i, call in enumerate(self._schedule.calls):
            first = at
            for arg in call.args:
                self._word(at, arg)
                at += 1
            grid = size_of(call.grid, self._sizes)
            only = call.only
            here = only is None or only.low <= size_of(only.value, self._sizes) <= only.high
            if here and grid > 0:
                self._check(grid * self._schedule.launches[call.kernel].threads * EACH)
                found.append(Ready(call, i, grid, first, at - first))
        return found

    def _check(self, size: int) -> int:
        """Raises: RunError."""
        if abs(size) > _MOST:
            raise RunError("the arrays are too large for the GPU's kernels", found=f"{size}, more than {_MOST}",
                           hint="give fewer rows at a time")  # fmt: skip
        return size

    def _word(self, at: int, arg: Arg) -> None:
        value = size_of(arg.value, self._sizes)
        if arg.kind == "size":
            self.words[at] = self._check(value)
        elif arg.kind == "weight":
            self.words[at] = self._weight(arg.name) + value
        elif arg.kind == "constant":
            self._inside.append((at, self._constants + 8 * int(arg.name) + value))
        elif arg.kind == "report":
            self._inside.append((at, self.report))
        elif arg.kind == "arena":
            self._inside.append((at, self._offsets[int(arg.name)] + value))
        elif arg.kind == "output":
            self._inside.append((at, self.outputs[arg.name].offset + value))
        else:
            self._given.setdefault(arg.name, []).append((at, value))

    def place(self, base: int, elsewhere: Mapping[str, int]) -> bool:
        """Points to a block at an address, and to inputs that lie elsewhere; whether anything changed by that."""
        before = self.words.copy()
        if base != self.base:
            for at, offset in self._inside:
                self.words[at] = base + offset
            self.base = base
        for name, places in self._given.items():
            start = elsewhere.get(name, base + self.inputs[name].offset)
            for at, offset in places:
                self.words[at] = start + offset
        return not np.array_equal(before, self.words)


def _up(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


