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
    "float scale, bool causal=False, int window=0, float softcap=0.0, Tensor? position=None) -> Tensor",
    "cache_write(Tensor cache, Tensor new, Tensor position) -> Tensor",
    "cached_mask(Tensor position, SymInt q_len, SymInt kv_len, *, bool causal, int window) -> Tensor",
    "band_mask(Tensor? padding, SymInt batch, SymInt q_len, SymInt kv_len, SymInt q_offset, SymInt kv_offset, "
    "Tensor? texts=None, Tensor? positions=None, *, bool causal, int window, Device? device=None) -> Tensor",
    "last_marked(Tensor x, Tensor marked) -> Tensor",
    "moe(Tensor x, Tensor indices, Tensor weights, Tensor gate_up, Tensor down, Tensor? gate_up_bias=None, "
    "Tensor? down_bias=None, *, str activation) -> Tensor",
)


def _band(q: Tensor, k: Tensor, causal: bool, window: int) -> Tensor:
    """Which keys at positions k [..., t] each query at q [..., s] sees: bool [..., s, t]."""
    distance = q[..., :, None] - k[..., None, :]
    keep = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    return keep & (distance.abs() < window) if window else keep


def _band_mask(padding: Any, batch: Any, q_len: Any, kv_len: Any, q_offset: Any, kv_offset: Any, texts: Any = None,
               positions: Any = None, *, causal: bool, window: int, device: Any = None) -> Tensor:  # fmt: skip
    """[batch, 1, q_len, kv_len]. texts and positions [batch, length], of as many queries as keys."""
    device = padding.device if padding is not None else device
    q = torch.arange(q_len, device=device) + q_offset if positions is None else positions
    k = torch.arange(kv_len, device=device) + kv_offset if positions is None else positions
    keep = _band(q, k, causal, window)
    if texts is not None:
        keep = keep & (texts[:, :, None] == texts[:, None, :])
    keep = (keep if keep.dim() == 3 else keep[None])[:, None].expand(batch, 1, q_len, kv_len)
    if padding is not None:
        keep = keep & padding[:, None, None, kv_offset : kv_offset + kv_len]
    return keep.contiguous()


def _attention(q: Tensor, k: Tensor, v: Tensor, mask: Any = None, bias: Any = None, sinks: Any = None, *,
               scale: float, causal: bool = False, window: int = 0, softcap: float = 0.0,
               position: Any = None) -> Tensor:  # fmt: skip
    repeat = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    scores = (q @ k.transpose(-1, -2)).float() * scale
    scores = torch.tanh(scores / softcap) * softcap if softcap else scores
    scores = scores if bias is None else scores + bias
    s, t = scores.shape[-2:]
    own = torch.full((1,), t - s, device=q.device) if position is None else position
    places = torch.arange(s, device=q.device) + own[:, None, None], torch.arange(t, device=q.device)
    keep = _band(*places, causal, window)
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


def _cache_write(cache: Tensor, new: Tensor, position: Tensor) -> Tensor:
    """cache [b, g, t, d] with new [b, g, s, d] from each row's position [b] on; a copy."""
    at = (position[:, None] + torch.arange(new.shape[2], device=new.device))[:, None, :, None]
    return cache.scatter(2, at.expand(new.shape), new)


def _cached_mask(position: Tensor, q_len: Any, kv_len: Any, *, causal: bool, window: int) -> Tensor:
    """[batch, 1, q_len, kv_len]: what queries from each row's position [b] on see of a cache."""
    q = position[:, None] + torch.arange(q_len, device=position.device)
    return _band(q, torch.arange(kv_len, device=position.device), causal, window)[:, None]


def _cached_mask_shape(position: Tensor, q_len: Any, kv_len: Any, **attrs: Any) -> Tensor:
    return position.new_empty((position.shape[0], 1, q_len, kv_len), dtype=torch.bool)


def _cache_shape(cache: Tensor, new: Tensor, position: Tensor) -> Tensor:
    return cache.new_empty(cache.shape)


def _last_marked(x: Tensor, marked: Tensor) -> Tensor:
    """x [b, s, ...] at the last true position of marked [b, s] -> [b, ...]."""
    places = torch.arange(marked.shape[1], device=x.device)
    last = (marked * (places + 1)).argmax(1)
    return x[torch.arange(x.shape[0], device=x.device), last]


def _last_marked_shape(x: Tensor, marked: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], *x.shape[2:]))


def _moe(x: Tensor, indices: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor, gate_up_bias: Any = None,
         down_bias: Any = None, *, activation: str) -> Tensor:  # fmt: skip
    """x [t, d], indices and weights [t, k], gate_up [e, d, 2f], down [e, f, d] -> [t, d]: by the op's own meaning."""
    from ..op import get

    given = (x, indices, weights, gate_up, down, gate_up_bias, down_bias)
    arrays = [None if a is None else (a.double() if a.is_floating_point() else a).numpy() for a in given]
    return torch.from_numpy(get("moe").reference(*arrays, activation=activation)).to(x.dtype)


def _attention_shape(q: Tensor, k: Tensor, v: Tensor, *rest: Any, **attrs: Any) -> Tensor:
    return q.new_empty((q.shape[0], q.shape[2], q.shape[1], v.shape[3]))


def _moe_shape(x: Tensor, *rest: Any, **attrs: Any) -> Tensor:
    return x.new_empty(x.shape)


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
    lib.impl("last_marked", _last_marked, "CompositeExplicitAutograd")
    lib.impl("moe", _moe, "CompositeExplicitAutograd")
    lib.impl("cache_write", _cache_write, "CompositeExplicitAutograd")
    lib.impl("cached_mask", _cached_mask, "CompositeExplicitAutograd")
    torch.library.register_fake("tundish::cache_write", _cache_shape, lib=lib)
    torch.library.register_fake("tundish::cached_mask", _cached_mask_shape, lib=lib)
    torch.library.register_fake("tundish::moe", _moe_shape, lib=lib)
    torch.library.register_fake("tundish::last_marked", _last_marked_shape, lib=lib)
    torch.library.register_fake("tundish::attention", _attention_shape, lib=lib)
    torch.library.register_fake("tundish::band_mask", _band_mask_shape, lib=lib)
    return lib
