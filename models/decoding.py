"""A decoder's step as a Source: one new token against the keys and values of those before it.

The cache is concatenated: each step reads the past and returns it with the new token's keys and values behind. A step
that writes into a cache in place is the generation loop's.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np

from .caches import plain_cache, tensors_of
from .cases import make
from .errors import ModelError
from .forwards import with_forward
from .source import DTYPES, InputSpec, Source, named_outputs, shapes_only, to_numpy, to_torch

PAST = "past"
_PROBE = 2  # tokens of the run that shows what the model keeps; one is a special case in some models
PROMPT = (
    InputSpec("input_ids", "i64", ("batch", "seq"), role="ids"),
    InputSpec("attention_mask", "i64", ("batch", "seq"), role="mask"),
)


def decode_step(source: Source) -> Source:
    """The same model taking one token a row, and what it kept of `past` tokens before.

    Inputs: input_ids [batch, 1], attention_mask [batch, past+1], and for each layer that keeps something
    past_key_i [batch, kv_heads, past, d] and past_value_i [batch, kv_heads, past, e]. Outputs: logits [batch, 1, vocab]
    and present_key_i, present_value_i, which are one longer. A token's position is the number of real tokens before
    it, as `generate` has it; the mask may hide padding anywhere in the past.
    Raises: ModelError for a model that does not decode, or keeps anything but keys and values.
    """
    check_decodes(source)
    ids = next(s for s in source.inputs if s.role == "ids")
    kept = kept_inputs(source)
    inputs = (
        dataclasses.replace(ids, dims=("batch", 1), pad=None),
        InputSpec("attention_mask", "i64", ("batch", f"{PAST}+1"), role="mask"),
        *(InputSpec(name, dtype, ("batch", heads, PAST, size)) for name, dtype, heads, size in kept),
    )
    names = [name for name, *_ in kept]
    step = source.replace(
        module=_stepping(source.module, names), inputs=inputs, outputs=(), constants={}, phase="decode",
        max_seq=None if source.max_seq is None else source.max_seq - 1,
        notes=(*source.notes, "one decode step: the cache is concatenated, not written in place"),
    )  # fmt: skip
    return step.replace(outputs=named_outputs(step, make(step, 1, _PROBE, np.random.default_rng(0))))


def kept_bytes(source: Source) -> dict[int, int]:
    """layer -> the bytes that a decoder keeps of one token of one row, as a run shows. Raises: ModelError.

    Layers that the source leaves out (`depths`) keep what its last one does, of which they are copies.
    """
    check_decodes(source)
    found: dict[int, int] = {}
    for name, dtype, heads, size in kept_inputs(source):
        layer = int(name.rpartition("_")[2])
        found[layer] = found.get(layer, 0) + heads * size * DTYPES[dtype].itemsize
    last = max(found, default=-1)
    return found | {layer: found[last] for layer in range(last + 1, max(source.depths.values(), default=0))}


def prompted(source: Source, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The step that follows a prompt: all of its tokens but the last are run, and what the model keeps is the past.

    inputs: input_ids and attention_mask [batch, seq], padded on the left.
    """
    import torch

    ids, mask = (to_torch(inputs[name]) for name in ("input_ids", "attention_mask"))
    with torch.no_grad():
        cache = source.module.prefill(ids[:, :-1], mask[:, :-1])  # type: ignore[operator]
    given = {"input_ids": ids[:, -1:], "attention_mask": mask, **cache}
    return {s.name: to_numpy(given[s.name]) for s in source.inputs}


def generates(source: Source) -> bool:
    """Whether it writes text token by token with this head, be it a decoder or an encoder-decoder."""
    try:
        check_generates(source, "")
    except ModelError:
        return False
    return True


def check_decodes(source: Source) -> None:
    """Raises: ModelError where no decode step of it can be captured."""
    hint = "leave out --phase decode and --past"
    check_generates(source, f"{hint}, or choose the head that writes text, such as --task causal-lm")
    if two_texts(source):
        raise ModelError(f"{source.name} reads one text and writes another; only decoders have a decode phase",
                         hint="compile it without --phase: its step is an entry of the bundle")  # fmt: skip


