"""transformers through its own interfaces: one op per attention and layer of experts, masks as what they mean.

The mask interface is handed the function that says which key a query may see. Where that function is exactly a band
(causal, bidirectional, a sliding window, each of a row's packed texts for itself), it becomes one op, which `masks`
turns into attributes and the 2-D padding mask where that says the same; anything else becomes transformers' own exact
4-D boolean mask.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import lru_cache, reduce
from typing import Any, NamedTuple

from ..diagnostics import CaptureError
from .expert_patches import patched_experts
from .experts import hooked_experts

NAME = "tundish"


class _Unknown(Exception):
    """The mask function is not a band."""


@lru_cache(maxsize=1)
def _codes() -> dict[Any, str]:
    """Code object of each of transformers' mask functions -> what it is. Closures share their code object."""
    import torch
    from transformers import masking_utils as m

    ids = torch.zeros(1, 1, dtype=torch.long)
    plain = m.causal_mask_function
    makers: dict[str, tuple[str, tuple[Any, ...]]] = {
        "and": ("and_masks", (plain,)),
        "left window": ("sliding_window_overlay", (1,)),
        "window": ("sliding_window_bidirectional_overlay", (1,)),
        "packed": ("packed_sequence_mask_function", (ids,)),
        "remapped": ("remap_positions_for_packed_sequence", (plain, ids)),
    }
    codes = {plain.__code__: "causal", m.bidirectional_mask_function.__code__: "full"}
    for kind, (name, args) in makers.items():
        if hasattr(m, name):
            codes[getattr(m, name)(*args).__code__] = kind
    return codes


def _closure(function: Callable[..., Any]) -> dict[str, Any]:
    cells = function.__closure__ or ()
    return dict(zip(function.__code__.co_freevars, (c.cell_contents for c in cells), strict=True))


class Band(NamedTuple):
    """Which keys a query may see: those not after it where `causal`, those nearer than `window` where that is not 0.

    one_sided: the window holds back only keys before the query.
    texts:     [batch, length], which of a packed row's texts a token belongs to; none sees another.
    positions: [batch, length], from which distances are taken; None: the places in the row.
    """

    causal: bool = False
    window: int = 0
    one_sided: bool = False
    texts: Any = None
    positions: Any = None

    @property
    def narrows(self) -> bool:
        return self.causal or bool(self.window)


def _read(function: Callable[..., Any]) -> Band:
    """Raises: _Unknown where the mask function is no band."""
    kind = _codes().get(getattr(function, "__code__", None))
    if kind is None:
        raise _Unknown
    return _READERS[kind](_closure(function))


def _remapped(held: dict[str, Any]) -> Band:
    inner = _read(held["mask_function"])
    if inner.texts is not None or inner.positions is not None:
        raise _Unknown
    return inner._replace(positions=held["position_ids"])


def _both(one: Band, two: Band) -> Band:
    """What both let through. Raises: _Unknown where they measure distances differently."""
    if one.texts is not None and two.texts is not None:
        raise _Unknown
    if one.narrows and two.narrows and one.positions is not two.positions:
        raise _Unknown
    windows = [w for w in (one.window, two.window) if w]
    measured = one if one.narrows else two
    return Band(
        one.causal or two.causal, min(windows, default=0), one.one_sided or two.one_sided,
        two.texts if one.texts is None else one.texts, measured.positions,
    )  # fmt: skip


_READERS: dict[str, Callable[[dict[str, Any]], Band]] = {
    "causal": lambda held: Band(causal=True),
    "full": lambda held: Band(),
    "left window": lambda held: Band(window=int(held["sliding_window"]), one_sided=True),
    "window": lambda held: Band(window=int(held["sliding_window"]) + 1),
    "and": lambda held: reduce(_both, map(_read, held["mask_functions"])),
    "packed": lambda held: Band(texts=held["packed_sequence_mask"]),
    "remapped": _remapped,
}


def classify(function: Callable[..., Any]) -> Band | None:
    """The band around the diagonal that a mask function is, else None."""
    try:
        band = _read(function)
    except _Unknown:
        return None
    return None if band.one_sided and not band.causal else band


