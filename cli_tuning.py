"""The command that tunes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_base import (
    AsJson,
    BackendName,
    BatchSize,
    PastSize,
    Phase,
    PrecisionName,
    SeqSize,
    Target,
    TaskName,
    Threads,
    app,
    print_json,
    print_rows,
    say,
)


@app.command()
def tune(
    model: Annotated[str, typer.Argument(help="a model, or a bundle: of that, only how it is opened is measured")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="the table; this chip's by default")] = None,
    batch: BatchSize = 1,
    seq: SeqSize = None,
    phase: Phase = "prefill",
    past: PastSize = None,
    task: TaskName = None,
    precision: PrecisionName = "fp32",
    threads: Threads = None,
    target: Target = "cpu",
    backend: BackendName = "onnxruntime",
    budget: Annotated[str, typer.Option(help="90s, 5min or 1h; the next run goes on from there")] = "5min",
    workers: Annotated[str, typer.Option(help="processes that build, or ray, or ray://HOST:PORT")] = "1",
    as_json: AsJson = False,
) -> None:
    """Measure the compiler's choices for a model; `compile` then uses them."""
    from . import api

    with api.stages(as_json) as progress:
        result = api.tune(
            model, output, batch=batch, seq=seq, phase=phase, past=past, task=task, precision=precision,
            threads=threads, target=target, backend=backend, budget=budget, workers=workers, progress=progress,
        )  # fmt: skip
    if as_json:
        print_json(result)
        return
    columns = ("choice", "pattern", "shape", "option", "against", "ratio", "low", "high", "verdict")
    print_rows([{key: row[key] for key in columns} for row in result["rows"]])
    for line in result["notes"]:
        say(line)
