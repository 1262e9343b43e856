"""What a model's own settings force and forbid of the text that it writes, as transformers' processors have it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Constraints:
    """What may stand where among the new tokens.

    forced:     place -> the token that stands there.
    suppressed: tokens that stand nowhere.
    ends:       tokens that end a text, which stand nowhere before the place `least`.
    ngram:      no run of so many tokens stands twice in a text; 0 for no such rule.
                Source: Paulus et al. 2018, "A Deep Reinforced Model for Abstractive Summarization", section 2.5.
    """

    forced: Mapping[int, int] = field(default_factory=dict)
    suppressed: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    least: int = 0
    ngram: int = 0

    def allowed(self, logits: np.ndarray, text: np.ndarray, place: int) -> np.ndarray:
        """The logits [vocab] with -inf where a token may not come next. text: the tokens so far, the first included."""
        ends = self.ends if place < self.least else ()
        repeated = _completing(text, self.ngram) if self.ngram else np.zeros(0, np.int64)
        wrong = np.concatenate([np.array([*self.suppressed, *ends], np.int64), repeated])
        if not wrong.size:
            return logits
        found = logits.copy()
        found[wrong[wrong < len(logits)]] = -np.inf
        return found


FREE = Constraints()


def constraints_of(info: Mapping[str, Any], ends: Collection[int], new: int) -> Constraints:
    """As a bundle's `info.generation` says it of a text of at most `new` tokens. ends: the tokens that end one."""
    places = ((0, info["forced_bos"]), (new - 1, info["forced_eos"]))
    forced = {place: int(token) for place, token in places if token is not None}
    return Constraints(forced, tuple(info["suppressed"]), tuple(sorted(ends)), info["min_new_tokens"],
                       info["no_repeat_ngram"])  # fmt: skip


def _completing(text: np.ndarray, size: int) -> np.ndarray:
    """The tokens that would complete a run of `size` tokens which stands in the text already."""
    if len(text) < size:
        return np.zeros(0, np.int64)
    runs = np.lib.stride_tricks.sliding_window_view(text, size)
    last = text[len(text) - size + 1 :]
    found: np.ndarray = runs[(runs[:, :-1] == last).all(axis=1), -1]
    return found
