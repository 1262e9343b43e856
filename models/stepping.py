"""A decoder as one step of generation: new tokens against caches that stay in place, one way for prompts and decoding.

Each row's cache holds its tokens from place 0 on, without padding; a layer with a sliding window keeps the tokens of
its window at the front of a cache of its own size.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .caches import filled_cache, written_cache
from .decoding import check_decodes, name_of, probed
from .errors import ModelError
from .forwards import with_forward
from .source import DTYPES, InputSpec, Source, named_outputs, to_numpy, to_torch

STEP = "step"
CACHE = "cache"
WINDOW = "window_"
_TRACED = {"batch": 2, "tokens": 5, "wanted": 3, "capacity": 23, "window_capacity": 19}


@dataclasses.dataclass(frozen=True, slots=True)
class Kept:
    """What a layer keeps of a token. window: how many tokens back it looks, 0 for all."""

    layer: int
    kind: str
    dtype: str
    heads: int
    size: int
    window: int

    @property
    def name(self) -> str:
        return f"{CACHE}_{self.kind}_{self.layer}"

    @property
    def prefix(self) -> str:
        """Before `position` and `capacity`, of a layer that keeps a window only."""
        return WINDOW if self.window else ""

    @property
    def token_bytes(self) -> int:
        return self.heads * self.size * DTYPES[self.dtype].itemsize


@dataclasses.dataclass(frozen=True, eq=False)
class StepSource(Source):
    """A Source of a step. kept: what each layer keeps, keys and values apart."""

    kept: tuple[Kept, ...] = ()

    @property
    def windows(self) -> tuple[int, ...]:
        """The sliding windows, each once."""
        return tuple(sorted({k.window for k in self.kept if k.window}))

    def traced(self) -> dict[str, np.ndarray]:
        """Inputs to trace it with, on empty caches: no two sizes are equal."""
        return self.inputs_for(_TRACED, np.array([4, 7]), np.random.default_rng(0), fill=False)

    def inputs_for(
        self, sizes: Mapping[str, int], past: np.ndarray, rng: np.random.Generator, *, fill: bool = True
    ) -> dict[str, np.ndarray]:
        """Inputs of these sizes (batch, tokens, wanted, capacity, window_capacity).

        The caches hold what the model keeps of drawn texts of `past` [batch] tokens, nothing where they are not to be
        filled; the new tokens are drawn, and the last `wanted` of them asked for.
        """
        ids = self.inputs[0]
        rows, tokens = sizes["batch"], sizes["tokens"]
        text = rng.integers(ids.low, ids.high, (rows, int(past.max()) + tokens), endpoint=True)
        drawn: dict[str, np.ndarray] = {
            "input_ids": np.stack([text[i, p : p + tokens] for i, p in enumerate(past)]),
            "position": past.astype(np.int64),
            "select": np.arange(tokens - sizes["wanted"], tokens),
        }
        if self.windows:
            drawn["window_position"] = np.minimum(past, self.windows[0] - 1).astype(np.int64)
        caches = {
            k.name: np.zeros((rows, k.heads, sizes[f"{k.prefix}capacity"], k.size), DTYPES[k.dtype]) for k in self.kept
        }
        if fill and past.any() and not self.on_meta:
            self._fill(caches, past, text[:, : int(past.max())])
        return {s.name: (drawn | caches)[s.name] for s in self.inputs}

    def _fill(self, caches: dict[str, np.ndarray], past: np.ndarray, text: np.ndarray) -> None:
        """All rows in one run: no token's keys and values hang on what comes after it."""
        import torch

        module: Any = self.module
        with torch.no_grad():
            found = module.kept(to_torch(text.astype(np.int64)))
        for k in self.kept:
            array = to_numpy(found[k.name])
            for row, count in enumerate(past):
                start = max(0, int(count) - (k.window - 1)) if k.window else 0
                caches[k.name][row, :, : int(count) - start] = array[row, :, start : int(count)]