def _mask(batch_size: Any, q_length: Any, kv_length: Any, q_offset: Any = 0, kv_offset: Any = 0,
          mask_function: Any = None, attention_mask: Any = None, use_vmap: bool = False, device: Any = "cpu",
          **options: Any) -> Any:  # fmt: skip
    import torch
    from transformers import masking_utils as m

    mask_function = mask_function or m.causal_mask_function
    band = classify(mask_function)
    if isinstance(q_offset, torch.Tensor) and q_offset.dim() == 1:
        return _of_cache(q_offset, q_length, kv_length, mask_function, band)
    if band is None or isinstance(q_offset, torch.Tensor):
        exact = {k: v for k, v in options.items() if not k.startswith("allow_is_")}
        return m.sdpa_mask(
            batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask,
            allow_is_causal_skip=False, allow_is_bidirectional_skip=False, use_vmap=use_vmap, device=device, **exact,
        )  # fmt: skip
    padding = m.prepare_padding_mask(attention_mask, kv_length, kv_offset)
    return torch.ops.tundish.band_mask(
        padding, batch_size, q_length, kv_length, q_offset, kv_offset, band.texts, band.positions,
        causal=band.causal, window=band.window, device=torch.device(device),
    )  # fmt: skip


def _of_cache(position: Any, q_length: Any, kv_length: Any, mask_function: Any, band: Band | None) -> Any:
    """What queries from each row's position on see of a cache in which every row's tokens lie from 0 on."""
    import torch

    if band is not None and band.texts is None and band.positions is None:
        return torch.ops.tundish.cached_mask(position, q_length, kv_length, causal=band.causal, window=band.window)
    rows = torch.arange(position.shape[0], device=position.device)[:, None, None, None]
    query = position[:, None, None, None] + torch.arange(q_length, device=position.device)[:, None]
    return mask_function(rows, torch.zeros_like(rows), query, torch.arange(kv_length, device=position.device))


def _eager(**given: Any) -> Any:
    """transformers' mask of numbers, for attention that a model writes out; of a cache too, of any row's position."""
    import torch
    from transformers import masking_utils as m

    start = given.get("q_offset")
    if not (isinstance(start, torch.Tensor) and start.dim() == 1):
        return m.eager_mask(**given)
    return torch.where(_mask(**given), 0.0, torch.finfo(given.get("dtype", torch.float32)).min)


def _attention(module: Any, query: Any, key: Any, value: Any, attention_mask: Any = None, dropout: float = 0.0,
               scaling: float | None = None, is_causal: bool | None = None, softcap: float | None = None,
               s_aux: Any = None, position_bias: Any = None, **options: Any) -> tuple[Any, None]:  # fmt: skip
    import torch

    if options.get("output_attentions"):
        raise CaptureError("attention weights cannot be returned", hint="set output_attentions=False")
    mask, bias, causal = None, position_bias, False
    if attention_mask is None:
        causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    elif attention_mask.dtype == torch.bool:
        mask = attention_mask
    else:
        bias = attention_mask if bias is None else bias + attention_mask
    scale = float(scaling) if scaling is not None else query.shape[-1] ** -0.5
    out = torch.ops.tundish.attention(
        query, key, value, mask, bias, s_aux, scale=scale, causal=causal, softcap=float(softcap or 0.0)
    )
    return out, None


@lru_cache(maxsize=1)
def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, _mask)


@contextlib.contextmanager
def hooked(module: Any) -> Iterator[None]:
    """Inside, a transformers model (and its parts) runs through our interfaces; other modules are left alone."""
    import sys

    if "transformers.modeling_utils" not in sys.modules:  # never loaded: no module of it can be inside
        yield
        return
    from transformers import AttentionMaskInterface, PreTrainedModel

    roots = [m for m in module.modules() if isinstance(m, PreTrainedModel)]
    written_out = AttentionMaskInterface()["eager"]
    saved = [(m.config, m.config._attn_implementation_internal) for m in roots]
    try:
        if roots:
            _register()
            AttentionMaskInterface.register("eager", _eager)
        for root in roots:
            if type(root)._can_set_attn_implementation():
                root.config._attn_implementation_internal = NAME
        with hooked_experts(module), patched_experts(module):
            yield
    finally:
        AttentionMaskInterface.register("eager", written_out)
        for config, before in saved:
            config._attn_implementation_internal = before
