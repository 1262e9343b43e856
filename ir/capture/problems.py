"""Ops of the user's model that have no counterpart, told all at once."""

from __future__ import annotations

from ..diagnostics import CaptureError, Where


class Problems:
    """By op: the first place where it stands, and how often it does."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[Where, int]] = {}

    def add(self, name: str, place: Where) -> None:
        first, times = self._found.get(name, (place, 0))
        self._found[name] = (first, times + 1)

    def refuse(self, hint: str) -> None:
        """Raises: CaptureError with a line for each op; nothing where there is none."""
        if not self._found:
            return
        lines = [f"{w.spoken}: {name}" + (f" ({n} times)" if n > 1 else "") for name, (w, n) in self._found.items()]
        raise CaptureError(
            f"{len(lines)} kind{'s' if len(lines) > 1 else ''} of op cannot be captured:\n  " + "\n  ".join(lines),
            hint=hint,
        )