def step_source(source: Source) -> StepSource:
    """The same model as a step of generation.

    Inputs: input_ids [batch, tokens]; position [batch], how many tokens each row's caches hold; select [wanted], the
    places among the new tokens to give logits for; cache_key_i, cache_value_i [batch, kv_heads, capacity, d]. Where
    layers look through a sliding window, their caches are [batch, kv_heads, window_capacity, d], and window_position
    [batch] says how many tokens those hold. Outputs: logits [batch, wanted, vocab] and the caches with the new tokens
    in them, under the names that the inputs have and `_out`.
    Raises: ModelError for a model that does not decode, or keeps anything but keys and values.
    """
    check_decodes(source)
    _check_rotary(source)
    kept = tuple(_kept(source))
    if len({k.window for k in kept if k.window}) > 1:
        raise ModelError(f"{source.name} has sliding windows of several lengths, which is not built yet",
                         found=", ".join(str(w) for w in sorted({k.window for k in kept if k.window})))  # fmt: skip
    ids = next(s for s in source.inputs if s.role == "ids")
    windowed = any(k.window for k in kept)
    inputs = (
        dataclasses.replace(ids, dims=("batch", "tokens"), pad=None),
        InputSpec("position", "i64", ("batch",)),
        *([InputSpec("window_position", "i64", ("batch",))] if windowed else []),
        InputSpec("select", "i64", ("wanted",)),
        *(InputSpec(k.name, k.dtype, ("batch", k.heads, f"{k.prefix}capacity", k.size)) for k in kept),
    )
    fields = {f.name: getattr(source, f.name) for f in dataclasses.fields(source)}
    step = StepSource(**{**fields, "module": _stepping(source.module, kept), "inputs": inputs, "outputs": (),
                         "constants": {}, "phase": STEP, "kept": kept})  # fmt: skip
    probe = step.inputs_for(_TRACED, np.array([0, 3]), np.random.default_rng(0))
    return dataclasses.replace(step, outputs=named_outputs(step, probe))


_CHANGING = ("dynamic", "longrope")  # transformers' kinds of rotary embedding that hang on the longest text of a batch


def _check_rotary(source: Source) -> None:
    """Raises: ModelError where a row's answer hangs on how long the others are."""
    module: Any = source.module
    said = getattr(module.config.get_text_config(), "rope_parameters", None) or {}
    kinds = {str(d.get("rope_type")) for d in (said, *(v for v in said.values() if isinstance(v, dict)))}
    if changing := sorted(kinds & set(_CHANGING)):
        raise ModelError(f"{source.name} turns positions by how long the longest text of a batch is",
                         found=f"rope_type {changing[0]}", hint="compile it with --phase prefill")  # fmt: skip


def _kept(source: Source) -> Iterator[Kept]:
    module: Any = source.module
    config = module.config.get_text_config()
    types = getattr(config, "layer_types", None)
    sliding: Any = getattr(config, "sliding_window", None)
    for index, layer in probed(source):
        looks_back = "Sliding" in type(layer).__name__ and isinstance(sliding, int)
        chunked = types is not None and types[index] == "chunked_attention"
        window = int(sliding) if looks_back and not chunked else 0
        for kind, tensor in (("key", layer.keys), ("value", layer.values)):
            yield Kept(index, kind, name_of(tensor.dtype), int(tensor.shape[1]), int(tensor.shape[3]), window)


def _stepping(module: Any, kept: tuple[Kept, ...]) -> Any:
    """The module with the step as its forward; parts, weights and their names are the same.

    While it is traced, the caches are written through an op; else the original's own cache does the work, row by row.
    """
    import torch

    base = type(module)
    names = [k.name for k in kept]
    windowed = any(k.window for k in kept)
    given = ["input_ids", "position", *(["window_position"] if windowed else []), "select", *names]

    def forward(self: Any, **inputs: Any) -> dict[str, Any]:
        run = _in_place if torch.compiler.is_exporting() else _row_by_row
        return run(self, base, kept, inputs)

    def kept_of(self: Any, input_ids: Any) -> dict[str, Any]:
        """Keys and values of every layer and token of texts [rows, length]."""
        from transformers import DynamicCache

        cache = DynamicCache()
        base.forward(self, input_ids=input_ids, past_key_values=cache, use_cache=True, return_dict=True,
                     attention_mask=torch.ones_like(input_ids),
                     **_places(base, torch.arange(input_ids.shape[1])[None]))  # fmt: skip
        return {k.name: _of(cache, k) for k in kept}

    return with_forward(module, "InPlace", forward, given, kept=kept_of)


