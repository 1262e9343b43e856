"""Encoder-decoders that generate: the encoder, run once for a text, and one step of the decoder.

What cross-attention makes of the encoder's states is the encoder's answer, so that no step multiplies them again.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from .caches import plain_cache, tensors_of, written_cache
from .cases import make
from .decoding import generates, name_of, two_texts
from .errors import ModelError
from .forwards import with_forward
from .source import DTYPES, InputSpec, Source, named_outputs, shapes_only, to_numpy, to_torch
from .stepping import STEP, Kept, StepSource

ENCODE = "encode"
CROSS = "cross"
# transformers' model types whose decoder's positions are known to `_by_row`
FAMILIES = (
    "t5", "mt5", "umt5", "bart", "mbart", "plbart", "pegasus", "marian", "m2m_100", "blenderbot", "blenderbot-small",
)  # fmt: skip
_TRACED = {"batch": 2, "tokens": 5, "wanted": 3, "capacity": 23, "seq": 13}
_PROBE, _USUAL = 4, 11  # tokens of the run that shows what is kept; of the texts in cases
TEXT = ("input_ids", "attention_mask")


def is_seq2seq(source: Source) -> bool:
    """Whether it reads one text and writes another, token by token."""
    return two_texts(source) and generates(source)


@dataclasses.dataclass(frozen=True, eq=False)
class Seq2SeqStepSource(StepSource):
    """A Source of a decoder's step.

    cross: what is kept of the encoder's states. seq: least and most tokens of its text.
    encoder: the same model's encoder; input_ids and attention_mask [batch, seq] -> the keys and values of `cross`.
    """

    cross: tuple[Kept, ...] = ()
    seq: tuple[int, int] = (1, _USUAL)
    encoder: Source | None = None

    def traced(self) -> dict[str, np.ndarray]:
        """Inputs to trace it with, on empty caches: no two sizes are equal."""
        return self.inputs_for(_TRACED, np.array([4, 7]), np.random.default_rng(0), fill=False)

    def inputs_for(
        self, sizes: Mapping[str, int], past: np.ndarray, rng: np.random.Generator, *, fill: bool = True
    ) -> dict[str, np.ndarray]:
        """As a decoder's; the encoder's text is drawn too, its first row as long as `seq`, the others padded behind."""
        ids, rows, tokens = self.inputs[0], sizes["batch"], sizes["tokens"]
        low, high = self.seq
        width = sizes.get("seq") or int(rng.integers(max(low, min(high, _USUAL // 2)), max(low, min(high, _USUAL)) + 1))
        lengths = np.array([width, *rng.integers(1, width + 1, rows - 1)])
        mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
        source = rng.integers(ids.low, ids.high, (rows, width), endpoint=True)
        text = rng.integers(ids.low, ids.high, (rows, int(past.max()) + tokens), endpoint=True)
        arrays: dict[str, np.ndarray] = {
            "input_ids": np.stack([text[i, p : p + tokens] for i, p in enumerate(past)]),
            "position": past.astype(np.int64), "select": np.arange(tokens - sizes["wanted"], tokens),
            "attention_mask": mask,
        }  # fmt: skip
        for k, length in (*((k, sizes["capacity"]) for k in self.kept), *((k, width) for k in self.cross)):
            arrays[k.name] = np.zeros((rows, k.heads, length, k.size), DTYPES[k.dtype])
        if fill and not self.on_meta:
            self._fill_both(arrays, past, text[:, : int(past.max())], source)
        return {s.name: arrays[s.name] for s in self.inputs}

    def _fill_both(self, arrays: dict[str, np.ndarray], past: np.ndarray, text: np.ndarray, source: np.ndarray) -> None:
        """What the model keeps of the encoder's text and, of each row, of the tokens written so far."""
        import torch

        module: Any = self.module
        with torch.no_grad():
            found = module.kept(to_torch(source), to_torch(arrays["attention_mask"]), to_torch(text))
        for k in self.cross:
            arrays[k.name] = to_numpy(found[k.name])
        for k in self.kept if text.shape[1] else ():
            array = to_numpy(found[k.name])
            for row, count in enumerate(past):
                arrays[k.name][row, :, :count] = array[row, :, :count]


