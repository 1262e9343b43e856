"""Experts that do not all fit into memory: which stay, which make room, and how many bytes that costs a token.

An access is a flat number, layer · experts + expert. Accesses come token by token, in each layer by layer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...ir.diagnostics import TundishError
from .routing import Routing

POLICIES = ("static", "lru", "lfu", "look-ahead")
_FAR = 1 << 60


class Policy:
    """Says which of the experts in memory makes room; this one says the one used longest ago (LRU)."""

    def __init__(self) -> None:
        self.now = 0
        self.last: dict[int, int] = {}

    def learn(self, accesses: Iterable[int]) -> None:
        """Accesses that are known to follow those that are known already. Only a look-ahead minds."""

    def touched(self, expert: int) -> None:
        """The expert is used now."""
        self.last[expert] = self.now
        self.now += 1

    def worst(self, resident: Iterable[int]) -> int:
        """The one to give up."""
        return min(resident, key=lambda e: (self.last[e], e))


class LeastFrequent(Policy):
    """The one used least often so far; of those the one used longest ago."""

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        super().__init__()
        self.counts = dict(counts or {})

    def touched(self, expert: int) -> None:
        super().touched(expert)
        self.counts[expert] = self.counts.get(expert, 0) + 1

    def worst(self, resident: Iterable[int]) -> int:
        return min(resident, key=lambda e: (self.counts.get(e, 0), self.last.get(e, -1), e))


class LookAhead(LeastFrequent):
    """What the routers have said already: the expert whose next use is farthest, or that has none in sight.

    Of those with none in sight the one used least often. With all accesses known it is the optimum.
    Source: Belady 1966, "A study of replacement algorithms for a virtual-storage computer".
    """

    def __init__(self, counts: Mapping[int, int] | None = None) -> None:
        super().__init__(counts)
        self.known: dict[int, deque[int]] = {}
        self.learnt = 0

    def learn(self, accesses: Iterable[int]) -> None:
        for expert in accesses:
            self.known.setdefault(expert, deque()).append(self.learnt)
            self.learnt += 1

    def touched(self, expert: int) -> None:
        seen = self.known.get(expert)
        while seen and seen[0] <= self.now:
            seen.popleft()
        self.learnt = max(self.learnt, self.now + 1)  # what was not said before is known once it comes
        super().touched(expert)

    def worst(self, resident: Iterable[int]) -> int:
        def value(expert: int) -> tuple[int, int, int, int]:
            following = self.known.get(expert)
            sight = -following[0] if following else -_FAR
            return (sight, self.counts.get(expert, 0), self.last.get(expert, -1), expert)

        return min(resident, key=value)


class Slots:
    """Which experts are in memory: some pinned, the others in slots that a policy hands on."""

    def __init__(self, slots: int, policy: Policy, pinned: Iterable[int] = ()) -> None:
        self.pinned = frozenset(pinned)
        self.slots, self.policy = slots - len(self.pinned), policy
        self.held: dict[int, int] = {}  # expert -> slot
        self.free = list(range(self.slots - 1, -1, -1))
        self.home = {e: self.slots + i for i, e in enumerate(sorted(self.pinned))}
        self.loaded: set[int] = set()

    def place(self, expert: int) -> tuple[int, bool]:
        """(its slot, whether it must be read into it)."""
        if expert in self.pinned:
            fresh = expert not in self.loaded
            self.loaded.add(expert)
            self.policy.touched(expert)
            return self.home[expert], fresh
        found = self.held.get(expert)
        if found is None:
            if not self.free:
                self.free.append(self.held.pop(self.policy.worst(self.held)))
            self.held[expert] = self.free.pop()
        self.policy.touched(expert)
        return self.held[expert], found is None


def reads(accesses: Sequence[int], slots: Slots, tokens: Sequence[int] | None = None, ahead: int = 0) -> int:
    """How many of the accesses must read an expert.

    tokens: the token that each access belongs to, where the policy looks `ahead` so many tokens beyond the present one.
    """
    count, end = 0, 0
    for i, expert in enumerate(accesses):
        if tokens is not None:
            first = end
            while end < len(accesses) and tokens[end] <= tokens[i] + ahead:
                end += 1
            slots.policy.learn(accesses[first:end])
        count += slots.place(expert)[1]
    return count


def least_reads(accesses: Sequence[int], slots: int) -> int:
    """What no policy is below: the optimum, which knows all that follows."""
    return reads(accesses, Slots(slots, LookAhead()), [0] * len(accesses))


def accesses_of(routing: Routing) -> tuple[list[int], list[int]]:
    """(accesses, the token of each) of the recorded choices. Raises: TundishError where none were kept."""
    layers = [layer.choices() for layer in routing.layers]
    tokens = min(len(c) for c in layers)
    if not tokens:
        raise TundishError("the routing file holds no choices in order, so nothing can be predicted of residency",
                           hint="record it again with a text")  # fmt: skip
    offsets = np.cumsum([0, *(layer.experts for layer in routing.layers[:-1])])
    flat = np.concatenate([c[:tokens] + o for c, o in zip(layers, offsets, strict=True)], axis=1)
    return flat.ravel().tolist(), np.repeat(np.arange(tokens), flat.shape[1]).tolist()


@dataclass(frozen=True, slots=True)
class Residency:
    """How experts that do not all fit are kept.

    pinned: experts (layer · experts + expert) that never leave. bytes_per_token: read on average over the recorded
    tokens, from nothing loaded; least_bytes_per_token: what no policy is below.
    """

    policy: str
    slots: int
    pinned: tuple[int, ...]
    ahead: int
    expert_bytes: int
    tokens: int
    bytes_per_token: float
    least_bytes_per_token: float
    others: Mapping[str, float] = field(default_factory=dict)

    def slots_of(self, counts: Mapping[int, int]) -> Slots:
        """The slots themselves, empty."""
        return Slots(self.slots, made(self.policy, counts), self.pinned)

    def row(self) -> dict[str, Any]:
        """What a plan says of it."""
        return {
            "policy": self.policy, "slots": self.slots, "pinned": len(self.pinned), "ahead": self.ahead,
            "expert_bytes": self.expert_bytes, "tokens": self.tokens, "bytes_per_token": round(self.bytes_per_token),
            "least_bytes_per_token": round(self.least_bytes_per_token),
            "others": {name: round(value) for name, value in self.others.items()},
        }  # fmt: skip


def made(name: str, counts: Mapping[int, int]) -> Policy:
    """A policy by its name. Raises: TundishError."""
    makers: Mapping[str, Any] = {
        "static": Policy, "lru": Policy, "lfu": lambda: LeastFrequent(counts), "look-ahead": lambda: LookAhead(counts),
    }  # fmt: skip
    if name not in makers:
        raise TundishError(f"there is no policy {name!r}", hint=f"one of {', '.join(POLICIES)}")
    return makers[name]()


def counts_of(routing: Routing) -> dict[int, int]:
    """How often each expert was chosen, by its flat number."""
    return dict(enumerate(count for layer in routing.layers for count in layer.counts))


def plan_residency(
    routing: Routing, expert_bytes: int, memory_bytes: int, *, policy: str | None = None, ahead: int = 0,
    most_bytes_per_token: int | None = None,
) -> Residency:  # fmt: skip
    """The policy, and the pinned experts, that read least on the recorded tokens, or those of one policy.

    memory_bytes: for experts alone. ahead: tokens whose routing is known before they run, as those of a prompt are; 0:
    only the present token's, of all its layers. most_bytes_per_token: what storage can give in the time of a token.
    Raises: TundishError with a number where the memory, or the storage, is not enough.
    """
    accesses, tokens = accesses_of(routing)
    total, least = sum(layer.experts for layer in routing.layers), max(layer.k for layer in routing.layers)
    slots = min(total, memory_bytes // expert_bytes)
    if slots < least:
        raise TundishError(f"experts need at least {least * expert_bytes:,} bytes of memory, those of one token in one "
                           "layer", found=f"{memory_bytes:,} bytes, {expert_bytes:,} an expert")  # fmt: skip
    count, found = tokens[-1] + 1, dict[str, tuple[int, tuple[int, ...]]]()
    for name in POLICIES if policy is None else (policy,):
        found[name] = _best(name, accesses, tokens, slots, least, counts_of(routing), ahead)
    name = min(found, key=lambda n: found[n][0])
    each, best = expert_bytes / count, least_reads(accesses, slots)
    if most_bytes_per_token is not None and found[name][0] * each > most_bytes_per_token:
        raise TundishError(
            f"each token would read {found[name][0] * each:,.0f} bytes of experts, and {most_bytes_per_token:,} are "
            "allowed", found=f"{slots} of {total} experts fit; no policy reads less than {best * each:,.0f}",
            hint="more memory, experts in fewer bits, or fewer bytes a token asked of storage",
        )  # fmt: skip
    return Residency(name, slots, found[name][1], ahead, expert_bytes, count, found[name][0] * each, best * each,
                     {n: r * each for n, (r, _) in found.items()})  # fmt: skip


def _best(
    name: str, accesses: Sequence[int], tokens: Sequence[int], slots: int, least: int, counts: Mapping[int, int],
    ahead: int,
) -> tuple[int, tuple[int, ...]]:  # fmt: skip
    """(reads, pinned) of the best of some numbers of pinned experts; a static one pins all but what a token needs."""
    hottest = sorted(counts, key=lambda e: (-counts[e], e))
    numbers = [slots - least] if name == "static" else sorted({0, slots // 4, slots // 2})
    tried = []
    for number in numbers:
        pinned = tuple(hottest[:number])
        known = tokens if name == "look-ahead" else None
        tried.append((reads(accesses, Slots(slots, made(name, counts), pinned), known, ahead), pinned))
    return min(tried, key=lambda t: (t[0], len(t[1])))
