"""A model's configs without anything of this machine, as a bundle or an exported folder keeps them."""

from __future__ import annotations

import json
from typing import Any

from .source import Source

# Where the weights lay before, and how: what is made of a model has its own.
_OF_THE_WEIGHTS = frozenset({"quantization_config"})


def config_files(source: Source) -> dict[str, bytes]:
    """`config.json` and `generation_config.json`, as far as there are such: by them transformers knows a bundle."""
    found = {"config.json": config(source) if source.config else {}, "generation_config.json": settings(source.module)}
    return {n: (json.dumps(told, indent=1, default=str) + "\n").encode() for n, told in found.items() if told}


def config(source: Source) -> dict[str, Any]:
    """The model's config, with the class that it has here; a module that was wrapped for capture keeps its own."""
    told = {k: v for k, v in source.config.items() if not k.startswith("_") and k not in _OF_THE_WEIGHTS}
    if hasattr(source.module, "config"):
        told["architectures"] = [type(source.module).__name__]
    return {**told, "dtype": "float32"}


def settings(module: Any) -> dict[str, Any]:
    """How the model generates, where nobody says otherwise; empty where it does not."""
    found = getattr(module, "generation_config", None)
    told = {} if found is None else found.to_dict()
    return {k: v for k, v in told.items() if v is not None and not k.startswith("_")}


def token_ids(module: Any) -> dict[str, Any]:
    """The ids that end a text (one or several), begin one, and pad one: `eos`, `bos`, `pad`, as far as they are known.

    The model's settings for generation come before its config.
    """
    found: dict[str, Any] = {}
    for holder in (module.config.get_text_config(), getattr(module, "generation_config", None)):
        told = {key: getattr(holder, f"{key}_token_id", None) for key in ("eos", "bos", "pad")}
        found |= {key: value for key, value in told.items() if value is not None}
    return found


__all__ = ["config", "config_files", "settings", "token_ids"]
