"""Log-likelihoods of continuations, from a bundle that gives logits for whole texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...ir.diagnostics import RunError

if TYPE_CHECKING:
    from ...backends.bundle import Bundle

LOGITS_BYTES = 256 << 20  # of one run, at most, where a single row does not need more
Pair = tuple[Sequence[int], Sequence[int]]  # a context, which is not empty, and its continuation
Score = tuple[float, bool]  # the continuation's log-likelihood in nats, and whether greedy decoding gives it
Seen = Callable[[int], None]


class Scorer:
    """Scores on the entry that takes input_ids and gives logits [batch, seq, vocabulary].

    rows: at most so many in one run; None for as many as the bundle allows.
    Raises: RunError where the bundle has no such entry.
    """

    def __init__(self, bundle: Bundle, rows: int | None = None) -> None:
        self.bundle = bundle
        self.entry = next(iter(bundle.entries))
        signature = bundle.entries[self.entry]
        ids = next((s for s in signature.inputs if s.name == "input_ids"), None)
        logits = next((s for s in signature.outputs if s.name == "logits"), None)
        wanted = {"input_ids", "attention_mask"}
        if ids is None or logits is None or {s.name for s in signature.inputs} - wanted or len(logits.shape) != 3:
            raise RunError(
                f"{bundle.manifest.name} does not give the logits of a text's tokens",
                found=f"it takes {', '.join(s.name for s in signature.inputs)}",
                hint="compile a decoder-only language model without --phase and --packed",
            )
        self.masked = any(s.name == "attention_mask" for s in signature.inputs)
        self.vocabulary = int(logits.shape[-1])
        self._rows = min(x for x in (rows, _highest(signature.ranges, ids.shape[0]), 1 << 30) if x is not None)
        self.longest = _highest(signature.ranges, ids.shape[1])

    def score(self, pairs: Sequence[Pair], seen: Seen = lambda n: None) -> list[Score]:
        """The log-likelihood of each continuation after its context, in the order given.

        What is longer than the model can read loses its beginning, as everywhere in the harness. Texts that differ
        in their last token alone are read once. Raises: RunError on an empty context or continuation.
        """
        texts: dict[tuple[int, ...], list[int]] = {}
        for place, (context, continuation) in enumerate(pairs):
            if not context or not continuation:
                raise RunError("a log-likelihood needs a context and a continuation of one token or more each")
            texts.setdefault(self._read(context, continuation), []).append(place)
        scores: list[Score] = [(0.0, False)] * len(pairs)
        for batch in self._batches(sorted(texts, key=lambda t: (-len(t), t))):
            logits = self._logits(batch)
            for row, text in enumerate(batch):
                for place in texts[text]:
                    scores[place] = score_of(logits[row, : len(text)], pairs[place][1])
                    seen(1)
        return scores

    def _read(self, context: Sequence[int], continuation: Sequence[int]) -> tuple[int, ...]:
        """What is read: all but the last token, which is only looked for."""
        text = (*context, *continuation)[:-1]
        return text if self.longest is None else text[-self.longest :]

    def _batches(self, texts: Sequence[tuple[int, ...]]) -> Iterator[Sequence[tuple[int, ...]]]:
        """The longest first: rows of about one length together, as many as their logits' bytes allow."""
        start = 0
        while start < len(texts):
            fit = LOGITS_BYTES // (4 * self.vocabulary * len(texts[start]))
            rows = max(1, min(self._rows, fit))
            yield texts[start : start + rows]
            start += rows

    def _logits(self, texts: Sequence[tuple[int, ...]]) -> np.ndarray:
        """f32 [rows, longest, vocabulary], of texts padded on the right, where causal attention does not look."""
        ids = np.zeros((len(texts), max(map(len, texts))), np.int64)
        mask = np.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text)], mask[row, : len(text)] = text, 1
        inputs = {"input_ids": ids, "attention_mask": mask} if self.masked else {"input_ids": ids}
        return self.bundle.run(inputs, self.entry, ["logits"])["logits"]


def score_of(logits: np.ndarray, continuation: Sequence[int]) -> Score:
    """Of a continuation whose last len(continuation) rows of logits these are: f32 [tokens, vocabulary].

    log p = sum over its tokens of logit - log sum exp(logits); a text that was cut keeps the tokens at its end.
    """
    rows = logits[-len(continuation) :].astype(np.float64)
    tokens = np.asarray(continuation[-len(rows) :])
    high = rows.max(axis=-1)
    sums = np.log(np.exp(rows - high[:, None]).sum(axis=-1)) + high
    chosen = rows[np.arange(len(rows)), tokens]
    return float((chosen - sums).sum()), bool((rows.argmax(axis=-1) == tokens).all())


def _highest(ranges: dict, size: int | str) -> int | None:  # type: ignore[type-arg]
    return size if isinstance(size, int) else ranges[size].high


__all__ = ["Pair", "Score", "Scorer", "Seen", "score_of"]
