"""Writing into a cache that stays in place between runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..diagnostics import GraphError
from ..dims import Dim
from ..dtypes import i64
from ..op import Op, op
from ..tensor import TensorType, Work
from .checks import INTEGERS, of_kind, same_dtype, within
from .letters import letters, spell
from .widen import as_type


@op
class cache_write(Op):
    """The cache with new rows at a position; the result overwrites the cache, which must not be read after.

    Shapes: cache [b, t, *r], new [b, s, *r], position integer [] or [b] (each row's own), 0 <= position <= t - s
      -> [b, t, *r]. The rows position..position + s - 1 of axis 1 become new's.
    Reads and writes what is new, not the cache. In numpy the cache is copied.
    """

    inputs = ("cache", "new", "position")
    axes = "b t! *r, b s! *r, -> b t! *r"
    aliases = {0: 0}
    pure_move = True

    def infer(self, cache: TensorType, new: TensorType, position: TensorType) -> TensorType:
        of_kind("cache_write", "position", position, INTEGERS)
        same_dtype("cache_write", cache, new)
        fits = cache.rank >= 2 and cache.rank == new.rank and cache.shape[:1] == new.shape[:1]
        if not fits or cache.shape[2:] != new.shape[2:]:
            raise GraphError(f"cache_write: {new} does not fit into {cache}")
        if position.shape not in ((), cache.shape[:1]):
            raise GraphError("cache_write: position is a scalar, or one for each row", found=str(position))
        within("cache_write", new.shape[1], cache.shape[1], f"{new} is longer than {cache}")
        return cache

    def axes_for(self, cache: TensorType, new: TensorType, position: TensorType) -> str:
        names = letters(cache.rank, {1})
        fresh = [names[0], *letters(1, {0}, first=cache.rank), *names[2:]]
        return spell([names, fresh, names[: position.rank]], [names])

    def flops(self, out: TensorType, *types: Any) -> Dim:
        return 0

    def work(self, outs: Any, types: Any, attrs: Any) -> Work:
        return Work(0, types[1].bytes + types[2].bytes, types[1].bytes)

    def reference(self, cache: np.ndarray, new: np.ndarray, position: np.ndarray) -> np.ndarray:
        out, length = cache.copy(), new.shape[1]
        if position.size and (position.min() < 0 or position.max() + length > cache.shape[1]):
            raise GraphError(
                f"cache_write: {length} rows at {position.max()} do not fit into {cache.shape[1]}"
            )
        for row, start in enumerate(np.broadcast_to(position, cache.shape[:1])):
            out[row, start : start + length] = new[row]
        return out

    def decompose(self, b: Any, cache: Any, new: Any, position: Any) -> Any:
        """A selection over the whole cache, for targets that cannot write in place."""
        (rows, t), s, rank = cache.type.shape[:2], new.type.shape[1], cache.type.rank
        position = as_type(b, position, i64)
        if position.type.rank == 1:
            position = b.emit("reshape", position, shape=(rows, 1))
        at = b.emit("sub", b.emit("iota", length=t, dtype=i64), position)
        zero, length = b.constant(0, i64), b.emit("dim_value", dim=s)
        inside = b.emit("and", b.emit("ge", at, zero), b.emit("lt", at, length))
        last = b.emit("sub", length, b.constant(1, i64))
        at = b.emit("minimum", b.emit("maximum", at, zero), last)
        wide = (1 if at.type.rank == 1 else rows, t, *[1] * (rank - 2))
        at = b.emit("expand", b.emit("reshape", at, shape=wide), shape=cache.type.shape)
        inside = b.emit("reshape", inside, shape=wide)
        return b.emit("where", inside, b.emit("gather_elements", new, at, axis=1), cache)
