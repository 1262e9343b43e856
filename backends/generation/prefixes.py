"""Stored prefixes: what was computed of a prompt's beginning, for later prompts that begin alike."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

LIMIT_BYTES = 256 << 20
SHORTEST = 16  # tokens; for fewer, the copies cost more than they save


class Saved(Protocol):
    """What a session saved of a row."""

    @property
    def length(self) -> int: ...

    @property
    def bytes(self) -> int: ...


class Match(NamedTuple):
    """common: how many of the prompt's tokens the saved prefix begins with; the prefix may be longer."""

    saved: Any
    common: int


class PrefixStore:
    """The prefixes used last, as many as fit into `limit_bytes`, by their tokens."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self._held: OrderedDict[bytes, tuple[np.ndarray, Saved]] = OrderedDict()

    @property
    def bytes(self) -> int:
        """Of memory that the prefixes take."""
        return sum(saved.bytes for _, saved in self._held.values())

    def __len__(self) -> int:
        return len(self._held)

    def longest(self, tokens: Sequence[int], *, whole: bool = False) -> Match | None:
        """The prefix that shares most tokens with a text; of equally good ones, the shortest. None under SHORTEST.

        whole: only among those that the text begins with.
        """
        text = np.asarray(tokens, np.int64)
        found = [(common_length(text, held), -len(held), key) for key, (held, _) in self._held.items()]
        found = [m for m in found if not whole or m[0] == -m[1]]
        common, _, key = max(found, default=(0, 0, b""))
        if common < SHORTEST:
            return None
        self._held.move_to_end(key)
        return Match(self._held[key][1], common)

    def add(self, tokens: Sequence[int], saved: Saved) -> None:
        """Stores what was saved of a text; what was used longest ago goes where there is no room."""
        text = np.asarray(tokens, np.int64)
        if len(text) < SHORTEST or saved.bytes > self.limit_bytes:
            return
        self._held[text.tobytes()] = (text, saved)
        self._held.move_to_end(text.tobytes())
        while self.bytes > self.limit_bytes:
            self._held.popitem(last=False)

    def clear(self) -> None:
        """Frees them all."""
        self._held.clear()


def common_length(one: np.ndarray, two: np.ndarray) -> int:
    """How many tokens two texts begin with in common."""
    n = min(len(one), len(two))
    differ = np.flatnonzero(one[:n] != two[:n])
    return int(differ[0]) if len(differ) else n
