"""A progress bar with stages, on stderr; lines without a terminal; silence when JSON is asked for."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, float], None]
"""Called with a stage's name and the share of all the work (0 to 1) done before it."""


def silent(stage: str, share: float) -> None:
    """No progress at all."""


@contextmanager
def stages(quiet: bool = False) -> Iterator[Progress]:
    """A progress function for as long as the block runs."""
    if quiet:
        yield silent
    elif sys.stderr.isatty():
        with _bar() as progress:
            yield progress
    else:
        yield _lines()


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description:32}"), BarColumn(), TextColumn("{task.percentage:3.0f}%"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)

        def show(stage: str, share: float) -> None:
            bar.update(task, description=stage, completed=share)
            if share >= 1:  # while it lives, all that is printed goes through it, to stderr and by whole lines
                bar.stop()

        yield show


def _lines() -> Progress:
    started = time.perf_counter()
    last: list[str] = []

    def show(stage: str, share: float) -> None:
        if last[-1:] != [stage]:
            last.append(stage)
            print(f"[{share:4.0%} {time.perf_counter() - started:6.1f} s] {stage}", file=sys.stderr)

    return show
