"""The verb `generate`: with a bundle or, compiled first into a temporary one, with a model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .backends.bundle import Bundle, open_bundle
from .backends.generation.generator import options_of
from .backends.generation.loop import Piece
from .backends.manifest import MANIFEST
from .compiler.hardware.machine import check_threads
from .ir.diagnostics import CaptureError, RunError
from .profiler.report.progress import Progress, silent


def generate(
    bundle: str | Path | Bundle, prompt: Any, *, chat: bool = False, system: str | None = None,
    on_piece: Callable[[Piece], None] | None = None, batch: int | None = None, partial: bool = False,
    threads: int | None = None, progress: Progress = silent, **asked: Any,
) -> Any:  # fmt: skip
    """Goes on from a prompt: a `Generated`, or a list of them for a list of prompts.

    bundle:   a bundle or its folder; anything else is a model, which is compiled for this call alone.
    prompt:   a text, token ids, messages of a chat, a list of these, or arrays `input_ids` and `attention_mask`.
    chat:     texts are what a user says, in the form of the tokenizer's chat template; `system` comes before them.
    on_piece: hears each token, and the text that became certain with it, as it comes.
    batch:    how many prompts are read together; as many as the bundle takes when not given.
    partial:  whether Ctrl-C gives what there is, with the finish_reason `interrupted`.
    asked:    the fields of `backends.generation.options.GenerationOptions`.
    Raises: RunError, LoadError, CaptureError, each in one line.
    """
    options_of(asked)  # before anything is opened or compiled
    check_threads(threads)
    if isinstance(prompt, str) and not prompt:
        raise RunError("the prompt is empty", hint="give it at least one token to go on from")
    with _opened(bundle, threads, progress) as opened:
        progress("generating", 1.0)
        return opened.generate(
            prompt, chat=chat, system=system, on_piece=on_piece, batch=batch, partial=partial, **asked
        )


@contextmanager
def _opened(bundle: str | Path | Bundle, threads: int | None, progress: Progress) -> Iterator[Bundle]:
    if isinstance(bundle, Bundle):
        if threads is None:
            yield bundle
            return
        with Bundle(bundle.path, bundle.manifest, threads) as own:
            yield own
        return
    if (Path(bundle) / MANIFEST).exists():
        with open_bundle(Path(bundle), threads=threads) as opened:
            yield opened
        return
    from .profiler.workers import resolve

    _check_writes(str(bundle))
    compile = resolve(f"{__package__}.api:compile")  # it stands above this file
    with tempfile.TemporaryDirectory(prefix="tundish-generate-") as folder:
        place = Path(folder) / f"{Path(bundle).name or 'model'}.tundish"
        compile(str(bundle), place, progress=lambda stage, share: progress(stage, 0.9 * share)).close()
        with open_bundle(place, threads=threads) as opened:
            yield opened


def _check_writes(model: str) -> None:
    """Where that can be seen without reading weights. Raises: CaptureError for a model that writes no text."""
    from .models.decoding import check_generates
    from .models.open import opens_bare
    from .originals import as_ours, open_source
    from .work import Asked, saved_program

    hint = "give a decoder; one whose config names another head is compiled first, with --task causal-lm"
    if saved_program(model) is not None or Path(model).suffix in (".onnx", ".pt2"):
        raise CaptureError(f"{model} is a captured graph, which has no step of generation", hint=hint)
    if opens_bare(model):
        with as_ours():
            check_generates(open_source(model, Asked(shapes=True)), hint)
