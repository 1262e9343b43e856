"""The command that evaluates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_base import AsJson, BundlePath, Threads, app, print_json, print_rows


@app.command()
def evaluate(
    bundle: BundlePath,
    tasks: Annotated[str, typer.Option(help="tasks of lm-eval, with commas; `tundish` is our own three")] = "tundish",
    limit: Annotated[int | None, typer.Option(min=1, help="items of each task at most, to try it")] = None,
    num_fewshot: Annotated[int | None, typer.Option(min=0, help="worked examples; as the task says if none")] = None,
    system: Annotated[str | None, typer.Option(help="a system instruction before each question")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="questions and examples as turns of the chat template")] = False,
    batch: Annotated[int | None, typer.Option(min=1, help="rows of one run at most")] = None,
    include: Annotated[list[Path] | None, typer.Option(help="a folder with task files of your own")] = None,
    samples: Annotated[bool, typer.Option("--samples", help="with --json: what was asked and answered, too")] = False,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Run tasks of lm-eval on a bundle, without the network."""
    from . import api

    if samples and not as_json:
        raise api.TundishError("--samples goes with --json: a table has no room for texts", hint="add --json")
    with api.stages(as_json) as progress:
        found = api.evaluate(
            bundle, tasks, limit=limit, num_fewshot=num_fewshot, system=system, chat=chat, batch=batch,
            include=include or (), samples=samples, threads=threads, progress=progress,
        )  # fmt: skip
    if as_json:
        print_json(found)
    else:
        print_rows(found["rows"])
