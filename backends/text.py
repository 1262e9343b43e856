"""Text in and out of a bundle that holds a tokenizer, on the base install."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir.diagnostics import LoadError

if TYPE_CHECKING:
    from .bundle import Bundle


class Tokenizer:
    """The bundle's own `tokenizer.json`. Raises: LoadError where it has none."""

    def __init__(self, bundle: Bundle) -> None:
        import tokenizers

        path = bundle.path / "tokenizer.json"
        if not path.is_file():
            raise LoadError(f"{bundle.path.name} holds no tokenizer", hint="compile from a folder that has one")
        self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, texts: list[str]) -> dict[str, np.ndarray]:
        """input_ids, attention_mask and token_type_ids, i64 [len(texts), longest], padded on the right with 0."""
        rows = [self._tokenizer.encode(t).ids for t in texts]
        longest = max(map(len, rows))
        ids = np.zeros((len(rows), longest), np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = row, 1
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}

    def decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids))


def _run(bundle: Bundle, encoded: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    wanted = {s.name for s in bundle.inputs}
    return bundle.run({k: v for k, v in encoded.items() if k in wanted})


def embed(bundle: Bundle, texts: list[str]) -> np.ndarray:
    """One unit vector per text: the mean of its tokens' last hidden states, f32 [len(texts), hidden].

    Source: Reimers and Gurevych 2019, "Sentence-BERT", mean pooling.
    """
    encoded = Tokenizer(bundle).encode(texts)
    hidden = _run(bundle, encoded)["last_hidden_state"]
    mask = encoded["attention_mask"][:, :, None].astype(np.float32)
    pooled = (hidden * mask).sum(1) / mask.sum(1)
    return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)


def next_token(bundle: Bundle, text: str) -> str:
    """The likeliest next token after a text, as text."""
    tokenizer = Tokenizer(bundle)
    logits = _run(bundle, tokenizer.encode([text]))["logits"]
    return tokenizer.decode([int(logits[0, -1].argmax())])


PAIRS = (
    ("A man is playing a guitar on stage.", "Someone performs music in front of an audience."),
    ("The invoice must be paid within thirty days.", "Payment of the bill is due in one month."),
    ("Fresh snow covered the mountain village.", "The houses in the hills were white after the storm."),
)


def neighbours(bundle: Bundle) -> dict[str, Any]:
    """Whether each of three sentences finds its paraphrase among three."""
    firsts, seconds = (list(side) for side in zip(*PAIRS, strict=True))
    cosines = embed(bundle, firsts) @ embed(bundle, seconds).T
    found = cosines.argmax(1)
    return {
        "right": bool((found == np.arange(len(PAIRS))).all()),
        "lines": [f"{firsts[i]!r} -> {seconds[j]!r} (cosine {cosines[i, j]:.3f})" for i, j in enumerate(found)],
    }


PROMPT, ANSWER = "The capital of France is", " Paris"


def continuation(bundle: Bundle) -> dict[str, Any]:
    """Whether the likeliest continuation of a plain fact is the right one."""
    token = next_token(bundle, PROMPT)
    return {"right": token == ANSWER, "lines": [f"{PROMPT!r} -> {token!r}"]}
