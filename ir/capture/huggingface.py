"""transformers through its own attention and mask interfaces: one op per attention, masks as what they mean.

The mask interface is handed the function that says which key a query may see. Where that function is exactly a band
(causal, bidirectional, a sliding window), it becomes attributes and the 2-D padding mask stays a 2-D input; anything
else becomes transformers' own exact 4-D boolean mask.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from ..diagnostics import CaptureError

NAME = "tundish"
_state = threading.local()


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


def _parts(function: Callable[..., Any], packed: bool) -> list[tuple[str, int]]:
    """The band conditions that a mask function is the conjunction of. Raises: _Unknown."""
    kind = _codes().get(getattr(function, "__code__", None))
    if kind in ("causal", "full"):
        return [(kind, 0)]
    if kind == "left window":
        return [("left", int(_closure(function)["sliding_window"]))]
    if kind == "window":
        return [("both", int(_closure(function)["sliding_window"]) + 1)]
    if kind == "and":
        inner = _closure(function)["mask_functions"]
        return [p for f in inner for p in _parts(f, packed)]
    if not packed and kind == "packed":  # no position_ids are given: one sequence per row
        return []
    if not packed and kind == "remapped":
        return _parts(_closure(function)["mask_function"], packed)
    raise _Unknown


def classify(function: Callable[..., Any], packed: bool = True) -> tuple[bool, int] | None:
    """(causal, window) if the mask function is exactly a band around the diagonal, else None.

    window w keeps keys nearer than w; 0 is unlimited. packed: rows may hold several sequences (position_ids are an
    input of the program), so packing conditions count.
    """
    try:
        parts = _parts(function, packed)
    except _Unknown:
        return None
    causal = any(kind == "causal" for kind, _ in parts)
    windows = [w for kind, w in parts if kind in ("left", "both")]
    if any(kind == "left" for kind, _ in parts) and not causal:
        return None  # one-sided without causality is no band
    return causal, min(windows, default=0)


def _mask(batch_size: Any, q_length: Any, kv_length: Any, q_offset: Any = 0, kv_offset: Any = 0,
          mask_function: Any = None, attention_mask: Any = None, use_vmap: bool = False, device: Any = "cpu",
          **options: Any) -> Any:  # fmt: skip
    import torch
    from transformers import masking_utils as m

    mask_function = mask_function or m.causal_mask_function
    band = classify(mask_function, getattr(_state, "packed", True))
    if band is None or isinstance(q_offset, torch.Tensor):
        exact = {k: v for k, v in options.items() if not k.startswith("allow_is_")}
        return m.sdpa_mask(
            batch_size, q_length, kv_length, q_offset, kv_offset, mask_function, attention_mask,
            allow_is_causal_skip=False, allow_is_bidirectional_skip=False, use_vmap=use_vmap, device=device, **exact,
        )  # fmt: skip
    padding = m.prepare_padding_mask(attention_mask, kv_length, kv_offset)
    return torch.ops.tundish.band_mask(
        padding, batch_size, q_length, kv_length, q_offset, kv_offset,
        causal=band[0], window=band[1], device=torch.device(device),
    )  # fmt: skip


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
def hooked(module: Any, packed: bool) -> Iterator[None]:
    """Inside, a transformers model (and its parts) runs through our interfaces; other modules are left alone."""
    import sys

    if "transformers.modeling_utils" not in sys.modules:  # never loaded: no module of it can be inside
        yield
        return
    from transformers import PreTrainedModel

    roots = [m for m in module.modules() if isinstance(m, PreTrainedModel)]
    saved = [(m.config, m.config._attn_implementation_internal) for m in roots]
    _state.packed = packed
    try:
        if roots:
            _register()
        for root in roots:
            if type(root)._can_set_attn_implementation():
                root.config._attn_implementation_internal = NAME
        yield
    finally:
        _state.packed = True
        for config, before in saved:
            config._attn_implementation_internal = before
