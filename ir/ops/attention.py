"""Scaled dot-product attention and rotary position embedding."""

from __future__ import annotations

import functools
from typing import Any

import ml_dtypes
import numpy as np

from .. import dims
from ..diagnostics import GraphError
from ..dims import Dim
from ..dtypes import i64
from ..op import Attr, Op, op
from ..tensor import TensorType
from .broadcast import broadcast
from .checks import BOOL, FLOATS, INTEGERS, of_kind, same_dtype
from .widen import as_type, statistics_dtype


@op
class attention(Op):
    """softmax(scale · q kᵀ + bias, where allowed) v, per head; a row that may attend to nothing gives 0.

    Shapes: q [b, s, h, d], k [b, t, g, d], v [b, t, g, e] with h a multiple of g -> [b, s, h, e].
      mask: bool, true where attention is allowed: [b, t] (keys that are padding), or broadcastable to [b, h, s, t].
      bias: added to the scores, broadcastable to [b, h, s, t].
      sinks [h]: one more logit per head, in the softmax's denominator only.
      position integer [b]: the place of each row's first query among the keys; t - s where it is not given.
    causal: query i, at position p = i + t - s (or i + position), sees keys up to its own: j <= p.
    window: with w > 0, it sees keys with p - j < w only; when not causal also j - p < w.
    softcap: with c > 0, scores become c · tanh(scores / c) before masking.
    Flops: 2 · pairs · (d + e) for the products and 4 · pairs for the softmax, of the pairs that `causal` and `window`
    allow (`twice_allowed_pairs`); hardware FLOPs of all b · h · s · t, as a dense kernel computes them. A mask or bias
    given as a tensor forbids nothing in either: which pairs it forbids is not known before it runs. With a position the
    queries count as if they stood at the end of the keys.
    Source: Vaswani et al. 2017, "Attention Is All You Need".
    """

    inputs = ("q", "k", "v", "mask?", "bias?", "sinks?", "position?")
    attrs = {
        "scale": float,
        "causal": Attr(bool, False),
        "window": Attr(int, 0),
        "softcap": Attr(float, 0.0),
    }
    axes = "b s! (g r) d!, b t! g d!, b t! g e, b t!, *m, (g r), b -> b s! (g r) e"
    keeps_f32 = True

    def infer(self, q: TensorType, k: TensorType, v: TensorType, mask: Any = None, bias: Any = None,
              sinks: Any = None, position: Any = None, **attrs: Any) -> TensorType:  # fmt: skip
        b, s, h, t, e = self._sizes(q, k, v)
        if mask is not None:
            of_kind("attention", "mask", mask, BOOL)
            if mask.shape != (b, t):
                self._fits("mask", mask, (b, h, s, t))
        if bias is not None:
            self._fits("bias", bias, (b, h, s, t))
        if sinks is not None and sinks.shape != (h,):
            raise GraphError("attention: sinks are one per head", found=str(sinks))
        if position is not None:
            of_kind("attention", "position", position, INTEGERS)
            if position.shape != (b,):
                raise GraphError("attention: position is one for each row", found=str(position))
        return TensorType(q.dtype, (b, s, h, e))

    @staticmethod
    def _sizes(q: TensorType, k: TensorType, v: TensorType) -> tuple[Dim, Dim, int, Dim, Dim]:
        """Batch, queries, heads, keys and the size of a value. Raises: GraphError where they do not fit together."""
        found = f"q {q}, k {k}, v {v}"
        if not q.rank == k.rank == v.rank == 4:
            raise GraphError("attention: q, k, v are [batch, length, heads, size]", found=found)
        same_dtype("attention", q, k, v)
        of_kind("attention", "q", q, FLOATS)
        (b, s, h, d), (_, t, g, _), e = q.shape, k.shape, v.shape[3]
        if k.shape != (b, t, g, d) or v.shape[:3] != (b, t, g):
            raise GraphError("attention: q, k and v do not fit together", found=found)
        if not (isinstance(h, int) and isinstance(g, int) and g > 0 and h % g == 0):
            raise GraphError(f"attention: {h} query heads are no multiple of {g}", found=found)
        return b, s, h, t, e

    @staticmethod
    def _fits(what: str, type: TensorType, scores: tuple[Dim, ...]) -> None:
        if type.rank != 4 or broadcast("attention", type.shape, scores) != scores:
            raise GraphError(f"attention: the {what} does not broadcast to the scores", found=f"{type} to {scores}")

    def axes_for(self, q: TensorType, k: TensorType, v: TensorType, mask: Any = None, bias: Any = None,
                 sinks: Any = None, position: Any = None, **attrs: Any) -> str:  # fmt: skip
        """Queries may be split where their positions do not matter."""
        s = "s!" if attrs["causal"] or attrs["window"] else "s"

        def scores(type: TensorType | None) -> str:
            full = ("b", "(g r)", s, "t!")
            if type is None or type.rank == 2:
                return "b t!"
            return " ".join("1" if d == 1 else n for d, n in zip(type.shape, full, strict=True))

        return f"b {s} (g r) d!, b t! g d!, b t! g e, {scores(mask)}, {scores(bias)}, (g r), b -> b {s} (g r) e"

    def flops(self, out: TensorType, q: TensorType, k: TensorType, v: TensorType, *rest: Any, **attrs: Any) -> Dim:
        (b, s, h, d), t, e = q.shape, k.shape[1], v.shape[3]
        return b * h * twice_allowed_pairs(s, t, attrs["causal"], attrs["window"]) * (d + e + 2)

    def hardware_flops(self, out: TensorType, q: TensorType, k: TensorType, v: TensorType, *rest: Any,
                       **attrs: Any) -> Dim:  # fmt: skip
        (b, s, h, d), t, e = q.shape, k.shape[1], v.shape[3]
        return 2 * b * h * s * t * (d + e + 2)

    def reference(self, q: Any, k: Any, v: Any, mask: Any = None, bias: Any = None, sinks: Any = None,
                  position: Any = None, *, scale: float, causal: bool, window: int,
                  softcap: float) -> np.ndarray:  # fmt: skip
        q, k, v = (x.astype(np.float64).transpose(0, 2, 1, 3) for x in (q, k, v))
        s, t, repeat = q.shape[2], k.shape[2], q.shape[1] // k.shape[1]
        k, v = k.repeat(repeat, 1), v.repeat(repeat, 1)
        scores = (q @ k.swapaxes(2, 3)) * scale
        if softcap > 0:
            scores = softcap * np.tanh(scores / softcap)
        if bias is not None:
            scores = scores + bias
        scores = np.where(self.allowed(s, t, mask, causal, window, position), scores, -np.inf)
        top = scores.max(-1, keepdims=True, initial=-np.inf)
        if sinks is not None:
            top = np.maximum(top, sinks.reshape(1, -1, 1, 1))
        top = np.where(np.isfinite(top), top, 0.0)
        weights = np.exp(scores - top)
        total = weights.sum(-1, keepdims=True)
        if sinks is not None:
            total = total + np.exp(sinks.astype(np.float64).reshape(1, -1, 1, 1) - top)
        return ((weights / np.where(total == 0, 1.0, total)) @ v).transpose(0, 2, 1, 3)

    @staticmethod
    def allowed(s: int, t: int, mask: np.ndarray | None, causal: bool, window: int,
                position: np.ndarray | None = None) -> np.ndarray:  # fmt: skip
        """Where attention may look: bool, broadcastable to [b, h, s, t]."""
        first = np.int64(t - s) if position is None else position.astype(np.int64).reshape(-1, 1, 1, 1)
        distance = first + np.arange(s)[:, None] - np.arange(t)[None, :]
        ok = np.ones((1, 1, s, t), bool)
        if causal:
            ok = ok & (distance >= 0)
        if window > 0:
            ok = ok & (distance < window) & (distance > -window)
        if mask is not None:
            ok = ok & (mask[:, None, None, :] if mask.ndim == 2 else mask)
        return ok

    def decompose(self, b: Any, q: Any, k: Any, v: Any, mask: Any = None, bias: Any = None, sinks: Any = None,
                  position: Any = None, *, scale: float, causal: bool, window: int, softcap: float) -> Any:  # fmt: skip
        """Two matrix products and a softmax. The query heads that share a key head become rows of one product."""
        (n, s, h, _), (_, t, g, d), e = q.type.shape, k.type.shape, v.type.shape[3]
        dtype = statistics_dtype(q.type.dtype)
        q = b.emit("mul", q, b.constant(scale, q.type.dtype))
        q = b.emit("reshape", b.emit("transpose", q, perm=(0, 2, 1, 3)), shape=(n, g, h // g * s, d))
        scores = b.emit("matmul", q, b.emit("transpose", k, perm=(0, 2, 3, 1)))
        scores = b.emit("reshape", as_type(b, scores, dtype), shape=(n, h, s, t))
        if softcap > 0:
            cap = b.constant(softcap, dtype)
            scores = b.emit("mul", b.emit("tanh", b.emit("div", scores, cap)), cap)
        if bias is not None:
            scores = b.emit("add", scores, as_type(b, bias, dtype))
        ok = _emit_allowed(b, s, t, mask, causal, window, position)
        weights = as_type(b, _emit_weights(b, scores, ok, sinks), v.type.dtype)
        weights = b.emit("reshape", weights, shape=(n, g, h // g * s, t))
        y = b.emit("matmul", weights, b.emit("transpose", v, perm=(0, 2, 1, 3)))
        return b.emit("transpose", b.emit("reshape", y, shape=(n, h, s, e)), perm=(0, 2, 1, 3))


def twice_allowed_pairs(s: Dim, t: Dim, causal: bool, window: int) -> Dim:
    """Twice the (query, key) pairs that `causal` and `window` allow, of s queries at the end of t keys; exact.

    A query at position p sees keys j with p - window < j <= p, or j < p + window where not causal, and 0 <= j < t.
    Its count is a difference of terms max(0, p + c), whose sum over the queries' positions t - s .. t - 1 is one of
    triangle numbers. Twice, because twice a triangle number is a polynomial: causal with s = t gives s·(s + 1).
    Source: ours, by that sum.
    """
    first, rows = t - s, 2 * s * t
    if causal and window > 0 and s == 1:
        return 2 * dims.minimum(t, window)
    upper = _slope(first, t, 1) if causal else rows  # keys up to p
    if window <= 0:
        return upper
    if not causal:  # keys up to p + window - 1, at most t of them
        upper = _slope(first, t, window) - _slope(first, t, window - t)
    return upper - _slope(first, t, 1 - window)  # less those up to p - window


def _slope(first: Dim, stop: Dim, more: Dim) -> Dim:
    """Twice the sum of max(0, p + more) over p = first .. stop - 1."""
    return _twice_triangle(stop - 1 + more) - _twice_triangle(first - 1 + more)


def _twice_triangle(n: Dim) -> Dim:
    """n · (n + 1), and 0 where n is negative."""
    n = n if dims.at_most(0, n, {}) else dims.maximum(n, 0)
    return n * (n + 1)


def _emit_allowed(b: Any, s: Dim, t: Dim, mask: Any, causal: bool, window: int, position: Any) -> Any:
    """Where attention may look, as a bool value that broadcasts to [b, h, s, t]; None where it may everywhere."""
    parts = []
    if causal or window > 0:
        first = t - s if position is None else 0
        rows = b.emit("reshape", b.emit("iota", length=s, start=first, dtype=i64), shape=(s, 1))
        if position is not None:
            own = b.emit("reshape", as_type(b, position, i64), shape=(position.type.shape[0], 1, 1, 1))
            rows = b.emit("add", own, rows)
        distance = b.emit("sub", rows, b.emit("iota", length=t, dtype=i64))
        parts += [b.emit("ge", distance, b.constant(0, i64))] if causal else []
        parts += [b.emit("lt", distance, b.constant(window, i64))] if window > 0 else []
        parts += [b.emit("gt", distance, b.constant(-window, i64))] if window > 0 and not causal else []
    if mask is not None:
        n = mask.type.shape[0]
        parts.append(mask if mask.type.rank == 4 else b.emit("reshape", mask, shape=(n, 1, 1, t)))
    return functools.reduce(lambda one, two: b.emit("and", one, two), parts) if parts else None


def _emit_weights(b: Any, scores: Any, ok: Any, sinks: Any) -> Any:
    """The softmax over what is allowed; a row without any is 0, also where a bias of -inf forbids it."""
    dtype = scores.type.dtype
    lowest = b.constant(float(ml_dtypes.finfo(dtype.numpy).min), dtype)
    zero, one = b.constant(0.0, dtype), b.constant(1.0, dtype)
    if ok is not None:
        scores = b.emit("where", ok, scores, lowest)
    top = b.emit("maximum", b.emit("max", scores, axes=(-1,), keepdims=True), lowest)
    if sinks is not None:
        sinks = b.emit("reshape", as_type(b, sinks, dtype), shape=(1, sinks.type.shape[0], 1, 1))
        top = b.emit("maximum", top, sinks)
    weights = b.emit("exp", b.emit("sub", scores, top))
    if ok is not None:
        weights = b.emit("where", ok, weights, zero)
    total = b.emit("sum", weights, axes=(-1,), keepdims=True)
    if sinks is not None:
        total = b.emit("add", total, b.emit("exp", b.emit("sub", sinks, top)))
    total = b.emit("where", b.emit("eq", total, zero), one, total)
    return b.emit("div", weights, total)


@op
class rotary(Op):
    """Rotates pairs of features by position: x · cos + rotate(x) · sin, on the first cos.shape[-1] features.

    Shapes: x [b, s, h, d], cos and sin [b or 1, s, r] with r <= d -> [b, s, h, d].
    interleaved: pairs are (2i, 2i+1); otherwise (i, i + r/2). cos and sin hold both members of each pair.
    Flops: 3 per rotated element.
    Source: Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding".
    """

    inputs = ("x", "cos", "sin")
    attrs = {"interleaved": Attr(bool, False)}
    axes = "b s h d!, b s r!, b s r! -> b s h d!"

    def infer(self, x: TensorType, cos: TensorType, sin: TensorType, *, interleaved: bool) -> TensorType:
        found = f"x {x}, cos {cos}, sin {sin}"
        ok = x.rank == 4 and cos.rank == 3 and cos.shape == sin.shape and cos.shape[1] == x.shape[1]
        if not ok or cos.shape[0] not in (1, x.shape[0]):
            raise GraphError("rotary: x is [b, s, h, d], cos and sin are [b or 1, s, r]", found=found)
        r, d = cos.shape[2], x.shape[3]
        if dims.mod(r, 2) != 0 or dims.at_most(r, d, {}) is False:
            raise GraphError(f"rotary: turns an even number of features, at most {d}, got {r}", found=found)
        return x

    def axes_for(self, x: TensorType, cos: TensorType, sin: TensorType, *, interleaved: bool) -> str:
        angles = f"{'1' if cos.shape[0] == 1 else 'b'} s r!"
        return f"b s h d!, {angles}, {angles} -> b s h d!"

    def flops(self, out: TensorType, x: TensorType, cos: TensorType, sin: TensorType, *, interleaved: bool) -> Dim:
        return 3 * dims.product(x.shape[:3]) * cos.shape[-1]

    def reference(self, x: Any, cos: Any, sin: Any, *, interleaved: bool) -> np.ndarray:
        r = cos.shape[-1]
        head, tail = x[..., :r], x[..., r:]
        turned = np.empty_like(head)
        if interleaved:
            turned[..., 0::2], turned[..., 1::2] = -head[..., 1::2], head[..., 0::2]
        else:
            turned[..., : r // 2], turned[..., r // 2 :] = -head[..., r // 2 :], head[..., : r // 2]
        y = head * cos[:, :, None, :] + turned * sin[:, :, None, :]
        return np.concatenate([y, tail], -1)

    def decompose(self, b: Any, x: Any, cos: Any, sin: Any, *, interleaved: bool) -> Any:
        (n, s, h, d), r, dtype = x.type.shape, cos.type.shape[2], x.type.dtype
        wide = (cos.type.shape[0], s, 1, r)
        cos, sin = (b.emit("reshape", as_type(b, y, dtype), shape=wide) for y in (cos, sin))

        def part(start: Dim, stop: Dim, step: int = 1) -> Any:
            return b.emit("slice", x, axis=3, start=start, stop=stop, step=step)

        head = x if r == d else part(0, r)
        if interleaved:
            pair = [b.emit("neg", part(1, r, 2)), part(0, r, 2)]
            pair = [b.emit("reshape", y, shape=(*y.type.shape, 1)) for y in pair]
            turned = b.emit("reshape", b.emit("concat", *pair, axis=4), shape=(n, s, h, r))
        else:
            half = dims.floordiv(r, 2)
            turned = b.emit("concat", b.emit("neg", part(half, r)), part(0, half), axis=3)
        y = b.emit("add", b.emit("mul", head, cos), b.emit("mul", turned, sin))
        return y if r == d else b.emit("concat", y, part(r, d), axis=3)
