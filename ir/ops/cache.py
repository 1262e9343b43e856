"""Caches that stay in place between runs: writing into them, and attention over what they hold."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..diagnostics import GraphError
from ..dims import Dim
from ..dtypes import i64
from ..op import Attr, Op, get, op
from ..tensor import TensorType, Work
from .checks import INTEGERS, of_kind, same_dtype, within
from .letters import letters, spell
from .widen import as_type


@op
class cache_write(Op):
    """The cache with new rows at a position; the result overwrites the cache, which must not be read after.

    Shapes, with axis 1: cache [b, t, *r], new [b, s, *r], position integer [] or [b] (each row's own),
      0 <= position <= t - s -> [b, t, *r]. The rows position..position + s - 1 of the axis become new's.
    Reads and writes what is new, not the cache. In numpy the cache is copied.
    """

    inputs = ("cache", "new", "position")
    attrs = {"axis": Attr(int, 1)}
    axes = "b t! *r, b s! *r, -> b t! *r"
    aliases = {0: 0}
    pure_move = True

    def infer(self, cache: TensorType, new: TensorType, position: TensorType, *, axis: int) -> TensorType:
        of_kind("cache_write", "position", position, INTEGERS)
        same_dtype("cache_write", cache, new)
        if not 1 <= axis < cache.rank:
            raise GraphError(f"cache_write: axis {axis} is none of {cache}'s, or its first")
        others = [t.shape[:axis] + t.shape[axis + 1 :] for t in (cache, new)]
        if cache.rank != new.rank or others[0] != others[1]:
            raise GraphError(f"cache_write: {new} does not fit into {cache}")
        if position.shape not in ((), cache.shape[:1]):
            raise GraphError("cache_write: position is a scalar, or one for each row", found=str(position))
        within("cache_write", new.shape[axis], cache.shape[axis], f"{new} is longer than {cache}")
        return cache

    def axes_for(self, cache: TensorType, new: TensorType, position: TensorType, *, axis: int) -> str:
        names = letters(cache.rank, {axis})
        fresh = [*names[:axis], *letters(1, {0}, first=cache.rank), *names[axis + 1 :]]
        return spell([names, fresh, names[: position.rank]], [names])

    def flops(self, out: TensorType, *types: Any, **attrs: Any) -> Dim:
        return 0

    def work(self, outs: Any, types: Any, attrs: Any) -> Work:
        return Work(0, types[1].bytes + types[2].bytes, types[1].bytes)

    def reference(self, cache: np.ndarray, new: np.ndarray, position: np.ndarray, *, axis: int = 1) -> np.ndarray:
        out, length = cache.copy(), new.shape[axis]
        if position.size and (position.min() < 0 or position.max() + length > cache.shape[axis]):
            raise GraphError(
                f"cache_write: {length} rows at {position.max()} do not fit into {cache.shape[axis]}"
            )
        for row, start in enumerate(np.broadcast_to(position, cache.shape[:1])):
            np.moveaxis(out[row], axis - 1, 0)[start : start + length] = np.moveaxis(new[row], axis - 1, 0)
        return out

    def decompose(self, b: Any, cache: Any, new: Any, position: Any, *, axis: int) -> Any:
        """A selection over the whole cache, for targets that cannot write in place."""
        rows, t, s, rank = cache.type.shape[0], cache.type.shape[axis], new.type.shape[axis], cache.type.rank
        position = as_type(b, position, i64)
        if position.type.rank == 1:
            position = b.emit("reshape", position, shape=(rows, 1))
        at = b.emit("sub", b.emit("iota", length=t, dtype=i64), position)
        zero, length = b.constant(0, i64), b.emit("dim_value", dim=s)
        inside = b.emit("and", b.emit("ge", at, zero), b.emit("lt", at, length))
        last = b.emit("sub", length, b.constant(1, i64))
        at = b.emit("minimum", b.emit("maximum", at, zero), last)
        wide = (1 if at.type.rank == 1 else rows, *[1] * (axis - 1), t, *[1] * (rank - axis - 1))
        at = b.emit("expand", b.emit("reshape", at, shape=wide), shape=cache.type.shape)
        inside = b.emit("reshape", inside, shape=wide)
        return b.emit("where", inside, b.emit("gather_elements", new, at, axis=axis), cache)


@op
class cached_attention(Op):
    """Causal attention of new tokens over what each row's cache holds and themselves; they are written into it.

    Shapes: q [b, s, h, d], k [b, s, g, d], v [b, s, g, e], key_cache [b, g, t, d], value_cache [b, g, t, e],
      position integer [b]: how many tokens of each row the caches hold, position + s <= t
      -> [b, s, h, e] and the two caches with k and v at position..position + s - 1.
    bias, sinks, scale, window, softcap: as of `attention`, of queries at `position` among the t places of the cache.
    The caches are overwritten in place and must not be read after.
    Flops: of `attention` of s queries at the end of t keys: how much of the cache is filled is not known before.
    """

    inputs = ("q", "k", "v", "key_cache", "value_cache", "position", "bias?", "sinks?")
    attrs = {"scale": float, "window": Attr(int, 0), "softcap": Attr(float, 0.0)}
    axes = (
        "b s! (g r) d!, b s! g d!, b s! g e, b g t! d!, b g t! e, b, *m, (g r) -> b s! (g r) e, b g t! d!, b g t! e"
    )
    aliases = {1: 3, 2: 4}
    keeps_f32 = True

    def infer(self, q: TensorType, k: TensorType, v: TensorType, key_cache: TensorType, value_cache: TensorType,
              position: TensorType, bias: Any = None, sinks: Any = None,
              **attrs: Any) -> tuple[TensorType, ...]:  # fmt: skip
        write, moved = get("cache_write"), []
        for cache, new in ((key_cache, k), (value_cache, v)):
            if new.rank != 4:
                raise GraphError("cached_attention: k and v are [batch, length, heads, size]", found=str(new))
            b, s, g, d = new.shape
            write.infer(cache, new.with_shape(b, g, s, d), position, axis=2)
            moved.append(cache.with_shape(cache.shape[0], cache.shape[2], *cache.shape[1::2]))
        y: Any = get("attention").infer(q, *moved, None, bias, sinks, position, causal=True, **attrs)
        return y, key_cache, value_cache

    def axes_for(self, *types: Any, **attrs: Any) -> str:
        bias = types[6] if len(types) > 6 else None
        full = ("b", "(g r)", "s!", "t!")
        of_bias = "b t!" if bias is None else " ".join(
            "1" if d == 1 else n for d, n in zip(bias.shape, full, strict=True)
        )  # fmt: skip
        return self.axes.replace("*m", of_bias)

    def flops(self, out: TensorType, q: TensorType, k: TensorType, v: TensorType, key_cache: TensorType,
              *rest: Any, **attrs: Any) -> Dim:  # fmt: skip
        return get("attention").flops(out, *_seen(q, k, v, key_cache), causal=True, **attrs)

    def hardware_flops(self, out: TensorType, q: TensorType, k: TensorType, v: TensorType, key_cache: TensorType,
                       *rest: Any, **attrs: Any) -> Dim:  # fmt: skip
        return get("attention").hardware_flops(out, *_seen(q, k, v, key_cache), causal=True, **attrs)

    def work(self, outs: Any, types: Any, attrs: Any) -> Work:
        """The caches are read; of them only what is new is written."""
        whole = super().work(outs, types, attrs)
        written = outs[0].bytes + types[1].bytes + types[2].bytes
        return Work(whole.flops, whole.read_bytes, written, whole.hardware_flops)

    def reference(self, q: Any, k: Any, v: Any, key_cache: Any, value_cache: Any, position: Any, bias: Any = None,
                  sinks: Any = None, **attrs: Any) -> tuple[np.ndarray, ...]:  # fmt: skip
        write: Any = get("cache_write").reference
        swap = (0, 2, 1, 3)
        keys = write(key_cache, k.transpose(swap), position, axis=2)
        values = write(value_cache, v.transpose(swap), position, axis=2)
        seen = [x.transpose(swap) for x in (keys, values)]
        y: Any = get("attention").reference(q, *seen, None, bias, sinks, position, causal=True, **attrs)
        return y, keys, values

    def decompose(self, b: Any, q: Any, k: Any, v: Any, key_cache: Any, value_cache: Any, position: Any,
                  bias: Any = None, sinks: Any = None, **attrs: Any) -> Any:  # fmt: skip
        """Two writes and attention over the whole caches."""

        def moved(x: Any) -> Any:
            return b.emit("transpose", x, perm=(0, 2, 1, 3))

        keys = b.emit("cache_write", key_cache, moved(k), position, axis=2)
        values = b.emit("cache_write", value_cache, moved(v), position, axis=2)
        y = b.emit("attention", q, moved(keys), moved(values), None, bias, sinks, position, causal=True, **attrs)
        return y, keys, values


def _seen(q: TensorType, k: TensorType, v: TensorType, cache: TensorType) -> tuple[TensorType, TensorType, TensorType]:
    """q, k and v as attention over a full cache has them."""
    t = cache.shape[2]
    return q, *(x.with_shape(x.shape[0], t, *x.shape[2:]) for x in (k, v))  # type: ignore[return-value]
