"""Cases of a step: prompts, single tokens and pieces of text, rows of different lengths, caches more or less full."""

from __future__ import annotations

import numpy as np

from .cases import Case, Span
from .stepping import StepSource

_TOKENS, _PAST, _SPARE = 9, 21, 5
_LARGE = 1 << 28  # bytes of weights, which the original reads once for each row that is elsewhere: then fewer rows


def step_cases(source: StepSource, batch: Span, capacity: Span, *, seed: int = 0) -> tuple[Case, ...]:
    """Six cases within the sizes allowed; what the caches hold is what the model kept of drawn texts.

    batch, capacity: (low, high), both included. The same arguments give the same arrays.
    """
    room = min(capacity[1], source.max_seq or capacity[1])
    rows = max(batch[0], min(batch[1], 3 if source.parameter_bytes < _LARGE else 2))
    few = max(batch[0], 1)
    plan = (
        ("prompts of several rows", rows, _TOKENS, 0, 2),
        ("one token after each text", rows, 1, _PAST, 1),
        ("one token on empty caches", few, 1, 0, 1),
        ("a piece after a text", few, _TOKENS, _PAST, _TOKENS),
        ("several rows, each after its text", rows, 3, _PAST, 2),
        ("the last place", few, 1, room - 1, 1) if room - 1 <= 4 * _PAST else ("a longer text", few, 1, 4 * _PAST, 1),
    )
    made = []
    for i, (name, count, tokens, past, wanted) in enumerate(plan):
        rng = np.random.default_rng((seed, i))
        tokens = max(1, min(tokens, room))
        longest = max(0, min(past, room - tokens))
        held = np.array([longest, *rng.integers(0, longest + 1, count - 1)])
        need = max(longest + tokens, capacity[0])
        spare = 0 if need == room else min(_SPARE, room - need)
        window = min(longest, max(source.windows, default=1) - 1) + tokens
        sizes = {"batch": count, "tokens": tokens, "wanted": min(wanted, tokens), "capacity": need + spare,
                 "window_capacity": max(window + 2, capacity[0])}  # fmt: skip
        made.append(Case(name, source.inputs_for(sizes, held, rng)))
    return tuple(made)
