"""Scaled dot-product attention and rotary position embedding."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import dims
from ..diagnostics import GraphError
from ..dims import Dim
from ..op import Attr, Op, op
from ..tensor import TensorType, Work
from .broadcast import broadcast


@op
class attention(Op):
    """softmax(scale · q kᵀ + bias, where allowed) v, per head; a row that may attend to nothing gives 0.

    Shapes: q [b, s, h, d], k [b, t, g, d], v [b, t, g, e] with h a multiple of g -> [b, s, h, e].
      mask: bool, true where attention is allowed: [b, t] (keys that are padding), or broadcastable to [b, h, s, t].
      bias: added to the scores, broadcastable to [b, h, s, t].
      sinks [h]: one more logit per head, in the softmax's denominator only.
    causal: query i (counted from the end of the keys) sees keys up to its own position: j <= i + t - s.
    window: with w > 0, query i sees keys with i + t - s - j < w only; when not causal also j - (i + t - s) < w.
    softcap: with c > 0, scores become c · tanh(scores / c) before masking.
    Flops: 2 · pairs · (d + e) for the products and 4 · pairs for the softmax, pairs = b · h · s · t whatever the mask
    (what a dense kernel does).
    Source: Vaswani et al. 2017, "Attention Is All You Need".
    """

    inputs = ("q", "k", "v", "mask?", "bias?", "sinks?")
    attrs = {
        "scale": float,
        "causal": Attr(bool, False),
        "window": Attr(int, 0),
        "softcap": Attr(float, 0.0),
    }
    axes = "b s h d!, b t! g d!, b t! g e, b t!, *m, h -> b s h e"
    keeps_f32 = True

    def infer(self, q: TensorType, k: TensorType, v: TensorType, mask: Any = None, bias: Any = None,
              sinks: Any = None, **attrs: Any) -> TensorType:  # fmt: skip
        found = f"q {q}, k {k}, v {v}"
        if not q.rank == k.rank == v.rank == 4:
            raise GraphError("attention: q, k, v are [batch, length, heads, size]", found=found)
        (b, s, h, d), (_, t, g, _), e = q.shape, k.shape, v.shape[3]
        same_dtype("attention", q, k, v)
        if k.shape != (b, t, g, d) or v.shape[:3] != (b, t, g):
            raise GraphError("attention: q, k and v do not fit together", found=found)
        if not (isinstance(h, int) and isinstance(g, int) and h % g == 0):
            raise GraphError(f"attention: {h} query heads are no multiple of {g}", found=found)
        if mask is not None:
            of_kind("attention", "mask", mask, BOOL)
            if mask.shape != (b, t):
                self._fits("mask", mask, (b, h, s, t))
        if bias is not None:
            self._fits("bias", bias, (b, h, s, t))
        if sinks is not None and sinks.shape != (h,):
            raise GraphError("attention: sinks are one per head", found=str(sinks))
        return TensorType(q.dtype, (b, s, h, e))

    @staticmethod
    def _fits(what: str, type: TensorType, scores: tuple[Dim, ...]) -> None:
        if type.rank != 4 or broadcast("attention", type.shape, scores) != scores:
            raise GraphError(f"attention: the {what} does not broadcast to the scores", found=f"{type} to {scores}")

    def flops(self, out: TensorType, q: TensorType, k: TensorType, v: TensorType, *rest: Any, **attrs: Any) -> Dim:
        pairs = dims.product(q.shape[:3]) * k.shape[1]
        return 2 * pairs * (q.shape[3] + v.shape[3]) + 4 * pairs

    def reference(self, q: Any, k: Any, v: Any, mask: Any = None, bias: Any = None, sinks: Any = None, *,
                  scale: float, causal: bool, window: int, softcap: float) -> np.ndarray:  # fmt: skip
        q, k, v = (x.astype(np.float64).transpose(0, 2, 1, 3) for x in (q, k, v))
        s, t, repeat = q.shape[2], k.shape[2], q.shape[1] // k.shape[1]
        k, v = k.repeat(repeat, 1), v.repeat(repeat, 1)
        scores = (q @ k.swapaxes(2, 3)) * scale
        if softcap > 0:
            scores = softcap * np.tanh(scores / softcap)
        if bias is not None:
            scores = scores + bias
        scores = np.where(self.allowed(s, t, mask, causal, window), scores, -np.inf)
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
    def allowed(s: int, t: int, mask: np.ndarray | None, causal: bool, window: int) -> np.ndarray:
        """Where attention may look: bool, broadcastable to [b, h, s, t]."""
        distance = np.arange(s)[:, None] + (t - s) - np.arange(t)[None, :]
        ok = np.ones((1, 1, s, t), bool)
        if causal:
            ok = ok & (distance >= 0)
        if window > 0:
            ok = ok & (distance < window) & (distance > -window)
        if mask is not None:
            ok = ok & (mask[:, None, None, :] if mask.ndim == 2 else mask)
        return ok


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
    axes = "b s h d!, b s d!, b s d! -> b s h d!"

    def infer(self, x: TensorType, cos: TensorType, sin: TensorType, *, interleaved: bool) -> TensorType:
        ok = x.rank == 4 and cos.rank == 3 and cos.shape == sin.shape and cos.shape[1] == x.shape[1]
        if not ok or cos.shape[0] not in (1, x.shape[0]):
            raise GraphError("rotary: cos and sin are [batch or 1, length, features]", found=f"{x}, {cos}, {sin}")
        return x

    def flops(self, out: TensorType, x: TensorType, cos: TensorType, sin: TensorType, *, interleaved: bool) -> Dim:
        return 3 * dims.product(x.shape[:3]) * cos.shape[-1]

    def work(self, outs: Any, types: Any, attrs: Any) -> Work:
        return super().work(outs, types, attrs)

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
