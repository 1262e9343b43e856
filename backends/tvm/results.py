"""Memory for outputs: what nobody holds any longer is written over by the next run.

Fresh memory costs a page fault for each 4 KiB, which of a large output can take as long as computing it.
"""

from __future__ import annotations

import math
import sys

import numpy as np

from ...compiler.passes.memory import ALIGN

MOST_BYTES = 256 << 20  # of an output that is kept between runs
KEPT = 2  # blocks of an output: a caller often holds the last answer until it has the next
_OURS = 3  # references to a block while it is looked at: the list's, a variable's and the call's own


class Results:
    """Blocks of memory by output; arrays are views of them, so that a block's references tell whether any is alive."""

    def __init__(self) -> None:
        self._blocks: dict[str, list[np.ndarray]] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array of any contents, which begins at a cache line, for the output of that name."""
        size = math.prod(shape) * dtype.itemsize
        if not 0 < size <= MOST_BYTES:
            return np.empty(shape, dtype)
        block = self._free(name, size + ALIGN)
        start = -block.ctypes.data % ALIGN
        return block[start : start + size].view(dtype).reshape(shape)

    def _free(self, name: str, size: int) -> np.ndarray:
        """A block of so many bytes at least that nobody else holds: an old one, or a new one in the oldest's place."""
        blocks = self._blocks.setdefault(name, [])
        for block in blocks:
            if block.nbytes >= size and sys.getrefcount(block) <= _OURS:
                return block
        made = np.empty(size, np.uint8)
        self._blocks[name] = [*blocks, made][-KEPT:]
        return made
