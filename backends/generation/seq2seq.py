"""Generation with an encoder-decoder: its encoder reads each text once, and its decoder writes from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ...ir import dims
from ...ir.diagnostics import RunError
from .caches import Prefix
from .session import ENCODE, STEP, Session

if TYPE_CHECKING:
    from ..bundle import Bundle

MASK = "attention_mask"
Tokens = Sequence[int]


class Seq2SeqSession(Session):
    """rows texts that a decoder writes, of at most `capacity` tokens each, from one that its encoder reads of each row.

    width: the tokens of the longest text to read. texts: those texts, one a row, which are read with the first token
    that is written; without them each row is to be restored from another session of the same width.
    Raises: RunError where the bundle has no encoder, or the sizes do not fit it or the machine.
    """

    def __init__(
        self, bundle: Bundle, rows: int, capacity: int, width: int, texts: Sequence[Tokens] | None = None,
        threads: int | None = None,
    ) -> None:  # fmt: skip
        if ENCODE not in bundle.entries:
            raise RunError(f"{bundle.manifest.name} has no entry {ENCODE!r}", hint="compile an encoder-decoder")
        encode = bundle.entries[ENCODE]
        if "seq" in encode.ranges and width not in encode.ranges["seq"]:
            raise RunError(f"the encoder takes texts of {encode.ranges['seq']} tokens, not {width}",
                           hint="shorten the text, or compile with a larger --seq")  # fmt: skip
        if texts is not None and len(texts) != rows:
            raise RunError(f"there are {rows} rows, and texts for {len(texts)}")
        sizes, made = {"batch": rows, "seq": width}, {s.name: s.type for s in encode.outputs}
        kept = {n: np.zeros([dims.evaluate(d, sizes) for d in t.shape], t.dtype.numpy) for n, t in made.items()}
        kept[MASK] = np.zeros((rows, width), np.int64)
        kept[MASK][:, 0] = 1  # a row that holds nothing yet attends to something all the same
        super().__init__(bundle, rows, capacity, threads, kept)
        self._texts = texts

    def read(self, tokens: Sequence[Tokens]) -> np.ndarray:
        """As a decoder's session; the encoder runs first, where it has not yet."""
        self._encode()
        return super().read(tokens)

    def score(self, tokens: Sequence[Tokens]) -> list[np.ndarray]:
        """As a decoder's session; the encoder runs first, where it has not yet."""
        self._encode()
        return super().score(tokens)

    def save(self, row: int, length: int | None = None) -> Prefix:
        """A copy of what is kept of a row: of the text that was read, and of the first `length` tokens written."""
        self._encode()
        prefix = super().save(row, length)
        return replace(prefix, arrays={**prefix.arrays, **{n: a[row].copy() for n, a in self._read_only.items()}})

    def restore(self, row: int, prefix: Prefix) -> None:
        """The row as it was when the prefix was saved, here or in another session of the same bundle and width."""
        if prefix.arrays[MASK].shape != self._read_only[MASK][row].shape:
            raise RunError(f"what is kept of a text of {prefix.arrays[MASK].size} tokens does not fit into "
                           f"{self._read_only[MASK].shape[1]}")  # fmt: skip
        own = {n: a for n, a in prefix.arrays.items() if n not in self._read_only}
        super().restore(row, replace(prefix, arrays=own))
        for name, array in self._read_only.items():
            array[row] = prefix.arrays[name]

    def _encode(self) -> None:
        """Reads all rows' texts in one run; shorter ones are padded behind, and masked there."""
        if self._texts is None:
            return
        mask = self._read_only[MASK]
        ids = np.zeros_like(mask)
        for row, text in enumerate(self._texts):
            ids[row, : len(text)], mask[row] = text, np.arange(mask.shape[1]) < len(text)
        for name, array in self._runner.run(ENCODE, {"input_ids": ids, MASK: mask}).items():
            self._read_only[name][...] = array  # in place: the step is bound to these
        self._texts = None


class Seq2SeqOpener:
    """Opens the sessions of one generation: the first reads the texts, and later ones are restored from it."""

    def __init__(self, bundle: Bundle, texts: Sequence[Tokens], threads: int | None = None) -> None:
        self._bundle, self._threads = bundle, threads
        self._texts: Sequence[Tokens] | None = texts
        self._width = max(map(len, texts))

    def __call__(self, rows: int, capacity: int) -> Seq2SeqSession:
        """A new session. Raises: RunError where the sizes do not fit."""
        texts, self._texts = self._texts, None
        return Seq2SeqSession(self._bundle, rows, capacity, self._width, texts, self._threads)


def is_seq2seq(bundle: Bundle) -> bool:
    """Whether it reads one text and writes another."""
    return ENCODE in bundle.entries and STEP in bundle.entries
