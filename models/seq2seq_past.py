"""An encoder-decoder as two Sources: the encoder, and the decoder behind any past of its own, also none.

What cross-attention makes of the encoder's states is kept too. The states are given at every call, and only those
beyond what is kept already are multiplied with weights: all of them at the first call, none at those after it. So one
graph serves both, and nothing in it branches.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from .caches import plain_cache, tensors_of
from .cases import make
from .decoding import PAST, name_of, present
from .errors import ModelError
from .forwards import with_forward
from .source import InputSpec, Source, named_outputs

_SIDES = ("decoder", "encoder")
_KINDS = ("key", "value")
_PROBE = 4  # tokens, and places kept, of the runs that show what the model keeps
SOURCE, TARGET, KEPT = "source_seq", "target_seq", "kept"  # KEPT: how many of the encoder's states are kept


def encoder_of(source: Source) -> Source:
    """The encoder alone: input_ids and attention_mask [batch, seq] -> last_hidden_state [batch, seq, hidden]."""
    module: Any = source.module
    inputs = tuple(s for s in source.inputs if not s.name.startswith("decoder_"))
    whole = source.replace(module=module.get_encoder(), inputs=inputs, outputs=(), constants={"return_dict": True})
    outputs = named_outputs(whole, make(whole, 1, _PROBE, np.random.default_rng(0)))
    return whole.replace(outputs=tuple(n for n in outputs if n == "last_hidden_state"))


def decoder_of(source: Source) -> Source:
    """The decoder and its head, given the encoder's states.

    Inputs: input_ids [batch, target_seq]; for each layer past_{decoder,encoder}_{key,value}_i [batch, heads, past or
    kept, d]; encoder_hidden_states [batch, source_seq, hidden], encoder_attention_mask [batch, source_seq]; and
    use_cache_branch [1], by which loaders tell that one file serves the first call and those after it, and which
    decides nothing here. `kept` is 0 or source_seq. Outputs: logits [batch, target_seq, vocab] and the same under
    `present`, of past+target_seq and source_seq.
    Raises: ModelError for a model that keeps anything but keys and values.
    """
    module: Any = source.module
    held = _kept(source)
    ids = next(s for s in source.inputs if s.name == "decoder_input_ids")
    hidden = int(module.config.hidden_size)
    inputs = (
        InputSpec("input_ids", "i64", ("batch", TARGET), role="ids", high=ids.high),
        *(InputSpec(n, dtype, ("batch", heads, KEPT if "_encoder_" in n else PAST, size))
          for n, dtype, heads, size in held),
        InputSpec("encoder_hidden_states", held[0][1], ("batch", SOURCE, hidden)),
        InputSpec("encoder_attention_mask", "i64", ("batch", SOURCE), role="mask"),
        InputSpec("use_cache_branch", "bool", (1,)),
    )  # fmt: skip
    names = [name for name, *_ in held]
    whole = source.replace(module=_stepping(module, names), inputs=inputs, outputs=(), constants={})
    few = {KEPT: np.ones((1, _PROBE // 2), bool)}
    return whole.replace(outputs=named_outputs(whole, make(whole, 1, _PROBE, np.random.default_rng(0), others=few)))


def file_name(name: str) -> str:
    """What an ONNX file calls it: `past_encoder_key_3` is `past_key_values.3.encoder.key`."""
    parts = name.split("_")
    if len(parts) != 4 or parts[0] not in (PAST, "present") or parts[1] not in _SIDES:
        return name
    return f"{'past_key_values' if parts[0] == PAST else parts[0]}.{parts[3]}.{parts[1]}.{parts[2]}"


def _kept(source: Source) -> list[tuple[str, str, int, int]]:
    """(input's name, dtype, heads, size) of what each layer keeps, in the order of files. Raises: ModelError."""
    import torch

    module: Any = source.module
    ids = torch.zeros((1, _PROBE), dtype=torch.int64)
    with torch.no_grad():
        cache = module(input_ids=ids, decoder_input_ids=ids, use_cache=True).past_key_values
    found: tuple[Any, ...] = tuple(getattr(cache, f"{name}_attention_cache", None) for name in ("self", "cross"))
    layers: list[Any] = [getattr(side, "layers", None) for side in found]
    if None in layers or any(type(x).__name__ != "DynamicLayer" for side in layers for x in side):
        raise ModelError(f"{source.name} keeps more than keys and values between tokens", found=type(cache).__name__,
                         hint="leave out --with-past")  # fmt: skip
    return [
        (f"{PAST}_{side}_{kind}_{i}", name_of(t.dtype), int(t.shape[1]), int(t.shape[3]))
        for i in range(len(layers[0]))
        for side, of in zip(_SIDES, layers, strict=True) for kind in _KINDS for t in [getattr(of[i], f"{kind}s")]
    ]  # fmt: skip


def _stepping(module: Any, names: list[str]) -> Any:
    """The module with such a forward; a subclass of its own class, whose parts and weights are the same."""
    base = type(module)

    def forward(self: Any, input_ids: Any, encoder_hidden_states: Any, encoder_attention_mask: Any,
                use_cache_branch: Any, **given: Any) -> dict[str, Any]:  # fmt: skip
        hooks = [m.register_forward_pre_hook(_fresh, with_kwargs=True) for m in _cross_attentions(self.get_decoder())]
        try:
            out = base.forward(
                self, encoder_outputs=(encoder_hidden_states,), attention_mask=encoder_attention_mask,
                decoder_input_ids=input_ids, past_key_values=_cache(given, names), use_cache=True, return_dict=True,
            )  # fmt: skip
        finally:
            for hook in hooks:
                hook.remove()
        return {"logits": out.logits, **_named(out.past_key_values, names)}

    taken = ("input_ids", *names, "encoder_hidden_states", "encoder_attention_mask", "use_cache_branch")
    return with_forward(module, "WithPast", forward, taken)


def _cross_attentions(decoder: Any) -> list[Any]:
    """The innermost modules that take another text's states."""
    takers = [m for m in decoder.modules() if "key_value_states" in inspect.signature(m.forward).parameters]
    return [m for m in takers if not any(other in takers for other in list(m.modules())[1:])]


def _fresh(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The states beyond those that the cache has keys and values of already."""
    states, cache = kwargs.get("key_value_states"), kwargs.get("past_key_values")
    if states is None or cache is None:
        return None
    kept = cache.cross_attention_cache.layers[module.layer_idx].keys.shape[2]
    return args, {**kwargs, "key_value_states": states[:, kept:]}


def _cache(given: dict[str, Any], names: list[str]) -> Any:
    from transformers import EncoderDecoderCache

    sides = [plain_cache({n: given[n] for n in names if f"_{side}_" in n}) for side in _SIDES]
    cache = EncoderDecoderCache(*sides)
    cache.is_updated = dict.fromkeys(cache.is_updated, False)  # what is fresh is added to what is there
    return cache


def _named(cache: Any, names: list[str]) -> dict[str, Any]:
    sides = dict(zip(_SIDES, (cache.self_attention_cache, cache.cross_attention_cache), strict=True))
    found: dict[str, Any] = {}
    for side, held in sides.items():
        found |= tensors_of(held, [n for n in present(names) if f"_{side}_" in n])
    return {name: found[name] for name in present(names)}