@dataclasses.dataclass(frozen=True, slots=True)
class CrossKept(Kept):
    """What a layer keeps of a token of the encoder's."""

    @property
    def name(self) -> str:
        return f"{CROSS}_{self.kind}_{self.layer}"


def seq2seq_step_source(source: Source, seq: tuple[int, int]) -> Seq2SeqStepSource:
    """One step of the decoder.

    Inputs: input_ids [batch, tokens], position [batch] and select [wanted] as `step_source` has them; cache_key_i,
    cache_value_i [batch, heads, capacity, d] of its own tokens; of the encoder's text, cross_key_i and cross_value_i
    [batch, heads, seq, d] and attention_mask [batch, seq]. Outputs: logits [batch, wanted, vocab] and its own caches.
    seq: (low, high), the encoder's tokens.
    Raises: ModelError for a model that keeps anything but keys and values, or whose positions are not known.
    """
    kept, cross = _kept(source)
    ids = next(s for s in source.inputs if s.name == "decoder_input_ids")
    inputs = (
        dataclasses.replace(ids, name="input_ids", dims=("batch", "tokens"), pad=None),
        InputSpec("position", "i64", ("batch",)),
        InputSpec("select", "i64", ("wanted",)),
        *(InputSpec(k.name, k.dtype, ("batch", k.heads, "capacity", k.size)) for k in kept),
        *(InputSpec(k.name, k.dtype, ("batch", k.heads, "seq", k.size)) for k in cross),
        InputSpec("attention_mask", "i64", ("batch", "seq"), role="mask"),
    )
    fields = {f.name: getattr(source, f.name) for f in dataclasses.fields(source)}
    step = Seq2SeqStepSource(**{**fields, "module": _stepping(source.module, kept, cross), "inputs": inputs,
                             "outputs": (), "constants": {}, "phase": STEP, "kept": kept, "cross": cross, "seq": seq,
                             "encoder": _encoder(source, cross)})  # fmt: skip
    probe = step.inputs_for(_TRACED, np.array([0, 3]), np.random.default_rng(0))
    return dataclasses.replace(step, outputs=named_outputs(step, probe))


def _encoder(source: Source, cross: tuple[Kept, ...]) -> Source:
    inputs = tuple(s for s in source.inputs if s.name in TEXT)
    whole = source.replace(module=_encoding(source.module, cross), inputs=inputs, outputs=(), constants={})
    return whole.replace(outputs=named_outputs(whole, make(whole, 1, _PROBE, np.random.default_rng(0))))


def _kept(source: Source) -> tuple[tuple[Kept, ...], tuple[Kept, ...]]:
    """What each layer keeps of a token of its own, and of the encoder's. Raises: ModelError."""
    import torch

    module: Any = source.module
    if module.config.model_type not in FAMILIES:
        raise ModelError(f"{source.name} is an encoder-decoder of a kind whose step is not built yet",
                         found=module.config.model_type, hint=f"built are {', '.join(FAMILIES)}")  # fmt: skip
    fake = shapes_only(module) if source.on_meta else nullcontext(lambda tensor: tensor)
    with torch.no_grad(), fake as made:
        ids = made(torch.zeros((1, _PROBE), dtype=torch.int64))
        cache = module(input_ids=ids, decoder_input_ids=ids, use_cache=True).past_key_values
    layers = [getattr(getattr(cache, f"{name}_attention_cache", None), "layers", None) for name in ("self", "cross")]
    if None in layers or any(type(x).__name__ != "DynamicLayer" for side in layers for x in side or ()):
        raise ModelError(f"{source.name} keeps more than keys and values between tokens", found=type(cache).__name__,
                         hint="compile it for prefill")  # fmt: skip
    own, cross = (
        tuple(
            kind(i, of, name_of(t.dtype), int(t.shape[1]), int(t.shape[3]), 0)
            for i, layer in enumerate(side or ()) for of, t in (("key", layer.keys), ("value", layer.values))
        )
        for kind, side in zip((Kept, CrossKept), layers, strict=True)
    )  # fmt: skip
    return own, cross


