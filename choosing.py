"""Which of several bundles of one model is the fastest here: timed in turn, in processes of their own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .backends.bundle import Bundle
from .backends.generation.session import STEP
from .backends.inputs import random_inputs
from .ir.diagnostics import RunError

USUAL = {"batch": 1, "seq": 128, "past": 256}  # the sizes that are timed, where the bundles take them
ROUNDS = 9


def fastest(bundles: Mapping[str, Bundle]) -> tuple[str, str]:
    """(name, why) of the bundle whose times are the least: the geometric mean over its whole run and, where it writes
    text, one step. One that cannot be timed loses, and where no original's answers are stored in them, so does one that
    answers otherwise than the first."""
    from .profiler.duel import Ring, Side, duel

    (first, base), *others = bundles.items()
    if not others:
        return first, f"{first} was taken: nothing else here builds this model"
    times, said, proven = {first: 1.0}, list[str](), bool(base.cases().cases)
    for name, other in others:
        ratios: list[float] = []
        for what, opener, inputs in _loads(base):
            ours, theirs = (Side(b.path, {}, None, opener) for b in (base, other))
            try:
                held = duel(ours, theirs, inputs, base.manifest.dtype, Ring(rounds=ROUNDS), proven=proven)
            except RunError as error:
                said.append(f"{what}: {error.problem}")
                continue
            if held.times is None:
                said.append(f"{name} at {what}: {held.problem or 'there was no time to tell'}")
                ratios.append(math.inf)
            else:
                ratios.append(held.times.ratio)
                said.append(f"{what}: {first} {held.times.base_ms:.3g} ms, {name} {held.times.ms:.3g} ms")
        times[name] = math.prod(ratios) ** (1 / len(ratios)) if ratios else math.inf
    best = min(times, key=lambda n: times[n])
    return best, f"{best} was taken, measured here ({'; '.join(said)})"


def _loads(bundle: Bundle) -> list[tuple[str, str, dict[str, Any]]]:
    """What is timed: (spoken, its opener, its inputs)."""
    from .profiler.duel import OPENER, STEP_OPENER

    entry, signature = next(iter(bundle.entries.items()))
    sizes = {
        name: min(max(low, USUAL.get(name, low)), high or USUAL.get(name, low))
        for name, (low, high) in signature.symbols.items()
    }
    spoken = " x ".join(str(n) for n in sizes.values()) or entry
    found = [(spoken, OPENER, random_inputs(signature, sizes=sizes))]
    if STEP in bundle.entries:
        room = bundle.manifest.info["generation"]["context"] or USUAL["past"] + 1
        past = np.array([min(USUAL["past"], int(room) - 1)])
        found.append((f"a step at {past[0]}", STEP_OPENER, {"past": past}))
    return found
