"""Bundles in the hands of others: tasks of the field's harness, and code that was written for transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .backends.bundle import Bundle, open_bundle
from .profiler.report.progress import Progress, silent


def evaluate(
    bundle: str | Path | Bundle, tasks: str | Sequence[str] = "tundish", *, limit: int | None = None,
    num_fewshot: int | None = None, system: str | None = None, chat: bool = False, batch: int | None = None,
    threads: int | None = None, include: Sequence[str | Path] = (), samples: bool = False,
    progress: Progress = silent,
) -> dict[str, Any]:  # fmt: skip
    """Runs tasks of lm-eval on a bundle, its own tasks and the three that come with us, without the network.

    tasks:       names, with commas between; `tundish` is ours (tundish_questions, _sentiment and _arithmetic).
    limit:       items of each task at most, to try it; scores of some are not a task's.
    num_fewshot: worked examples before each question; by default as the task says.
    system:      a system instruction. chat: questions as turns of the tokenizer's chat template, examples too.
    batch:       rows of one run at most. include: folders with task files of your own. samples: what was asked, too.
    Rows have task, metric, filter, value, stderr, items; of accuracy among choices also what guessing gives ("chance")
    and the probability that guessing does as well ("p").
    Raises: TundishError without lm-eval, on an unknown task, or one whose data are not here; LoadError on a bundle
    without a tokenizer; RunError on one that gives no logits.
    """
    from .profiler.evaluation.run import evaluate_tasks

    names = tasks.split(",") if isinstance(tasks, str) else list(tasks)
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle, threads=threads)
    return evaluate_tasks(
        opened, [name.strip() for name in names if name.strip()], limit=limit, num_fewshot=num_fewshot, system=system,
        chat=chat, batch_size=batch, include=include, samples=samples, progress=progress,
    )  # fmt: skip


def as_transformers(bundle: str | Path | Bundle, *, threads: int | None = None) -> Any:
    """The bundle as a transformers model, for code that was written for one: `pipeline`, `generate`, a forward.

        model = tundish.as_transformers("smollm2.tundish")     # was: AutoModelForCausalLM.from_pretrained(...)

    Its tokenizer is `AutoTokenizer.from_pretrained(BUNDLE)`. Takes torch and transformers, which that code has.
    Raises: LoadError where the bundle holds no config of a transformers model; RunError for an encoder-decoder.
    """
    from .backends.transformers_model import as_transformers as wrapped

    return wrapped(bundle if isinstance(bundle, Bundle) else open_bundle(bundle, threads=threads))
