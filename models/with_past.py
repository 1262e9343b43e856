"""A decoder as a Source that takes any number of tokens behind any past, also none: one graph for prefill and decode.

It is what loaders of ONNX files expect. A window keeps its whole past here, of which its mask hides the rest.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import numpy as np

from .caches import plain_cache, tensors_of
from .cases import make
from .decoding import PAST, kept_inputs, present
from .forwards import with_forward
from .source import InputSpec, Source, describe

_PROBE = 2  # tokens, and tokens before them, of the one run that names the outputs


def with_past(source: Source) -> Source:
    """The same model taking `seq` tokens a row, behind what it kept of `past` tokens before them; `past` may be 0.

    Inputs: input_ids [batch, seq], attention_mask [batch, past+seq] which may hide any of them, position_ids
    [batch, seq] where the model takes them, and for each layer past_key_i [batch, kv_heads, past, d] and past_value_i
    [batch, kv_heads, past, e]. Outputs: logits [batch, seq, vocab], and present_key_i, present_value_i of past+seq.
    Raises: ModelError for a model that keeps anything but keys and values.
    """
    ids = next(s for s in source.inputs if s.role == "ids")
    held = kept_inputs(source)
    limit = source.max_seq or np.iinfo(np.int32).max
    inputs = [
        dataclasses.replace(ids, pad=None), InputSpec("attention_mask", "i64", ("batch", f"{PAST}+seq"), role="mask"),
    ]  # fmt: skip
    if takes_positions(source.module):
        inputs.append(InputSpec("position_ids", "i64", ("batch", "seq"), high=min(_PROBE, limit) - 1))
    inputs += [InputSpec(name, dtype, ("batch", heads, PAST, size)) for name, dtype, heads, size in held]
    whole = source.replace(
        module=_with_past(source.module, [name for name, *_ in held]), inputs=tuple(inputs), outputs=(), constants={}
    )
    described = describe(whole, make(whole, 1, _PROBE, np.random.default_rng(0)))
    return described.replace(notes=source.notes)


def takes_positions(module: Any) -> bool:
    """Whether a model's forward takes `position_ids`; one that does not works them out of its mask."""
    return "position_ids" in inspect.signature(type(module).forward).parameters


def file_name(name: str) -> str:
    """What an ONNX file calls one of these inputs or outputs: `past_key_3` is `past_key_values.3.key`.

    Source: what optimum's exporter writes, and what its loaders, Transformers.js and onnxruntime-genai read.
    """
    first, _, rest = name.partition("_")
    kind, _, index = rest.partition("_")
    if first not in (PAST, "present") or not index.isdigit():
        return name
    return f"{'past_key_values' if first == PAST else first}.{index}.{kind}"


def _with_past(module: Any, names: list[str]) -> Any:
    """The module with such a forward; a subclass of its own class, whose parts and weights are the same."""
    base = type(module)
    places = ("position_ids",) if takes_positions(module) else ()

    def forward(self: Any, input_ids: Any, attention_mask: Any, **given: Any) -> dict[str, Any]:
        cache = plain_cache({name: given[name] for name in names})
        out = base.forward(
            self, input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=True,
            return_dict=True, **{name: given[name] for name in places},
        )  # fmt: skip
        return {"logits": out.logits, **tensors_of(out.past_key_values, present(names))}

    return with_forward(module, "WithPast", forward, ("input_ids", "attention_mask", *places, *names))
