"""Tasks of the harness on a bundle, as rows."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from math import comb, isclose, sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from ...ir.diagnostics import TundishError, first_line
from ..report.progress import Progress, silent
from .adapter import model_class
from .answers import TASKS

if TYPE_CHECKING:
    from ...backends.bundle import Bundle

_RESAMPLES = 1000  # of the harness's bootstrap, for metrics whose error has no formula


def evaluate_tasks(
    model: Bundle | Any, tasks: Sequence[str], *, limit: int | None = None, num_fewshot: int | None = None,
    system: str | None = None, chat: bool = False, include: Sequence[str | Path] = (), samples: bool = False,
    progress: Progress = silent, **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """Runs tasks of the harness, ours and its own, on a bundle.

    model: a bundle, or any model of the harness. options: of `BundleModel`.
    include: folders with task files of the user's.
    Gives rows (task, metric, filter, value, stderr, items, chance, p: see `beyond_chance`), what the harness noted of
    its settings, and with `samples` what was asked and answered, by task.
    Raises: TundishError on a task that is unknown, or needs data that are not on this machine.
    """
    made, told = model_class(), _through(progress)
    lm = model if hasattr(model, "generate_until") else made(model, progress=told, **options)
    with _offline(), _silent():
        from lm_eval import simple_evaluate

        told("reading the tasks", 0.0)
        manager = _manager(tasks, include)
        with _told(tasks):
            found = simple_evaluate(
                lm, tasks=list(tasks), limit=limit, num_fewshot=num_fewshot, system_instruction=system,
                apply_chat_template=chat, fewshot_as_multiturn=chat, task_manager=manager,
                bootstrap_iters=_RESAMPLES, log_samples=True,
            )  # fmt: skip
    rows = [row for task in found["results"] for row in _rows(task, found)]
    return {
        "rows": rows, "harness": f"lm-eval {found['lm_eval_version']}" if "lm_eval_version" in found else "lm-eval",
        "system": system, "chat": chat, "limit": limit, "num_fewshot": found.get("n-shot", {}),
        **({"samples": found["samples"]} if samples else {}),
    }  # fmt: skip


def task_names(include: Sequence[str | Path] = (), own: bool = False) -> list[str]:
    """The tasks that there are; with `own` only ours and those of the given folders."""
    model_class()
    with _silent():
        return [str(name) for name in _index(tuple(map(str, include)), own).all_tasks]


def beyond_chance(right: int, items: int, chance: float) -> float:
    """P(X >= right) for X ~ Binomial(items, chance): how often guessing does as well or better."""
    return sum(comb(items, k) * chance**k * (1 - chance) ** (items - k) for k in range(right, items + 1))


def _manager(tasks: Sequence[str], include: Sequence[str | Path]) -> Any:
    """The harness's index of tasks; its own 15,000 files are read only where a name is not in ours.

    Raises: TundishError on a name that is in none, or a folder that is not there.
    """
    lost = [str(folder) for folder in include if not Path(folder).is_dir()]
    if lost:
        raise TundishError(f"there is no folder {lost[0]}", hint="--include takes folders with task files")
    if not tasks:
        raise TundishError("no task is named", hint="--tasks tundish runs all of ours")
    manager = _index(tuple(map(str, include)), own=True)
    if not set(tasks) <= set(manager.all_tasks):
        manager = _index(tuple(map(str, include)), own=False)
    unknown = [name for name in tasks if name not in manager.all_tasks]
    if unknown:
        import difflib

        near = difflib.get_close_matches(unknown[0], manager.all_tasks, n=3)
        raise TundishError(f"there is no task {unknown[0]!r}",
                           hint=f"nearest: {', '.join(near)}" if near else "see `lm_eval ls tasks`")  # fmt: skip
    return manager


@cache
def _index(include: tuple[str, ...], own: bool) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=[str(TASKS), *include], include_defaults=not own)


def _rows(task: str, found: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    values, asked = found["results"][task], found["samples"].get(task, [])
    for key, value in values.items():
        metric, comma, kind = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float)):
            continue
        of_kind = [s for s in asked if s["filter"] == kind]
        error = values.get(f"{metric}_stderr,{kind}")
        row = {"task": task, "metric": metric, "filter": kind, "value": value,
               "stderr": error if isinstance(error, float) else _error_of_mean(metric, value, of_kind),
               "items": len(of_kind)}  # fmt: skip
        yield {**row, **_chance(metric, of_kind)}


def _error_of_mean(metric: str, value: float, samples: Sequence[Mapping[str, Any]]) -> float | None:
    """Of a metric that is the mean of its items, for which the harness knows no formula."""
    each = [s[metric] for s in samples if isinstance(s.get(metric), (int, float))]
    if len(each) < 2 or len(each) != len(samples) or not isclose(fmean(each), value):
        return None
    return stdev(each) / sqrt(len(each))


def _chance(metric: str, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """For accuracy among choices, as many for each item: what guessing gives, and how often it does as well."""
    choices = {len(s["arguments"]) for s in samples}
    if metric != "acc" or len(choices) != 1 or choices == {1}:
        return {"chance": None, "p": None}
    chance = 1 / choices.pop()
    return {"chance": chance, "p": beyond_chance(sum(int(s["acc"]) for s in samples), len(samples), chance)}


@contextlib.contextmanager
def _told(tasks: Sequence[str]) -> Iterator[None]:
    """What goes wrong in the harness as one line. Raises: TundishError."""
    try:
        yield
    except (TundishError, MemoryError):
        raise
    except Exception as error:  # a task may run any code of its own
        kind = type(error).__name__
        lost = kind in ("ConnectionError", "OfflineModeIsEnabled", "DatasetNotFoundError", "LocalEntryNotFoundError")
        raise TundishError(
            f"the harness stopped in {', '.join(tasks)}: {kind}: {first_line(error)}",
            hint="its data are not on this machine and nothing is fetched; fill the datasets cache before, "
            "or name one of ours: --tasks tundish" if lost else "",
        ) from error


def _through(progress: Progress) -> Progress:
    """The same, shown on the error stream of now."""
    stream = sys.stderr

    def told(stage: str, share: float) -> None:
        with contextlib.redirect_stderr(stream):
            progress(stage, share)

    return told


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Inside, nothing asks the network: the hub's libraries read their switch once, when they are imported."""
    import datasets
    import huggingface_hub.constants as hub

    config: Any = datasets.config
    before = hub.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the harness's own bars and advice; nor does it ask git about the folder that the user is in."""
    from lm_eval import evaluator

    logger = logging.getLogger("lm_eval")
    level, asks_git = logger.level, evaluator.get_git_commit_hash
    logger.setLevel(logging.ERROR)
    evaluator.get_git_commit_hash = lambda: None
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
        evaluator.get_git_commit_hash = asks_git


__all__ = ["beyond_chance", "evaluate_tasks", "task_names"]
