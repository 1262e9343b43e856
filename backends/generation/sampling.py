"""The next token from logits: what transformers' processors do, in their order, in double precision on numpy."""

from __future__ import annotations

import numpy as np

from ...ir.diagnostics import RunError
from .options import GenerationOptions


def processed(logits: np.ndarray, seen: np.ndarray, options: GenerationOptions) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that may come next and their probabilities, both [n], by rising token.

    logits: [vocab]. seen: the tokens of the text so far, prompt included.
    The order is: repetition penalty, temperature, top-k, top-p, min-p. Each of the last three looks at the distribution
    that those before it left. Of tokens with equal scores at top-k's edge all are kept.
    Sources: Fan et al. 2018, "Hierarchical Neural Story Generation" (top-k); Holtzman et al. 2020, "The Curious Case of
    Neural Text Degeneration" (top-p); Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling" (min-p).
    """
    scores = penalised(logits, seen, options.repetition_penalty)
    with np.errstate(over="ignore"):  # of the likeliest alone the difference is 0 at any temperature
        scores = (scores - scores.max()) / (options.chosen_temperature or 1.0)
    tokens = np.arange(len(scores))
    if 0 < options.top_k < len(scores):
        edge = np.partition(scores, -options.top_k)[-options.top_k]
        tokens = np.flatnonzero(scores >= edge)
    odds = _softmax(scores[tokens])
    if options.top_p < 1:
        kept = _nucleus(odds, options.top_p)
        tokens, odds = tokens[kept], odds[kept] / odds[kept].sum()
    if options.min_p > 0:
        kept = odds >= options.min_p * odds.max()
        tokens, odds = tokens[kept], odds[kept] / odds[kept].sum()
    return tokens, odds


def penalised(logits: np.ndarray, seen: np.ndarray, penalty: float) -> np.ndarray:
    """Scores in float64, those of tokens that were seen made less likely. Raises: RunError where none is a number."""
    scores = logits.astype(np.float64)
    if penalty != 1.0 and len(seen):
        tokens = np.unique(seen)
        tokens = tokens[tokens < len(scores)]
        scores[tokens] = np.where(scores[tokens] < 0, scores[tokens] * penalty, scores[tokens] / penalty)
    _check_number(scores.max())
    return scores


def _check_number(highest: float) -> None:
    """Raises: RunError where the highest of a row's scores is none; a NaN counts as the highest."""
    if not np.isfinite(highest):
        raise RunError("the model's answer is not a number", hint="`tundish verify` checks the bundle")


def _softmax(scores: np.ndarray) -> np.ndarray:
    """Of scores whose highest is 0."""
    odds = np.exp(scores)
    total: np.ndarray = odds / odds.sum()
    return total


def _nucleus(odds: np.ndarray, top_p: float) -> np.ndarray:
    """Which tokens remain: from the unlikeliest on they go while their sum is at most 1 - top_p.

    Tokens of less than (1 - top_p) / n each cannot reach that sum together, so only the others are sorted.
    """
    rest = 1 - top_p
    sure = odds < rest / len(odds)
    likely = np.flatnonzero(~sure)
    order = likely[np.argsort(odds[likely], kind="stable")]
    gone = odds[sure].sum() + odds[order].cumsum() <= rest
    gone[-1] = False
    kept = np.zeros(len(odds), bool)
    kept[order[~gone]] = True
    return kept


class Sampler:
    """Chooses a row's next tokens. Its random numbers come from (seed, row) alone, so no other row changes them."""

    def __init__(self, options: GenerationOptions, seed: int, row: int) -> None:
        self._options = options
        self._random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, row])))

    def choose(self, logits: np.ndarray, seen: np.ndarray) -> int:
        """The next token. logits: [vocab]; seen: the text's tokens. Raises: RunError where no logit is a number."""
        if not self._options.chosen_temperature:
            plain = self._options.repetition_penalty == 1
            scores = logits if plain else penalised(logits, seen, self._options.repetition_penalty)
            likeliest = int(scores.argmax())  # of a row with a NaN, that
            _check_number(scores[likeliest])
            return likeliest
        tokens, odds = processed(logits, seen, self._options)
        drawn = np.searchsorted(odds.cumsum(), self._random.random() * odds.sum(), side="right")
        return int(tokens[min(int(drawn), len(tokens) - 1)])
