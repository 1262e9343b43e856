"""Loads drawn from known distributions of experts: what placements are judged on where no routing was recorded."""

from __future__ import annotations

import numpy as np

KINDS = ("lognormal 0.4", "lognormal 1", "zipf 1")


def popularity(kind: str, experts: int, draw: np.random.Generator) -> np.ndarray:
    """f64 [experts], the logarithm of how often each is wanted: of KINDS, in an order drawn at random."""
    name, _, number = kind.partition(" ")
    if name == "lognormal":
        return draw.normal(0.0, float(number), experts)
    return draw.permutation(-float(number) * np.log(np.arange(1, experts + 1)))


def choices(logits: np.ndarray, tokens: int, k: int, draw: np.random.Generator) -> np.ndarray:
    """i64 [tokens, k]: different experts for each token, drawn one after the other by their popularity.

    Source: the Gumbel top-k trick, Kool, van Hoof and Welling 2019, "Stochastic Beams and Where to Find Them".
    """
    noisy = logits + draw.gumbel(size=(tokens, len(logits)))
    return np.argpartition(-noisy, k - 1, axis=1)[:, :k]


def loads_of(chosen: np.ndarray, experts: int) -> np.ndarray:
    """f64 [experts]: the tokens that each expert is chosen for."""
    return np.bincount(chosen.ravel(), minlength=experts).astype(np.float64)


def touched(loads: np.ndarray, tokens: int, batch: int) -> np.ndarray:
    """f64 [experts]: the probability that a batch reaches each expert, which `loads` of `tokens` tokens chose.

    1 - (1 - p)^batch. What decode reads of a device's memory is the sum of these over its experts, not its tokens.
    """
    return np.asarray(1.0 - (1.0 - np.clip(loads / tokens, 0.0, 1.0)) ** batch)