def _places(base: Any, positions: Any) -> dict[str, Any]:
    return {"position_ids": positions} if "position_ids" in inspect.signature(base.forward).parameters else {}


def _chosen(base: Any, select: Any) -> dict[str, Any]:
    """The places whose logits the head computes, where the model can be told."""
    return {"logits_to_keep": select} if "logits_to_keep" in inspect.signature(base.forward).parameters else {}


def _answer(base: Any, out: Any, select: Any) -> Any:
    return out.logits if _chosen(base, select) else out.logits.index_select(1, select)


def _in_place(self: Any, base: Any, kept: tuple[Kept, ...], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """As it is traced: every layer writes into its cache and attends over the whole of it."""
    import torch

    ids, position, select = (inputs[n] for n in ("input_ids", "position", "select"))
    layers = {
        i: (inputs[k.name], inputs[v.name], inputs[f"{k.prefix}position"], bool(k.window)) for i, (k, v) in _pairs(kept)
    }
    cache = written_cache(layers)
    positions = position[:, None] + torch.arange(ids.shape[1])
    whole = next((k for k in kept if not k.window), kept[0])
    filled = torch.arange(inputs[whole.name].shape[2]) < (position + ids.shape[1])[:, None]
    out = base.forward(self, input_ids=ids, attention_mask=filled.to(torch.int64), past_key_values=cache,
                       use_cache=True, return_dict=True, **_places(base, positions),
                       **_chosen(base, select))  # fmt: skip
    return {"logits": _answer(base, out, select), **{f"{k.name}_out": _of(cache, k) for k in kept}}


def _row_by_row(self: Any, base: Any, kept: tuple[Kept, ...], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """As the original does it: each row on a cache of its own kind, together with those that are as far as it is."""
    import torch

    ids, select, outs = inputs["input_ids"], inputs["select"], {k.name: inputs[k.name].clone() for k in kept}
    places = torch.stack([inputs["position"], inputs.get(f"{WINDOW}position", inputs["position"])], 1)
    logits: dict[int, Any] = {}
    tokens = ids.shape[1]
    for place in places.unique(dim=0):
        rows = (places == place).all(1).nonzero()[:, 0]
        past = int(place[0])
        ends = {k: int(place[1 if k.window else 0]) for k in kept}
        held = {i: tuple(outs[x.name][rows, :, : ends[x]] for x in pair) for i, pair in _pairs(kept)}
        cache = filled_cache(self.config, held, past)  # type: ignore[arg-type]
        mask = torch.ones((len(rows), past + tokens), dtype=torch.int64)
        out = base.forward(self, input_ids=ids[rows], past_key_values=cache, use_cache=True, return_dict=True,
                           attention_mask=mask, **_places(base, past + torch.arange(tokens)[None]),
                           **_chosen(base, select))  # fmt: skip
        logits |= dict(zip(rows.tolist(), _answer(base, out, select), strict=True))
        for k in kept:
            outs[k.name][rows, :, ends[k] : ends[k] + tokens] = _of(cache, k)[:, :, -tokens:]
    answers = torch.stack([logits[row] for row in range(len(ids))])
    return {"logits": answers, **{f"{name}_out": tensor for name, tensor in outs.items()}}


def _pairs(kept: tuple[Kept, ...]) -> Iterator[tuple[int, tuple[Kept, Kept]]]:
    """layer -> what it keeps: keys and values."""
    yield from ((k.layer, (k, v)) for k, v in zip(kept[::2], kept[1::2], strict=True))


def _of(cache: Any, k: Kept) -> Any:
    return getattr(cache.layers[k.layer], f"{k.kind}s")
