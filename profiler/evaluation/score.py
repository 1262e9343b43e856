"""Log-likelihoods of continuations: whole texts in batches, or each from what it has in common with another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...backends.generation.loop import rewound
from ...backends.generation.prefixes import common_length
from ...backends.generation.session import STEP
from ...ir.diagnostics import RunError

if TYPE_CHECKING:
    from ...backends.bundle import Bundle

LOGITS_BYTES = 256 << 20  # held at once, at most, where a single token or row does not need more
SHARED = 0.5  # texts are read from their common beginnings where at most this share of their tokens is left to read
Text = tuple[int, ...]
Pair = tuple[Sequence[int], Sequence[int]]  # a context, which is not empty, and its continuation
Score = tuple[float, bool]  # the continuation's log-likelihood in nats, and whether greedy decoding gives it
Asked = tuple[Text, int]  # what is read, and after how many of its last tokens logits are wanted
Seen = Callable[[int], None]


class Scorer:
    """Scores on the entry that takes input_ids and gives logits [batch, seq, vocabulary], and on the step beside it.

    rows: at most so many in one run; None for as many as the bundle allows.
    longest: tokens of a text that are read; None for any number.
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
        self._whole = _highest(signature.ranges, ids.shape[1])
        self._steps = STEP in bundle.entries
        self.longest: int | None = bundle.generator.context if self._steps else self._whole

    def score(self, pairs: Sequence[Pair], seen: Seen = lambda n: None) -> list[Score]:
        """The log-likelihood of each continuation after its context, in the order given.

        What is longer than the model can read loses its beginning, as everywhere in the harness. Texts that differ
        in their last token alone are read once. Raises: RunError on an empty context or continuation.
        """
        places: dict[Asked, list[int]] = {}
        for place, (context, continuation) in enumerate(pairs):
            if not context or not continuation:
                raise RunError("a log-likelihood needs a context and a continuation of one token or more each")
            places.setdefault(self._asked(context, continuation), []).append(place)
        scores: list[Score] = [(0.0, False)] * len(pairs)
        for asked, pieces in self._logits(list(places)):
            endings = [pairs[place][1] for place in places[asked]]
            for place, score in zip(places[asked], scores_of(pieces, endings, asked[1]), strict=True):
                scores[place] = score
            seen(len(endings))
        return scores

    def _asked(self, context: Sequence[int], continuation: Sequence[int]) -> Asked:
        """All but the last token is read; that one is only looked for."""
        text = (*context, *continuation)[:-1]
        kept = text if self.longest is None else text[-self.longest :]
        return kept, min(len(continuation), len(kept))

    def _logits(self, asked: list[Asked]) -> Iterator[tuple[Asked, Iterable[np.ndarray]]]:
        """For each, in any order, the logits that are wanted, in pieces."""
        whole = [a for a in asked if self._whole is None or len(a[0]) <= self._whole]
        if self._steps and (len(whole) < len(asked) or _left(asked) <= SHARED * sum(len(text) for text, _ in asked)):
            reader = PrefixReader(self.bundle, max(len(text) for text, _ in asked))
            for text, wanted in sorted(asked):
                yield (text, wanted), reader.read(text, wanted)
            return
        for batch in self._batches(sorted(whole, key=lambda a: (-len(a[0]), a))):
            logits = self._run([text for text, _ in batch])
            for row, (text, wanted) in enumerate(batch):
                yield (text, wanted), [logits[row, len(text) - wanted : len(text)]]

    def _batches(self, asked: Sequence[Asked]) -> Iterator[Sequence[Asked]]:
        """The longest first: rows of about one length together, as many as their logits' bytes allow."""
        start = 0
        while start < len(asked):
            fit = LOGITS_BYTES // (4 * self.vocabulary * len(asked[start][0]))
            rows = max(1, min(self._rows, fit))
            yield asked[start : start + rows]
            start += rows

    def _run(self, texts: Sequence[Text]) -> np.ndarray:
        """f32 [rows, longest, vocabulary], of texts padded on the right, where causal attention does not look."""
        ids = np.zeros((len(texts), max(map(len, texts))), np.int64)
        mask = np.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text)], mask[row, : len(text)] = text, 1
        inputs = {"input_ids": ids, "attention_mask": mask} if self.masked else {"input_ids": ids}
        return self.bundle.run(inputs, self.entry, ["logits"])["logits"]


class PrefixReader:
    """Reads one text after another; what a text begins with in common with the one before it is not read again.

    capacity: the longest text.
    """

    def __init__(self, bundle: Bundle, capacity: int) -> None:
        self._session: Any = bundle.generator.open_session(1, capacity)
        self._held = np.zeros(0, np.int64)
        self._known: tuple[int, np.ndarray] = (0, np.zeros(0, np.float32))  # the logits after so many held tokens
        self._most = max(1, LOGITS_BYTES // (4 * self._session.vocab))
        self.tokens_read = 0

    def read(self, text: Text, wanted: int) -> Iterator[np.ndarray]:
        """The logits after each of the last `wanted` tokens, f32 [n, vocabulary] a piece."""
        tokens, first = np.asarray(text), len(text) - wanted + 1
        common = common_length(self._held, tokens)
        known = self._known[0] == first and common >= first
        start = rewound(self._session, 0, first if known else min(common, first - 1))
        if start < first:
            self._known = (first, self._session.read([tokens[start:first]])[0])
            self.tokens_read += first - start
        self._held = tokens[:first]
        yield self._known[1][None]
        for start in range(first, len(tokens), self._most):
            piece = tokens[start : start + self._most]
            logits = self._session.score([piece])[0]
            self._held, self.tokens_read = tokens[: start + len(piece)], self.tokens_read + len(piece)
            yield logits


def scores_of(pieces: Iterable[np.ndarray], endings: Sequence[Sequence[int]], wanted: int) -> list[Score]:
    """Of continuations that differ in their last token alone: the sums over their tokens of log p, in double precision.

    pieces: logits [n, vocabulary], `wanted` in all: before each of a continuation's last `wanted` tokens, of all but
    where the text was cut. log p(token) = logit - log sum exp(logits).
    """
    tokens = np.asarray([ending[-wanted:] for ending in endings])
    sums, greedy, done = np.zeros(len(tokens)), np.ones(len(tokens), bool), 0
    for piece in pieces:
        logits = piece.astype(np.float64)
        high = logits.max(axis=-1)
        norms = np.log(np.exp(logits - high[:, None]).sum(axis=-1)) + high
        chosen = tokens[:, done : done + len(logits)]
        sums += (logits[np.arange(len(logits)), chosen] - norms).sum(axis=-1)
        greedy &= (logits.argmax(axis=-1) == chosen).all(axis=-1)
        done += len(logits)
    return [(float(s), bool(g)) for s, g in zip(sums, greedy, strict=True)]


def _left(asked: Sequence[Asked]) -> int:
    """Tokens to read where each text begins from what it has in common with the one before it."""
    texts = [np.asarray(text) for text, _ in sorted(asked)]
    return sum(len(t) - common_length(before, t) for before, t in zip([texts[0][:0], *texts], texts, strict=False))


def _highest(ranges: Any, size: int | str) -> int | None:
    highest: int | None = size if isinstance(size, int) else ranges[size].high
    return highest


__all__ = ["Pair", "PrefixReader", "Score", "Scorer", "Seen", "scores_of"]
