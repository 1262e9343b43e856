"""Stop strings, found in text that comes in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes text on as far as it cannot be the beginning of a stop string, and ends before the first that is whole.

    The first is the one that is whole first; of two that become whole with one character it is the longer. So the
    answer does not depend on the pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None

    def feed(self, text: str) -> str:
        """The text that is certain now; `found` says whether a stop string ended it."""
        if self.found is not None:
            return ""
        self._held += text
        ends = [(at + len(s), -len(s), s) for s in self._stops if (at := self._held.find(s)) >= 0]
        if ends:
            end, _, self.found = min(ends)
            certain, self._held = self._held[: end - len(self.found)], ""
            return certain
        keep = max((_overlap(self._held, s) for s in self._stops), default=0)
        cut = len(self._held) - keep
        certain, self._held = self._held[:cut], self._held[cut:]
        return certain

    def flush(self) -> str:
        """What was held back, at the end of the text."""
        rest, self._held = self._held, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of the text that is a beginning of the stop string, but not all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
