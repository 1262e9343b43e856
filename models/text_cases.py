"""Plain sentences as cases: what a language model is for, and what its rounding should be judged on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .cases import Case, Span, ended
from .decoding import PROMPT, prompted
from .source import DTYPES, InputSpec, Source

TEXTS = (
    "The capital of France is",
    "Once upon a time there was a small village by the sea, and in it lived a fisherman who",
    "Water boils at one hundred degrees",
    "In 1969 the first humans landed on the Moon. The mission was called",
)


def text_cases(source: Source, files: Mapping[str, bytes], batch: Span, seq: Span) -> tuple[Case, ...]:
    """The sentences padded on the right and on the left, as many and as long as the sizes allow.

    files: the model's tokenizer files; without a `tokenizer.json` there are no cases.
    """
    if "tokenizer.json" not in files:
        return ()
    rows = _encoded(files["tokenizer.json"], seq[1] + (source.phase == "decode"))[: batch[1]]
    rows = rows * -(-batch[0] // len(rows))
    if source.phase == "decode":
        longest = max(seq[0] + 1, *map(len, rows))
        return (Case("text, padded left", prompted(source, _padded(PROMPT, rows, longest, "left"))),)
    longest = max(seq[0], *map(len, rows))
    padded = ((side, _padded(source.inputs, rows, longest, side)) for side in ("right", "left"))
    return tuple(Case(f"text, padded {side}", inputs) for side, inputs in padded)


def _encoded(tokenizer: bytes, longest: int) -> list[list[int]]:
    import tokenizers

    reader = tokenizers.Tokenizer.from_buffer(tokenizer)
    reader.no_truncation()
    reader.no_padding()
    return [reader.encode(text).ids[:longest] for text in TEXTS]


def _padded(inputs: tuple[InputSpec, ...], rows: list[list[int]], longest: int, side: str) -> dict[str, np.ndarray]:
    """Every input, filled up with its padding token (or id 0); what is no id, mask or position is 0."""
    pad = next((s.pad for s in inputs if s.pad is not None), 0)
    ids = np.full((len(rows), longest), pad, np.int64)
    real = np.zeros_like(ids)
    for i, row in enumerate(rows):
        at = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
        ids[i, at], real[i, at] = row, 1
    places = np.broadcast_to(np.arange(longest), ids.shape)
    by_role = {"ids": ids, "mask": real, "data": np.zeros_like(ids), "positions": places}
    drawn = {s.name: by_role[s.role].astype(DTYPES[s.dtype]) for s in inputs}
    return {s.name: ended(s, real != 0, drawn[s.name]) for s in inputs}
