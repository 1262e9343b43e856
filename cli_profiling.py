"""The command that profiles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_base import AsJson, BatchSize, PastSize, SeqSize, TaskName, Threads, WeightsName, app, print_json, print_rows

Profiled = Annotated[str, typer.Argument(help="a bundle, or a model, which is compiled first")]
PhaseOrOwn = Annotated[str | None, typer.Option(help="prefill or decode; the bundle's own when not given")]
Engine = Annotated[str | None, typer.Option(help="for a model: onnxruntime, tvm, reference, or torch")]
Into = Annotated[Path | None, typer.Option(help="write it there")]


@app.command()
def profile(
    model: Profiled,
    batch: BatchSize = 1,
    seq: SeqSize = None,
    past: PastSize = None,
    phase: PhaseOrOwn = None,
    threads: Threads = None,
    backend: Engine = None,
    entry: Annotated[str | None, typer.Option(help="which entry; the first when not given")] = None,
    warmup: Annotated[int, typer.Option(help="runs before those that count")] = 3,
    repeats: Annotated[int, typer.Option(help="runs whose medians are shown")] = 15,
    calibration: Annotated[Path | None, typer.Option(help="a file of `tundish calibrate`")] = None,
    memory: Annotated[bool, typer.Option(help="measure peak memory, in a process of its own")] = True,
    task: TaskName = None,
    weights: WeightsName = None,
    record_routing: Annotated[Path | None, typer.Option(help="write what each router chooses there")] = None,
    text: Annotated[Path | None, typer.Option(help="what routing is recorded on; drawn tokens else")] = None,
    html: Into = None,
    trace: Into = None,
    csv: Into = None,
    as_json: AsJson = False,
) -> None:
    """Time a model node by node, by module and source line, against the roofline."""
    from . import api

    api.check_reports(html, trace, csv, record_routing)
    with api.stages(as_json) as progress:
        found = api.profile(
            model, batch=batch, seq=seq, past=past, phase=phase, threads=threads, backend=backend, entry=entry,
            warmup=warmup, repeats=repeats, calibration=calibration, memory=memory, task=task,
            weights=weights, record_routing=record_routing, text=text, progress=progress,
        )  # fmt: skip
    written = api.write_reports(found, html=html, trace=trace, csv=csv)
    if as_json:
        print_json(found.to_json())
        return
    api.show_profile(found)
    for kind, file in written.items():
        print(f"{kind}: {file}")


@app.command()
def predictions(
    model: Annotated[str | None, typer.Argument(help="a model or bundle; the five of the docs when not given")] = None,
    batch: BatchSize = 1,
    seq: SeqSize = None,
    threads: Threads = None,
    repeats: Annotated[int, typer.Option(min=1, help="runs whose medians are compared")] = 25,
    calibration: Annotated[Path | None, typer.Option(help="a file of `tundish calibrate`")] = None,
    write: Annotated[Path | None, typer.Option(help="the markdown file whose table to rewrite")] = None,
    as_json: AsJson = False,
) -> None:
    """Hold predicted times and memory against measured ones."""
    from . import api

    with api.stages(as_json) as progress:
        found = api.predictions(
            model, batch=batch, seq=seq, threads=threads, repeats=repeats, calibration=calibration, write=write,
            progress=progress,
        )  # fmt: skip
    if as_json:
        print_json(found)
    else:
        print_rows([{k: v for k, v in row.items() if k not in ("sizes", "calibration")} for row in found["rows"]])
