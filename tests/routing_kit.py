"""Routing made up for tests."""

from __future__ import annotations

import numpy as np

from tundish.compiler.experts.drawn import choices
from tundish.compiler.experts.routing import VERSION, Routing, layer_of


def routed(layers: int, experts: int, tokens: int, k: int = 2, skew: float = 1.0, traced: int | None = None) -> Routing:
    """Each layer's choices drawn by popularities of that deviation."""
    draw = np.random.default_rng(layers * experts + tokens)
    made = tuple(
        layer_of(f"layers.{i}", experts, [choices(draw.normal(0, skew, experts), tokens, k, draw)],
                 tokens if traced is None else traced)
        for i in range(layers)
    )  # fmt: skip
    return Routing(VERSION, "made up", "0" * 16, "drawn tokens", tokens, (tokens,), made)
