"""How well a language model predicts a text: perplexity, of a bundle and of what it is held against."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.bundle import Bundle
from ..backends.text import Tokenizer
from ..ir.diagnostics import LoadError

Arrays = Mapping[str, np.ndarray]
WINDOW = 512  # tokens seen at once at most, where a model can take more
_PROBE = 16  # tokens on which a model is asked whether it looks ahead
# A change of the last token moves no earlier logit of a causal model by more than rounding; this share of the largest
# is far above what rounding makes and far below what a model that looks ahead shows.
_AHEAD = 1e-3
_ROLES = ("input_ids", "attention_mask", "position_ids", "token_type_ids")


@dataclass(frozen=True, slots=True)
class Perplexity:
    """How well `model` predicts a text. One row of a report.

    nats_per_token: the mean negative log-likelihood of a token given those before it. perplexity: e to that.
    bits_per_byte:  the same of a byte of the text, which also compares models whose tokens differ.
    tokens:         those predicted: all but the first.
    window:         tokens seen at once at most; each is predicted from at least window - stride before it, where the
                    text has them.
    change_percent: of this perplexity over that of the model it is held against; None in that model's own row.
    """

    model: str
    perplexity: float
    nats_per_token: float
    bits_per_byte: float
    tokens: int
    window: int
    stride: int
    change_percent: float | None = None


@dataclass(frozen=True, slots=True)
class Reader:
    """A language model that answers i64 [rows, seq] token ids with logits [rows, seq, vocab].

    call: takes the named inputs, gives the named outputs. rows: the least it takes. seq: least and most, None for any.
    """

    name: str
    call: Callable[[Arrays], Mapping[str, np.ndarray]]
    inputs: tuple[str, ...]
    rows: int = 1
    seq: tuple[int, int | None] = (1, None)

    def logits(self, ids: np.ndarray) -> np.ndarray:
        """[seq, vocab] for one text of ids [seq]."""
        row = np.broadcast_to(ids.astype(np.int64), (self.rows, len(ids)))
        made = {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": np.zeros_like(row),
                "position_ids": np.broadcast_to(np.arange(len(ids)), row.shape)}  # fmt: skip
        given = {name: np.ascontiguousarray(made[name]) for name in self.inputs}
        return np.asarray(self.call(given)["logits"][0])


def bundle_reader(bundle: Bundle, threads: int | None = None) -> Reader:
    """A bundle of a decoder. Raises: LoadError where it gives no logits for each token of a text."""
    entry = next(iter(bundle.entries))
    signature, name = bundle.entries[entry], bundle.path.name
    inputs = tuple(s.name for s in signature.inputs)
    logits = next((s for s in signature.outputs if s.name == "logits" and len(s.shape) == 3), None)
    if logits is None or not {"input_ids"} <= set(inputs) <= set(_ROLES):
        raise LoadError(f"{name} does not predict the tokens of a text, so it has no perplexity",
                        found=f"inputs {', '.join(inputs)}; outputs {', '.join(s.name for s in signature.outputs)}",
                        hint="compile a decoder with its language-model head (--task causal-lm)")  # fmt: skip
    rows, seq = (_span(d, signature.symbols) for d in logits.shape[:2])
    return Reader(name, lambda x: bundle.run(x, entry, ("logits",), threads), inputs, rows[0], seq)


def _span(size: int | str, symbols: Mapping[str, tuple[int, int | None]]) -> tuple[int, int | None]:
    return (size, size) if isinstance(size, int) else symbols.get(size, (1, None))


def nats(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The negative log-likelihood of each target under the softmax of its logits: f64 [n] of [n, vocab] and i64 [n]."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(wide, targets[:, None], axis=-1)[:, 0]
    return np.log(np.exp(wide).sum(axis=-1)) - chosen


def windows(tokens: int, window: int, stride: int) -> list[tuple[int, int, int]]:
    """(start, end, first): the tokens start..end are seen at once, and those from `first` on are predicted.

    Every token but the first is predicted once; all windows are as long as the first one, and each has `stride` new
    tokens, at most window - 1: the first of them is predicted from the one before it.
    """
    found: list[tuple[int, int, int]] = []
    done = 1
    while done < tokens:
        end = min(tokens, window if not found else done + stride)
        start = max(0, end - window)
        found.append((start, end, done))
        done = end
    return found


def text_nats(reader: Reader, ids: np.ndarray, window: int, stride: int) -> np.ndarray:
    """Of each token of a text but the first: f64 [tokens - 1]."""
    parts = []
    for start, end, first in windows(len(ids), window, stride):
        logits = reader.logits(ids[start:end])
        parts.append(nats(logits[first - start - 1 : -1], ids[first:end]))
    return np.concatenate(parts)


def perplexities(bundle: Bundle, text: Path, against: Bundle | Reader | None = None, *, window: int | None = None,
                 stride: int | None = None, threads: int | None = None) -> list[dict[str, Any]]:  # fmt: skip
    """The rows of `Perplexity` on a text file: the bundle's, and first that of what it is held against.

    against: another bundle, or the original as a Reader, which reads by the bundle's tokenizer.
    window: WINDOW, or the most that all of them take. stride: half a window; it is less than a window.
    Raises: LoadError where a model does not predict a text, the text is too short, or the two read other tokens in it.
    """
    words, first = read_text(text), Tokenizer(bundle)
    ids = first.encode([words])["input_ids"][0]
    readers = [bundle_reader(bundle, threads)]
    if isinstance(against, Bundle):
        readers.insert(0, bundle_reader(against, threads))
        if not np.array_equal(Tokenizer(against).encode([words])["input_ids"][0], ids):
            raise LoadError(f"{bundle.path.name} and {against.path.name} read other tokens in a text, so their "
                            "perplexities do not compare", hint="compare the bits per byte that each has alone")
    elif against is not None:
        readers.insert(0, against)
    window = _window(readers, len(ids), window)
    stride = min(stride or window // 2, window - 1)
    size = len(words.encode()) - len(first.decode(ids[:1].tolist()).encode())
    rows = [_row(reader, ids, size, window, stride) for reader in readers]
    base = rows[0].perplexity
    change = 100.0 * (rows[-1].perplexity / base - 1.0) if len(rows) > 1 else None
    return [*map(asdict, rows[:-1]), {**asdict(rows[-1]), "change_percent": change}]


def read_text(path: Path) -> str:
    """Raises: LoadError on a file that is no UTF-8 text."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise LoadError(f"{path} cannot be read", found=error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise LoadError(f"{path} is no UTF-8 text", found=str(error)) from error


