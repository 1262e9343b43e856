"""What may be asked of a generation, checked once, so that nothing in it fails later in another way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from ...ir.diagnostics import RunError

DEFAULT_NEW_TOKENS = 256
_HIGHEST_SEED = 2**64 - 1


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How the next tokens are chosen, and when to stop. Raises: RunError naming what is out of range.

    max_new_tokens: by default 256, or what the model's context leaves.
    temperature:    0 takes the likeliest token. By default 0, and 1 where top_k, top_p or min_p say to sample.
    top_k:          only the k likeliest tokens; 0 for all.
    top_p:          only the likeliest tokens that have this probability together; 1 for all.
    min_p:          only tokens at least this many times as likely as the likeliest; 0 for all.
    repetition_penalty: what a score above 0 is divided by, and one below 0 multiplied with, where its token stands in
                    the text already; 1 for none. Source: Keskar et al. 2019, "CTRL", section 4.1.
    stop:           texts that end it; the answer is cut before them.
    stop_tokens:    tokens that end it, besides the model's own.
    ignore_eos:     go on where the model would end.
    seed:           of the random numbers; row i draws its own from (seed, i). Drawn where it is not given.
    capacity:       the tokens that a row may hold, prompt included; what is needed by default.
    reuse:          whether to keep what was computed of prompts, and to start from what was kept.
    """

    max_new_tokens: int | None = None
    temperature: float | None = None
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    stop: Sequence[str] = ()
    stop_tokens: Sequence[int] = ()
    ignore_eos: bool = False
    seed: int | None = None
    capacity: int | None = None
    reuse: bool = True

    def __post_init__(self) -> None:
        stops = (self.stop,) if isinstance(self.stop, str) else self.stop
        object.__setattr__(self, "stop", _tuple("stop", stops))
        object.__setattr__(self, "stop_tokens", _tuple("stop_tokens", self.stop_tokens))
        for name, low in (("max_new_tokens", 1), ("top_k", 0), ("seed", 0), ("capacity", 1)):
            _check_whole(name, getattr(self, name), low)
        _check_number("temperature", self.temperature, lambda x: x >= 0, "0 or above")
        _check_number("top_p", self.top_p, lambda x: 0 < x <= 1, "above 0 and at most 1")
        _check_number("min_p", self.min_p, lambda x: 0 <= x <= 1, "from 0 to 1")
        _check_number("repetition_penalty", self.repetition_penalty, lambda x: x > 0, "above 0")
        if self.seed is not None and self.seed > _HIGHEST_SEED:
            raise RunError(f"seed must be below 2^64, got {self.seed}")
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise RunError(f"stop takes texts of at least one character, got {text!r}")
        for token in self.stop_tokens:
            _check_whole("stop_tokens", token, 0)

    @property
    def chosen_temperature(self) -> float:
        """The temperature to sample at; 0 takes the likeliest."""
        if self.temperature is not None:
            return float(self.temperature)
        return 1.0 if self.top_k or self.top_p < 1 or self.min_p else 0.0


def _tuple(name: str, values: Any) -> tuple[Any, ...]:
    try:
        return tuple(values)
    except TypeError:
        raise RunError(f"{name} takes a list, got {values!r}") from None


def _check_whole(name: str, value: Any, low: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
        raise RunError(f"{name} must be a whole number of at least {low}, got {value!r}")


def _check_number(name: str, value: Any, holds: Any, words: str) -> None:
    if value is None and name == "temperature":
        return
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not holds(value):
        raise RunError(f"{name} must be {words}, got {value!r}")