def check_generates(source: Source, hint: str) -> None:
    """Raises: ModelError, with this hint, for a model that does not write text token by token with this head."""
    module: Any = source.module
    if source.form != "torch" or not hasattr(module, "can_generate"):
        raise ModelError(f"{source.name} is no transformers model, so its cache is not known", hint=hint)
    taken = inspect.signature(module.forward).parameters
    if not module.can_generate() or not {"past_key_values", "attention_mask"} <= set(taken):
        raise ModelError(f"{source.name} ({type(module).__name__}) does not generate text token by token",
                         hint=hint)  # fmt: skip


def two_texts(source: Source) -> bool:
    """Whether it reads one text and writes another."""
    return any(s.name == "decoder_input_ids" for s in source.inputs)


def probed(source: Source) -> list[tuple[int, Any]]:
    """(layer, what it keeps after two tokens) of each layer that keeps something, found by running it once.

    Raises: ModelError where it keeps anything but keys and values.
    """
    import torch

    ids = torch.zeros((1, _PROBE), dtype=torch.int64)
    fake = shapes_only(source.module) if source.on_meta else nullcontext(lambda tensor: tensor)
    with torch.no_grad(), fake as made:
        given = made(ids), made(torch.ones_like(ids))
        cache = source.module(input_ids=given[0], attention_mask=given[1], use_cache=True).past_key_values
        if cache is None:
            raise ModelError(f"{source.name} keeps nothing between tokens: each of its tokens looks at all others",
                             hint="it can be compiled and exported for whole texts")  # fmt: skip
        layers = getattr(cache, "layers", None)
        odd = [type(x).__name__ for x in layers or () if type(x).__name__ not in _PLAIN]
        if layers is None or odd:
            raise ModelError(f"{source.name} keeps more than keys and values between tokens",
                             found=odd[0] if odd else type(cache).__name__, hint="compile it for prefill")  # fmt: skip
        return [(i, layer) for i, layer in enumerate(layers) if layer.is_initialized]


def kept_inputs(source: Source) -> list[tuple[str, str, int, int]]:
    """(input's name, dtype, heads, size) of the keys and values that each layer keeps."""
    kept = [(f"{PAST}_{kind}_{i}", t) for i, x in probed(source) for kind, t in (("key", x.keys), ("value", x.values))]
    return [(n, name_of(t.dtype), int(t.shape[1]), int(t.shape[3])) for n, t in kept]


def present(names: list[str]) -> list[str]:
    """What is given back, by the names of what was taken: `past_key_3` becomes `present_key_3`."""
    return [f"present{name.removeprefix(PAST)}" for name in names]


_PLAIN = ("DynamicLayer", "DynamicSlidingWindowLayer")  # what a window hides, its mask hides too


def name_of(dtype: Any) -> str:
    return {"float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16"}[str(dtype).removeprefix("torch.")]


def _stepping(module: Any, names: list[str]) -> Any:
    """The module with the step as its forward; parts, weights and their names are the same.

    It is a subclass of the model's own class in the same file, which transformers reads to see what a class can do.
    """
    base = type(module)
    places = "position_ids" in inspect.signature(base.forward).parameters

    def forward(self: Any, input_ids: Any, attention_mask: Any, **past: Any) -> dict[str, Any]:
        given: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        if places:
            given["position_ids"] = (attention_mask.sum(-1, keepdim=True) - 1).clamp(min=0)
        cache = plain_cache({name: past[name] for name in names})
        out = base.forward(self, **given, past_key_values=cache, use_cache=True, return_dict=True)
        return {"logits": out.logits, **tensors_of(out.past_key_values, present(names))}

    def prefill(self: Any, input_ids: Any, attention_mask: Any) -> dict[str, Any]:
        """What is kept of a prompt, by the names of the step's inputs."""
        given = {"position_ids": (attention_mask.cumsum(-1) - 1).clamp(min=0)} if places else {}
        out = base.forward(self, input_ids=input_ids, attention_mask=attention_mask, past_key_values=plain_cache({}),
                           use_cache=True, return_dict=True, **given)  # fmt: skip
        return tensors_of(out.past_key_values, names)

    return with_forward(module, "Step", forward, ("input_ids", "attention_mask", *names), prefill=prefill)
