"""What transformers' GenerationConfig says, in the words of our own loop; what that cannot do is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..ir.diagnostics import RunError

_NEW_TOKENS = 20  # transformers' own, where nothing says how long
_TAKEN = frozenset({
    "bos_token_id", "do_sample", "eos_token_id", "max_length", "max_new_tokens", "min_p", "num_return_sequences",
    "pad_token_id", "repetition_penalty", "return_dict_in_generate", "stop_strings", "temperature", "top_k", "top_p",
})  # fmt: skip
# How, not what: caches and kernels, and what only counts where a refused option is on.
_NO_MATTER = frozenset({
    "assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind", "cache_config",
    "cache_implementation", "compile_config", "continuous_batching_config", "decoder_start_token_id",
    "disable_compile", "early_stopping", "is_assistant", "length_penalty", "low_memory", "max_cache_len",
    "max_matching_ngram_size", "num_assistant_tokens", "num_assistant_tokens_schedule", "prefill_chunk_size",
    "speculation_type", "target_lookbehind", "transformers_version", "use_cache",
})  # fmt: skip


@dataclass
class Taken:
    """options: of `GenerationOptions`. pad: behind rows that have ended. copies: answers to each prompt."""

    pad: int
    copies: int
    options: dict[str, Any] = field(default_factory=dict)


def asked_of(config: Any, rest: Mapping[str, Any], prompt: int, positions: int | None) -> Taken:
    """A resolved config for prompts of `prompt` tokens, padding included.

    config.max_length is None where nobody gave it. rest: what transformers would hand to the model.
    positions: the longest text that the model takes.
    Raises: RunError naming the first thing that the loop does not do.
    """
    _refuse(config, rest)
    ends = _ends(config.eos_token_id)
    pad = config.pad_token_id if config.pad_token_id is not None else ends[0] if ends else 0
    options: dict[str, Any] = {
        "max_new_tokens": _new_tokens(config, prompt, positions), "temperature": 0.0, "ignore_eos": True,
        "stop_tokens": ends, "repetition_penalty": float(config.repetition_penalty or 1.0),
        "stop": _stops(config.stop_strings),
    }  # fmt: skip
    copies = int(config.num_return_sequences or 1)
    if config.do_sample:
        options |= {
            "temperature": float(config.temperature if config.temperature is not None else 1.0),
            "top_k": int(config.top_k or 0), "top_p": float(config.top_p if config.top_p is not None else 1.0),
            "min_p": float(config.min_p or 0.0),
        }  # fmt: skip
    return Taken(int(pad), copies, options)


def _new_tokens(config: Any, prompt: int, positions: int | None) -> int:
    """Source: transformers' `_prepare_generated_length`: max_new_tokens, else max_length with the prompt, else 20."""
    if config.max_new_tokens is not None:
        return int(config.max_new_tokens)
    if config.max_length is None:
        left = _NEW_TOKENS if positions is None else min(_NEW_TOKENS, positions - prompt)
    else:
        left = int(config.max_length) - prompt
    if left < 1:
        raise RunError(f"a prompt of {prompt} tokens leaves no room for new ones",
                       found=f"max_length {config.max_length}", hint="give max_new_tokens")  # fmt: skip
    return left


def _refuse(config: Any, rest: Mapping[str, Any]) -> None:
    usual = config._get_default_generation_params()
    for name, value in config.to_dict().items():
        if name in _TAKEN or name in _NO_MATTER or name.startswith("_"):
            continue
        if value not in (None, False, usual.get(name)) and value != []:
            raise RunError(f"a bundle does not generate with {name}={value!r}"[:200],
                           hint="transformers on the original does")  # fmt: skip
    for name, value in rest.items():
        if value is not None and name not in ("token_type_ids", "output_attentions", "output_hidden_states"):
            raise RunError(f"generating with a bundle does not take {name}",
                           hint="it takes input_ids, attention_mask and what GenerationConfig says")  # fmt: skip


def _ends(given: Any) -> list[int]:
    if given is None:
        return []
    return [int(t) for t in given] if isinstance(given, (list, tuple)) else [int(given)]


def _stops(given: Any) -> list[str]:
    return [] if given is None else [given] if isinstance(given, str) else list(given)


__all__ = ["Taken", "asked_of"]