def _window(readers: list[Reader], tokens: int, asked: int | None) -> int:
    """As many tokens as all take at once. Raises: LoadError where the text is shorter than one of them takes."""
    least = max(2, *(r.seq[0] for r in readers))
    most = min([asked or WINDOW, *(r.seq[1] for r in readers if r.seq[1] is not None)])
    if tokens < least:
        raise LoadError(f"the text is {tokens} tokens long, and perplexity takes at least {least}")
    if most < least:
        raise LoadError(f"{' and '.join(r.name for r in readers)} take no window of tokens alike",
                        found=f"at least {least}, at most {most}", hint="compile with a wider --seq")  # fmt: skip
    return min(most, tokens)


def _row(reader: Reader, ids: np.ndarray, size: int, window: int, stride: int) -> Perplexity:
    _check_causal(reader, ids, window)
    each = text_nats(reader, ids, window, stride)
    mean, bits = float(each.mean()), float(each.sum()) / math.log(2.0) / max(1, size)
    with np.errstate(over="ignore"):
        value = float(np.exp(mean))
    return Perplexity(reader.name, value, mean, bits, len(each), window, stride)


def _check_causal(reader: Reader, ids: np.ndarray, window: int) -> None:
    """Raises: LoadError where a token changes the logits before it: the model sees what it should predict."""
    length = min(max(_PROBE, reader.seq[0]), window)
    seen, other = ids[:length], ids[:length].copy()
    other[-1] = int(seen[-1] == 0)
    before, after = (reader.logits(x)[:-1].astype(np.float64) for x in (seen, other))
    if np.abs(before - after).max(initial=0.0) > _AHEAD * max(1.0, np.abs(before).max(initial=0.0)):
        raise LoadError(f"{reader.name} looks ahead of each token, so it has no perplexity",
                        hint="compile a decoder with its language-model head (--task causal-lm)")  # fmt: skip