# -- forwards ---------------------------------------------------------------------------------------------------


def _encoding(module: Any, cross: tuple[Kept, ...]) -> Any:
    """The module with the encoder as its forward. A decoder's run on one token makes the keys and values; the rest of
    it leads to no output."""
    import torch

    base = type(module)

    def forward(self: Any, input_ids: Any, attention_mask: Any) -> dict[str, Any]:
        cache = _taking_cache(len(cross) // 2)
        base.forward(self, input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True,
                     decoder_input_ids=torch.zeros_like(input_ids[:, :1]), return_dict=True)  # fmt: skip
        return tensors_of(cache.cross_attention_cache, _names(cross))

    return with_forward(module, "Encoder", forward, TEXT)


def _stepping(module: Any, kept: tuple[Kept, ...], cross: tuple[Kept, ...]) -> Any:
    """The module with the step as its forward; parts, weights and their names are the same."""
    import torch

    base = type(module)

    def forward(self: Any, **inputs: Any) -> dict[str, Any]:
        run = _in_place if torch.compiler.is_exporting() else _row_by_row
        return run(self, base, kept, cross, inputs)

    def kept_of(self: Any, input_ids: Any, attention_mask: Any, text: Any) -> dict[str, Any]:
        """Keys and values of encoder's texts [rows, seq], and of `text` [rows, length] behind them, perhaps none."""
        cache = _taking_cache(len(cross) // 2)
        text = text if text.shape[1] else torch.zeros_like(input_ids[:, :1])
        base.forward(self, input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=text,
                     past_key_values=cache, use_cache=True, return_dict=True)  # fmt: skip
        own = tensors_of(cache.self_attention_cache, _names(kept))
        return own | tensors_of(cache.cross_attention_cache, _names(cross))

    given = ["input_ids", "position", "select", *_names((*kept, *cross)), "attention_mask"]
    return with_forward(module, "InPlace", forward, given, kept=kept_of)


def _in_place(
    self: Any, base: Any, kept: tuple[Kept, ...], cross: tuple[Kept, ...], inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """As it is traced: every layer writes into its cache and attends over the whole of it."""
    import torch

    ids, position = inputs["input_ids"], inputs["position"]
    own = written_cache({k.layer: (inputs[k.name], inputs[v.name], position, False) for k, v in _pairs(kept)})
    cache = _both_caches(own, {name: inputs[name] for name in _names(cross)}, position[:, None])
    filled = torch.arange(inputs[kept[0].name].shape[2]) < (position + ids.shape[1])[:, None]
    with _by_row(self.get_decoder()):
        out = _run(self, base, ids, cache, inputs["attention_mask"], filled.to(torch.int64))
    return {"logits": out.logits.index_select(1, inputs["select"]),
            **{f"{name}_out": t for name, t in tensors_of(own, _names(kept)).items()}}  # fmt: skip


def _row_by_row(
    self: Any, base: Any, kept: tuple[Kept, ...], cross: tuple[Kept, ...], inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """As the original does it: each row on a cache of its own kind, together with those that are as far as it is."""
    import torch

    ids, outs = inputs["input_ids"], {k.name: inputs[k.name].clone() for k in kept}
    tokens = ids.shape[1]
    logits: dict[int, Any] = {}
    for place in inputs["position"].unique():
        rows, past = (inputs["position"] == place).nonzero()[:, 0], int(place)
        own = plain_cache({name: tensor[rows, :, :past] for name, tensor in outs.items()})
        cache = _both_caches(own, {name: inputs[name][rows] for name in _names(cross)})
        out = _run(self, base, ids[rows], cache, inputs["attention_mask"][rows], None)
        logits |= dict(zip(rows.tolist(), out.logits.index_select(1, inputs["select"]), strict=True))
        for name, tensor in tensors_of(cache.self_attention_cache, _names(kept)).items():
            outs[name][rows, :, past : past + tokens] = tensor[:, :, -tokens:]
    answers = torch.stack([logits[row] for row in range(len(ids))])
    return {"logits": answers, **{f"{name}_out": tensor for name, tensor in outs.items()}}


def _run(self: Any, base: Any, ids: Any, cache: Any, mask: Any, own_mask: Any) -> Any:
    """The decoder and its head. Of the encoder's states only the shape is looked at: their keys and values are kept."""
    import torch

    keys = cache.cross_attention_cache.layers[0].keys
    states = torch.zeros((ids.shape[0], keys.shape[2], self.config.hidden_size), dtype=keys.dtype)
    return base.forward(self, encoder_outputs=(states,), attention_mask=mask, decoder_input_ids=ids,
                        decoder_attention_mask=own_mask, past_key_values=cache, use_cache=True,
                        return_dict=True)  # fmt: skip


# -- caches -----------------------------------------------------------------------------------------------------


def _both_caches(own: Any, cross: Mapping[str, Any], length: Any = None) -> Any:
    """Both caches, of which cross-attention's is full. length: what to say to who asks how many tokens are in it."""
    from transformers import Cache, EncoderDecoderCache

    class Both(EncoderDecoderCache):
        def get_seq_length(self, layer_idx: int = 0) -> Any:
            return super().get_seq_length(layer_idx) if length is None else length

    cache = Both(own, Cache(layers=[]))
    cache.cross_attention_cache = plain_cache(cross)
    cache.is_updated = dict.fromkeys(range(len(cross) // 2), True)
    return cache


def _taking_cache(layers: int) -> Any:
    """Empty caches of so many layers, which take what the first run gives."""
    from transformers import Cache, EncoderDecoderCache
    from transformers.cache_utils import DynamicLayer

    class Taking(DynamicLayer):
        def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
            self.keys, self.values = key_states, value_states
            return key_states, value_states

    return EncoderDecoderCache(*(Cache(layers=[Taking() for _ in range(layers)]) for _ in range(2)))


def _pairs(kept: tuple[Kept, ...]) -> Iterator[tuple[Kept, Kept]]:
    """Keys and values of each layer."""
    return zip(kept[::2], kept[1::2], strict=True)


def _names(kept: tuple[Kept, ...]) -> list[str]:
    return [k.name for k in kept]


# -- positions --------------------------------------------------------------------------------------------------


@contextmanager
def _by_row(decoder: Any) -> Iterator[None]:
    """While it is traced, each row has a position of its own: where the original takes one number for all rows, it is
    given [batch, 1]."""
    biased = [m for m in decoder.modules() if getattr(m, "has_relative_attention_bias", False)]
    for module in biased:
        module.compute_bias = _bias_of(module)
    table = getattr(decoder, "embed_positions", None)
    hook = table.register_forward_hook(lambda _, args, out: out[0] if out.dim() == 4 else out) if table else None
    try:
        yield
    finally:
        for module in biased:
            del module.compute_bias
        if hook is not None:
            hook.remove()


def _bias_of(module: Any) -> Any:
    """T5's bias of a query at place p for a key at place k, which hangs on k - p alone: [batch, heads, q, k].

    Source: Raffel et al. 2020 (arXiv:1910.10683), section 2.1; the buckets are the module's own.
    """
    import torch

    bucket = module._relative_position_bucket
    given = {"bidirectional": not module.is_decoder, "num_buckets": module.relative_attention_num_buckets,
             "max_distance": module.relative_attention_max_distance}  # fmt: skip
    taken = {n: v for n, v in given.items() if n in inspect.signature(bucket).parameters}  # UMT5 asks itself

    def compute_bias(query_length: Any, key_length: Any, device: Any = None, past_seen_tokens: Any = 0) -> Any:
        places = torch.arange(query_length, device=device) + past_seen_tokens  # [batch, q]
        back = torch.arange(key_length, device=device)[None, None, :] - places[:, :, None]
        return module.relative_attention_bias(bucket(back, **taken)).permute(0, 3, 1, 2)

    return compute_bias
