"""A model's config.json as a bundle keeps it, so that transformers' loaders know what the bundle is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .source import Source

# Where the weights lay before, and how: a bundle has its own.
_OF_THE_WEIGHTS = frozenset({"quantization_config"})


def config_file(source: Source) -> dict[str, bytes]:
    """`config.json` -> its text, or nothing for a model that transformers does not know by a config."""
    if not source.config:
        return {}
    kept = {k: v for k, v in source.config.items() if not k.startswith("_") and k not in _OF_THE_WEIGHTS}
    named = {**kept, "architectures": [architecture(source)], "dtype": "float32"}
    return {"config.json": (json.dumps(named, indent=1, default=str) + "\n").encode()}


def architecture(source: Source) -> str:
    """The class of the original, by its name in transformers."""
    config: Mapping[str, Any] = source.config
    return str((config.get("architectures") or [type(source.module).__name__])[0])


__all__ = ["architecture", "config_file"]
