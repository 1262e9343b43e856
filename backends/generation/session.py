"""A batch of texts that are being read and written: their caches, and how far each row is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ...compiler.hardware.machine import available_memory_bytes
from ...ir import dims
from ...ir.diagnostics import RunError
from ..signature import Signature
from .caches import Prefix, allocate

if TYPE_CHECKING:
    from ..bundle import Bundle

STEP, ENCODE = "step", "encode"
SLACK = 256  # places of a window's cache beyond the window, so that it need not slide at every token
PADDING = 1.5  # prompts are read together where that computes at most so many times their tokens
Tokens = Sequence[int]


class Session:
    """rows texts of at most `capacity` tokens each.

    read_only: inputs of the step, [rows, ...] each, that hold something of a row which no step changes.
    lengths: [rows], the tokens in each row's caches. vocab: how many ids there are. bytes: of all caches when full.
    Raises: RunError where the bundle cannot generate, or the sizes do not fit it or the machine.
    """

    def __init__(
        self, bundle: Bundle, rows: int, capacity: int, threads: int | None = None,
        read_only: Mapping[str, np.ndarray] | None = None,
    ) -> None:  # fmt: skip
        if STEP not in bundle.entries:
            raise RunError(f"{bundle.manifest.name} cannot generate: it has no entry {STEP!r}",
                           hint="compile a model that writes text, without --phase")  # fmt: skip
        if ENCODE in bundle.entries and read_only is None:
            raise RunError(f"{bundle.manifest.name} reads one text and writes another; it does not go on from a text")
        self.rows, self.capacity = rows, capacity
        self._signature = bundle.entries[STEP]
        info = bundle.manifest.info.get("generation") or {}
        self._window = min((int(w["window"]) for w in info.get("windows", ())), default=0)
        self._piece = int(self._signature.symbols["tokens"][1] or SLACK)
        sizes = self._sizes()
        context = info.get("context")
        if context is not None and capacity > int(context):
            raise RunError(f"the model takes {context} tokens of context, not {capacity}", hint="ask for fewer tokens")
        self._check(sizes)
        self._runner = bundle.runner(threads)
        self._caches, self._read_only = allocate(self._signature, sizes, self._runner), dict(read_only or {})
        self._windowed = {s.name for s in self._signature.inputs if "window_capacity" in s.shape}
        self.lengths = np.zeros(rows, np.int64)
        self._window_lengths = np.zeros(rows, np.int64)
        self._all = self._runner.bind(STEP, self._caches | self._read_only)
        self._alone: dict[int, Any] = {}
        self.vocab = int(self._signature.outputs[0].shape[-1])

    @property
    def bytes(self) -> int:
        """Of all caches, when they are full."""
        return sum(a.nbytes for a in (self._caches | self._read_only).values())

    def read(self, tokens: Sequence[Tokens]) -> np.ndarray:
        """Appends tokens[i] to row i, perhaps none; the logits after each row's last new token, f32 [rows, vocab].

        Rows that get none have zeros. Raises: RunError where a row would be longer than the capacity.
        """
        texts = self._checked(tokens)
        out = np.zeros((self.rows, self.vocab), np.float32)
        busy = [i for i, text in enumerate(texts) if len(text)]
        if len(busy) > 1 and all(len(texts[i]) == 1 for i in busy):
            out[busy] = self._together(texts, busy)[busy, 0]
            return out
        if self._fit_together(texts, busy):
            last = np.array([len(t) - 1 for t in texts])
            select = np.unique(last)
            found = self._together(texts, busy, select)
            return found[np.arange(self.rows), np.searchsorted(select, last)]
        for i in busy:
            for piece in self._pieces(i, texts[i]):
                out[i] = self._one(i, piece, np.array([len(piece) - 1]))[-1]
        return out

    def score(self, tokens: Sequence[Tokens]) -> list[np.ndarray]:
        """Appends tokens[i] to row i; the logits after each new token, f32 [len(tokens[i]), vocab] of each row."""
        texts = self._checked(tokens)
        busy = [i for i, text in enumerate(texts) if len(text)]
        if self._fit_together(texts, busy):
            found = self._together(texts, busy, np.arange(max(map(len, texts))))
            return [found[i, : len(text)] for i, text in enumerate(texts)]
        nothing = np.zeros((0, self.vocab), np.float32)
        return [
            np.concatenate([nothing, *(self._one(i, piece, np.arange(len(piece))) for piece in self._pieces(i, text))])
            for i, text in enumerate(texts)
        ]

    def save(self, row: int, length: int | None = None) -> Prefix:
        """A copy of what is kept of a row's first `length` tokens, of all by default.

        Raises: RunError where a window has slid past them.
        """
        length = int(self.lengths[row]) if length is None else length
        end = self._window_end(row, length)
        keep = min(end, self._window - 1) if self._window else 0
        arrays = {
            name: (a[row, :, end - keep : end] if name in self._windowed else a[row, :, :length]).copy()
            for name, a in self._caches.items()
        }
        return Prefix(length, keep, arrays)

    def restore(self, row: int, prefix: Prefix) -> None:
        """The row as it was when the prefix was saved, here or in another session of the same bundle."""
        if prefix.length > self.capacity:
            raise RunError(f"a prefix of {prefix.length} tokens does not fit into {self.capacity}")
        for name, kept in prefix.arrays.items():
            self._caches[name][row, :, : kept.shape[1]] = kept
        self.lengths[row], self._window_lengths[row] = prefix.length, prefix.window_length

    def rewind(self, row: int, length: int = 0) -> None:
        """Forgets a row's tokens after its first `length`. Raises: RunError where a window has slid past them."""
        self._window_lengths[row] = self._window_end(row, length)
        self.lengths[row] = length

    def _window_end(self, row: int, length: int) -> int:
        """How many places of a row's windows its first `length` tokens fill."""
        have, ends = int(self.lengths[row]), int(self._window_lengths[row])
        if not 0 <= length <= have:
            raise RunError(f"row {row} has no first {length} tokens", found=f"it has {have}")
        end = ends - (have - length)
        if self._window and length and end < min(length, self._window - 1):
            raise RunError(f"a window of {self._window} tokens has slid past the first {length} of row {row}")
        return max(0, end)

    # -- sizes ------------------------------------------------------------------------------------------

    def _sizes(self) -> dict[str, int]:
        sizes = {"batch": self.rows, "capacity": self.capacity}
        if self._window:
            sizes["window_capacity"] = min(self.capacity, self._window - 1 + SLACK)
            if sizes["window_capacity"] < self.capacity:
                self._piece = min(self._piece, SLACK)
        self._window_capacity = sizes.get("window_capacity", 0)
        return sizes

    def _check(self, sizes: dict[str, int]) -> None:
        for name, wanted in (("batch", "rows"), ("capacity", "tokens of context")):
            if name not in self._signature.ranges:
                continue
            span = self._signature.ranges[name]
            if sizes[name] not in span:
                hint = "compile it for more with --batch" if name == "batch" else "ask for fewer tokens"
                raise RunError(f"the bundle takes {span} {wanted}, not {sizes[name]}", hint=hint)
        need = _bytes(self._signature, sizes)
        free = available_memory_bytes()
        if need > free:
            what = f"caches for {self.rows} x {self.capacity} tokens take {need:,} bytes"
            raise RunError(f"{what}, and {free:,} are free",
                           hint=f"at most {free * self.capacity // need:,} tokens of context fit")  # fmt: skip

    def _checked(self, tokens: Sequence[Tokens]) -> list[np.ndarray]:
        if len(tokens) != self.rows:
            raise RunError(f"there are {self.rows} rows, and tokens for {len(tokens)}")
        texts = [np.asarray(t, np.int64).reshape(-1) for t in tokens]
        for i, text in enumerate(texts):
            if self.lengths[i] + len(text) > self.capacity:
                raise RunError(f"row {i} would have {self.lengths[i] + len(text)} tokens",
                               hint=f"there is room for {self.capacity}")  # fmt: skip
            if text.size and not 0 <= text.min() <= text.max() < self.vocab:
                raise RunError(f"row {i} holds an id that is none of the model's {self.vocab}")
        return texts

    # -- running ----------------------------------------------------------------------------------------

    def _fit_together(self, texts: list[np.ndarray], busy: list[int]) -> bool:
        """Whether all rows begin, and are alike enough in length to be read in one run."""
        longest = max(map(len, texts), default=0)
        if len(busy) < self.rows or self.rows == 1 or self.lengths.any() or longest > self._piece:
            return False
        return longest * self.rows <= PADDING * sum(map(len, texts))

    def _pieces(self, row: int, text: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(text), self._piece):
            yield text[start : start + self._piece]

    def _together(self, texts: list[np.ndarray], busy: list[int], wanted: np.ndarray | None = None) -> np.ndarray:
        """One run of all rows, [rows, wanted, vocab]; a row that is shorter, or not busy, gets ids that it forgets."""
        width = max(map(len, texts))
        ids = np.zeros((self.rows, width), np.int64)
        for i, text in enumerate(texts):
            ids[i, : len(text)] = text
            self._slide(i, width)
        at = np.minimum(self.lengths, self.capacity - width)  # a full row has an end that nothing follows
        windows = np.minimum(self._window_lengths, max(0, self._window_capacity - width))
        select = np.zeros(1, np.int64) if wanted is None else wanted
        found = self._run(self._all, ids, at, windows, select, slice(None))
        for i in busy:
            self._advance(i, len(texts[i]))
        return found

    def _one(self, row: int, text: np.ndarray, select: np.ndarray) -> np.ndarray:
        """One run of one row, [wanted, vocab]."""
        if row not in self._alone:
            held = {name: a[row : row + 1] for name, a in (self._caches | self._read_only).items()}
            self._alone[row] = self._all if self.rows == 1 else self._runner.bind(STEP, held)
        self._slide(row, len(text))
        own = slice(row, row + 1)
        found = self._run(self._alone[row], text[None], self.lengths[own], self._window_lengths[own], select, own)
        self._advance(row, len(text))
        return np.asarray(found[0])

    def _run(
        self, bound: Any, ids: np.ndarray, at: np.ndarray, windows: np.ndarray, select: np.ndarray, own: slice
    ) -> np.ndarray:
        given = {"input_ids": ids, "position": at, "window_position": windows, "select": select}
        given |= {name: array[own] for name, array in self._read_only.items()}
        taken = {s.name: given[s.name] for s in self._signature.inputs if s.name in given}
        logits: np.ndarray = bound.run(taken)["logits"]
        return logits if logits.dtype == np.float32 else logits.astype(np.float32)

    def _advance(self, row: int, count: int) -> None:
        self.lengths[row] += count
        self._window_lengths[row] += count if self._window else 0

    def _slide(self, row: int, count: int) -> None:
        """Moves a row's windows to the front of their caches where `count` more tokens would not fit behind them."""
        end = int(self._window_lengths[row])
        if not self._window or end + count <= self._window_capacity:
            return
        keep = self._window - 1
        for name in self._windowed:
            own = self._caches[name][row]
            own[:, :keep] = own[:, end - keep : end].copy()
        self._window_lengths[row] = keep


def _bytes(signature: Signature, sizes: dict[str, int]) -> int:
    """Of all caches at these sizes."""
    held = set(signature.aliases.values())
    shapes = ((s.type, [dims.evaluate(d, sizes) for d in s.type.shape]) for s in signature.inputs if s.name in held)
    return sum(prod(shape) * type.dtype.numpy.itemsize for type, shape in shapes)
