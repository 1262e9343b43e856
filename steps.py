"""One step of generation of a model on its way into the compiler, beside the whole model in `work`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from .backends.generation.session import ENCODE, STEP
from .ir.diagnostics import CaptureError
from .ir.dims import Range
from .ir.graph import Program
from .originals import answers_of, as_ours, captured

MOST_TOKENS = 512  # of a row in one run: longer texts are read in pieces
MOST_CONTEXT = 1 << 20  # where nothing in the model limits it
ENCODER_CASE, ENCODER_ROWS = 16, 3  # tokens and rows of the encoder's largest case


class _Entry:
    """What stands beside the whole model: captured, and able to answer as the original does."""

    source: Any
    program: Program

    def call(self, inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """What the original answers."""
        return answers_of(self.source, inputs)

    @property
    def exact(self) -> Any:
        """The original in double precision."""
        return self.source.exact


class Step(_Entry):
    """A decoder's step.

    rows: the batch sizes to allow. seq: the lengths of the encoder's text, where there is an encoder.
    encoder: what is run once before all steps; None of a decoder alone.
    Raises: CaptureError where the model does not decode.
    """

    def __init__(self, source: Any, rows: Range, seq: Range | None = None) -> None:
        self.source = _step_source(source, seq)
        self.context: int | None = source.max_seq
        room = Range(1, self.context or MOST_CONTEXT)
        tokens = Range(1, min(self.context or MOST_TOKENS, MOST_TOKENS))
        self.ranges = {"batch": rows, "tokens": tokens, "wanted": tokens, "capacity": room, "window_capacity": room}
        self.encoder: Encoder | None = None
        if seq is not None and (encoder := getattr(self.source, "encoder", None)) is not None:
            self.ranges["seq"] = seq
            self.encoder = Encoder(encoder, rows, seq)
        self.program: Program = captured(self.source, self.ranges)
        ids = next(v for v in self.program.entry.inputs if v.name == "input_ids")
        if [str(d) for d in ids.type.shape] != ["batch", "tokens"]:
            raise CaptureError(f"{source.name} takes as many tokens as rows only, where caches stay in place",
                               found=str(ids.type))  # fmt: skip

    def cases(self) -> list[tuple[str, dict[str, np.ndarray]]]:
        """Seeded inputs, whose caches hold what the model kept of drawn texts."""
        from .models.step_cases import step_cases

        rows = self.program.symbols["batch"]
        room = (1, self.context or MOST_CONTEXT)
        made = step_cases(self.source, (rows.low, rows.high or rows.low + 7), room)
        return [(c.name, c.inputs) for c in made]

    @cached_property
    def info(self) -> dict[str, Any]:
        """What a bundle says of it: bytes that a row keeps of each token, the longest text, the tokens that end one.

        windows: what the layers with a sliding window keep, of at most so many tokens. An encoder-decoder's say too
        what is kept of each token of the text that was read (`encoder_bytes_per_token`), and its own settings.
        """
        whole = sum(k.token_bytes for k in self.source.kept if not k.window)
        windowed = sum(k.token_bytes for k in self.source.kept if k.window)
        windows = [{"window": w, "bytes_per_token": windowed} for w in self.source.windows]
        found = {"bytes_per_token": whole, "windows": windows, "context": self.context, **_tokens(self.source.module)}
        if self.encoder is None:
            return found
        from .models.seq2seq_settings import settings

        read = sum(k.token_bytes for k in self.source.cross)
        return {**found, "encoder_bytes_per_token": read, **settings(self.source.module)}

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how it generates."""
        from .models.seq2seq_settings import left_out

        others = [] if self.encoder is None else left_out(self.source.module)
        return (f"generate leaves out these settings of the original: {', '.join(others)}",) if others else ()

    @property
    def entries(self) -> dict[str, Step | Encoder]:
        """What stands beside the whole model, by name."""
        return {STEP: self} if self.encoder is None else {ENCODE: self.encoder, STEP: self}


class Encoder(_Entry):
    """What an encoder-decoder runs once for a text."""

    def __init__(self, source: Any, rows: Range, seq: Range) -> None:
        self.source, self.ranges = source, {"batch": rows, "seq": seq}
        self.program: Program = captured(source, self.ranges)

    def cases(self) -> list[tuple[str, dict[str, np.ndarray]]]:
        """Seeded inputs, which are no longer than need be: the answers hold keys and values of every layer."""
        from .models.cases import cases

        rows, seq = (self.program.symbols.get(n, self.ranges[n]) for n in ("batch", "seq"))
        longest = max(seq.low, min(seq.high or ENCODER_CASE, ENCODER_CASE))
        made = cases(self.source, (rows.low, min(rows.high or ENCODER_ROWS, max(rows.low, ENCODER_ROWS))),
                     (seq.low, longest))  # fmt: skip
        return [(c.name, c.inputs) for c in made]


def _step_source(source: Any, seq: Range | None) -> Any:
    """Raises: CaptureError."""
    from .models.seq2seq_step import is_seq2seq, seq2seq_step_source
    from .models.stepping import step_source

    with as_ours():
        if seq is not None and is_seq2seq(source):
            return seq2seq_step_source(source, (seq.low, seq.high or MOST_TOKENS))
        return step_source(source)


def _tokens(module: Any) -> dict[str, Any]:
    """The ids that end a text, begin one, and pad one, as the model's own settings for generation have them."""
    from .models.config_file import token_ids

    found = token_ids(module)
    eos = found.get("eos")
    listed = eos if isinstance(eos, list) else [] if eos is None else [eos]
    return {"eos": [int(e) for e in listed], "bos": found.get("bos"), "pad": found.get("pad")}
