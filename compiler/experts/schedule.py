"""How a layer of experts runs: what binds it at how many tokens, and how its work is shared out among threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..cost.roofline import Roofline, compute_s, memory_s

MOST_TOKENS = 1 << 20
SHOWN = (1, 16, 128)


@dataclass(frozen=True, slots=True)
class Layer:
    """Its sizes. expert_bytes: of one expert's parameters as they are held. row_flops: of one token in one expert."""

    experts: int
    k: int
    expert_bytes: int
    row_flops: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """least_rows: an expert's weights take as long to read as so many rows take to compute; of fewer, reading binds.

    reached: (tokens, different experts that they are expected to choose). bound_by_memory: below so many tokens the
    layer is; `MOST_TOKENS` where it always is.
    """

    least_rows: int
    reached: tuple[tuple[int, float], ...]
    bound_by_memory: int


def uniform(layer: Layer) -> Callable[[int], float]:
    """Different experts that so many tokens reach where each draws k of them uniformly: E · (1 - (1 - k/E)^n).

    >>> [round(uniform(Layer(8, 2, 1, 1))(n), 3) for n in (0, 1, 2)]
    [0.0, 2.0, 3.5]
    """
    return lambda n: layer.experts * (1.0 - (1.0 - layer.k / layer.experts) ** n)


def schedule(layer: Layer, roofline: Roofline, distinct: Callable[[int], float] | None = None) -> Schedule:
    """distinct: how many different experts so many tokens reach, as recorded; else drawn uniformly.

    >>> found = schedule(Layer(8, 2, 4000, 2000), Roofline(1e9, {"memory": 1e8}))
    >>> found.least_rows, found.bound_by_memory
    (20, 80)
    """
    reach = distinct or uniform(layer)
    read, row = memory_s({"memory": layer.expert_bytes}, roofline), compute_s(layer.row_flops, roofline)

    def binds(n: int) -> bool:
        return reach(n) * read > n * layer.k * row

    low, high = 0, 1
    while high < MOST_TOKENS and binds(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if binds(middle) else (low, middle)
    return Schedule(max(1, round(read / row)), tuple((n, reach(n)) for n in SHOWN), high)


def spoken(layer: Layer, found: Schedule, recorded: bool) -> str:
    """For those who ask why."""
    reached = ", ".join(f"{count:.1f} by {n}" for n, count in found.reached)
    how = "as recorded" if recorded else "if drawn uniformly"
    return (
        f"{layer.experts} experts, {layer.k} a token, {layer.expert_bytes / 1e6:.3g} MB each; reached by so many "
        f"tokens, {how}: {reached}; below {found.bound_by_memory} tokens reading them binds; an expert counts for "
        f"{found.least_rows} rows at least where work is shared out"
    )
