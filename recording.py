"""Recording what a model's routers choose, for `profile --record-routing`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .compiler.experts.routing import Routing
from .compiling import Wish, compiled
from .ir.diagnostics import TundishError
from .profiler.report.progress import Progress, silent
from .profiler.routing import WINDOW, choosing, recorded, windows_of
from .work import Asked, Work

DRAWN = 16  # rows of drawn tokens, where no text is given


def record_routing(
    model: Any, *, text: str | Path | None = None, tokens: int | None = None, task: str | None = None,
    backend: str = "onnxruntime", progress: Progress = silent,
) -> Routing:  # fmt: skip
    """What each router of a model chooses for each token of a text; `Routing.save` writes it.

    text:   a text file, read by the model's own tokenizer; drawn tokens when None, which tell little of skew.
    tokens: of the text at most.
    Raises: LoadError where the model has no experts or no tokenizer; TundishError for a bundle.
    """
    if tokens is not None and tokens < 2:
        raise TundishError("routing is recorded of at least two tokens", found=str(tokens))
    if isinstance(model, (str, Path)) and (Path(model) / "manifest.json").is_file():
        raise TundishError("a bundle does not say what its routers choose", found="--record-routing",
                           hint="name the model it was compiled from")  # fmt: skip
    work = Work(model, Asked(task, batch=1), progress)
    if work.source is None:
        raise TundishError("a captured graph does not say how its inputs are made", found="--record-routing",
                           hint="name the model it was captured from")  # fmt: skip
    program = choosing(work.program)
    said = "drawn tokens" if text is None else f"the text {Path(text).name}"
    rows = list(_drawn(work, tokens) if text is None else _read(work, Path(text), tokens))
    with compiled(program, Asked(), Wish(), backend, "cpu", None, progress) as bundle:
        found = recorded(work.program, work.name, bundle.run, _told(rows, progress), said)
    progress("done", 1.0)
    return found


def _told(rows: Sequence[dict[str, np.ndarray]], progress: Progress) -> Iterator[dict[str, np.ndarray]]:
    for i, row in enumerate(rows):
        progress("recording the routing", 0.9 + 0.1 * i / len(rows))
        yield row


def _drawn(work: Work, tokens: int | None) -> Iterator[dict[str, np.ndarray]]:
    size = min(WINDOW, work.source.max_seq or WINDOW, tokens or WINDOW)
    for seed in range(DRAWN if tokens is None else -(-tokens // size)):
        yield _inputs(work, size, seed)


def _read(work: Work, text: Path, tokens: int | None) -> Iterator[dict[str, np.ndarray]]:
    ids = [s.name for s in work.source.inputs if s.role == "ids"]
    if len(ids) != 1:
        raise TundishError(f"{work.name} does not read one text", found=f"its inputs are {', '.join(ids) or 'no ids'}")
    for row in windows_of(text, work.files.get("tokenizer.json"), work.source.max_seq, tokens):
        yield {**_inputs(work, len(row), 0), ids[0]: row[None]}


def _inputs(work: Work, size: int, seed: int) -> dict[str, np.ndarray]:
    from .models.cases import make

    made = make(work.source, 1, size, np.random.default_rng(seed))
    whole = {s.name: np.full_like(made[s.name], int(not s.inverted)) for s in work.source.inputs if s.role == "mask"}
    return {**made, **whole}
