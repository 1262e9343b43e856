"""The torch custom ops that stand for one op of ours while torch.export traces.

Their CPU kernels run for real, so that a captured module can still be executed by torch.
q [b, h, s, d], k and v [b, g, t, d] -> [b, s, h, e]; masks are true where attention is allowed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

_SCHEMAS = (
    "attention(Tensor q, Tensor k, Tensor v, Tensor? mask=None, Tensor? bias=None, Tensor? sinks=None, *, "
    "float scale, bool causal=False, int window=0, float softcap=0.0) -> Tensor",
    "band_mask(Tensor? padding, SymInt batch, SymInt q_len, SymInt kv_len, SymInt q_offset, SymInt kv_offset, *, "
    "bool causal, int window, Device? device=None) -> Tensor",
)


def _band(sizes: tuple[Any, ...], causal: bool, window: int, device: Any) -> Tensor:
    q_len, kv_len, q_offset, kv_offset = sizes
    q = torch.arange(q_len, device=device)[:, None] + q_offset
    k = torch.arange(kv_len, device=device)[None, :] + kv_offset
    keep = torch.ones(q_len, kv_len, dtype=torch.bool, device=device)
    if causal:
        keep = keep & (k <= q)
    if window:
        keep = keep & ((q - k).abs() < window)
    return keep


def _band_mask(padding: Any, batch: Any, q_len: Any, kv_len: Any, q_offset: Any, kv_offset: Any, *,
               causal: bool, window: int, device: Any = None) -> Tensor:  # fmt: skip
    device = padding.device if padding is not None else device
    keep = _band((q_len, kv_len, q_offset, kv_offset), causal, window, device)
    keep = keep[None, None].expand(batch, 1, q_len, kv_len)
    if padding is not None:
        keep = keep & padding[:, None, None, kv_offset : kv_offset + kv_len]
    return keep.contiguous()


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Any = None, bias: Any = None, sinks: Any = None, *,
               scale: float, causal: bool = False, window: int = 0, softcap: float = 0.0) -> Tensor:  # fmt: skip
    repeat = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    scores = (q @ k.transpose(-1, -2)).float() * scale
    scores = torch.tanh(scores / softcap) * softcap if softcap else scores
    scores = scores if bias is None else scores + bias
    s, t = scores.shape[-2:]
    keep = _band((s, t, t - s, 0), causal, window, q.device)[None, None]
    if mask is not None:
        keep = keep & (mask[:, None, None, :] if mask.dim() == 2 else mask)
    scores = scores.masked_fill(~keep, float("-inf"))
    top = scores.amax(-1, keepdim=True)
    if sinks is not None:
        top = torch.maximum(top, sinks.float().view(1, -1, 1, 1))
    top = top.masked_fill(top == float("-inf"), 0.0)
    weights = torch.exp(scores - top)
    total = weights.sum(-1, keepdim=True)
    if sinks is not None:
        total = total + torch.exp(sinks.float().view(1, -1, 1, 1) - top)
    weights = (weights / total.masked_fill(total == 0, 1.0)).to(v.dtype)
    return (weights @ v).transpose(1, 2).contiguous()


def _attention_shape(q: Tensor, k: Tensor, v: Tensor, *rest: Any, **attrs: Any) -> Tensor:
    return q.new_empty((q.shape[0], q.shape[2], q.shape[1], v.shape[3]))


def _band_mask_shape(padding: Any, batch: Any, q_len: Any, kv_len: Any, *rest: Any, **attrs: Any) -> Tensor:
    device = padding.device if padding is not None else attrs["device"]
    return torch.empty((batch, 1, q_len, kv_len), dtype=torch.bool, device=device)


@lru_cache(maxsize=1)
def library() -> torch.library.Library:
    """Defines the ops, once in a process."""
    lib = torch.library.Library("tundish", "FRAGMENT")
    for schema in _SCHEMAS:
        lib.define(schema)
    lib.impl("attention", _attention, "CompositeExplicitAutograd")
    lib.impl("band_mask", _band_mask, "CompositeExplicitAutograd")
    lib.impl("band_mask", _band_mask, "BackendSelect")  # padding None: no tensor to dispatch on
    torch.library.register_fake("tundish::attention", _attention_shape, lib=lib)
    torch.library.register_fake("tundish::band_mask", _band_mask_shape, lib=lib)
    return lib
