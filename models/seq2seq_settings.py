"""What an encoder-decoder's own settings say of the text that it writes: how it begins, and what may stand in it."""

from __future__ import annotations

from typing import Any

# Taken over as they are, or into what `settings` gives.
_TAKEN = frozenset({
    "bad_words_ids", "bos_token_id", "decoder_start_token_id", "eos_token_id", "forced_bos_token_id",
    "forced_eos_token_id", "max_length", "max_new_tokens", "min_length", "min_new_tokens", "no_repeat_ngram_size",
    "pad_token_id", "suppress_tokens",
})  # fmt: skip
# How, not what: caches and kernels, and what only counts in a search or with an assistant.
_NO_MATTER = frozenset({
    "assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind", "cache_config",
    "cache_implementation", "compile_config", "continuous_batching_config", "disable_compile", "early_stopping",
    "is_assistant", "length_penalty", "low_memory", "max_cache_len", "max_matching_ngram_size",
    "num_assistant_tokens", "num_assistant_tokens_schedule", "prefill_chunk_size", "return_dict_in_generate",
    "speculation_type", "target_lookbehind", "transformers_version", "use_cache",
})  # fmt: skip


def settings(module: Any) -> dict[str, Any]:
    """decoder_start, forced_bos, forced_eos: ids or None. suppressed: ids that are never written. no_repeat_ngram.

    min_new_tokens, max_new_tokens: how many at least, and at most where a user says nothing. The first token is none of
    them, as transformers counts it in min_length and max_length.
    """
    config = module.generation_config
    start = config.decoder_start_token_id
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    single = [words[0] for words in config.bad_words_ids or () if len(words) == 1 and words[0] not in ends]
    least = config.min_new_tokens if config.min_new_tokens is not None else (config.min_length or 0) - 1
    most = config.max_new_tokens if config.max_new_tokens is not None else (config.max_length or 0) - 1
    return {
        "decoder_start": _one(config.bos_token_id if start is None else start),
        "forced_bos": _one(config.forced_bos_token_id), "forced_eos": _one(config.forced_eos_token_id),
        "suppressed": sorted({*single, *(config.suppress_tokens or ())}),
        "min_new_tokens": max(0, least), "max_new_tokens": most if most > 0 else None,
        "no_repeat_ngram": config.no_repeat_ngram_size or 0,
    }  # fmt: skip


def left_out(module: Any) -> list[str]:
    """The settings, as name=value, by which the original may write something else: searches, sampling, penalties."""
    config = module.generation_config
    usual = config._get_default_generation_params()
    others = {n: v for n, v in config.to_dict().items() if n not in _TAKEN | _NO_MATTER and not n.startswith("_")}
    found = [f"{n}={v!r}" for n, v in sorted(others.items()) if v not in (None, False, usual.get(n)) and v != []]
    if any(len(words) > 1 for words in config.bad_words_ids or ()):
        found.append("bad_words_ids of several tokens")
    return found


def _one(token: Any) -> int | None:
    """Of several that are forced together the likeliest is the first, as they are given one score."""
    return None if token is None else int(min(token) if isinstance(token, list) else token)
