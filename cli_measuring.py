"""The commands that give numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_base import (
    AsJson,
    BackendName,
    BatchSize,
    Model,
    PastSize,
    Phase,
    SeqSize,
    SomeBatch,
    SomePhase,
    Target,
    TaskName,
    Threads,
    WeightsName,
    app,
    print_json,
    print_pairs,
    print_rows,
    say,
)


@app.command()
def account(
    model: Model,
    batch: SomeBatch = None,
    seq: SeqSize = None,
    phase: SomePhase = None,
    past: PastSize = None,
    symbolic: Annotated[bool, typer.Option(help="sizes that are not given stay symbols; print formulas")] = False,
    depth: Annotated[int, typer.Option(min=0, help="levels of modules to show; 0 for all")] = 4,
    task: TaskName = None,
    weights: WeightsName = None,
    csv: Annotated[Path | None, typer.Option(help="write all rows there: phases, modules and ops")] = None,
    as_json: AsJson = False,
) -> None:
    """Count parameters, FLOPs, bytes, KV cache and activations, exactly, by module, op and phase."""
    from . import api

    with api.stages(as_json) as progress:
        row = api.account(
            model, batch=batch, seq=seq, phase=phase, past=past, symbolic=symbolic, task=task, csv=csv,
            weights=weights, progress=progress,
        )  # fmt: skip
    if as_json:
        print_json(row)
    else:
        api.show_account(row, depth)


@app.command()
def bench(
    model: Annotated[str | None, typer.Argument(help="a model or bundle; docs/benchmarks.md's if none")] = None,
    peers: Annotated[str | None, typer.Option(help="comma-separated names; all by default")] = None,
    batch: BatchSize = 1,
    seq: SeqSize = None,
    phase: Phase = "prefill",
    past: PastSize = None,
    task: TaskName = None,
    against: Annotated[str | None, typer.Option(help="the original of a bundle, for peers to run")] = None,
    backend: Annotated[str | None, typer.Option(help="ours of a model: onnxruntime (usual) or tvm")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="clean rounds, in which nothing else ran, for each")] = 15,
    threads: Threads = None,
    limit: Annotated[float, typer.Option(min=1, help="seconds a peer may take to compile, and to open")] = 1200.0,
    write: Annotated[Path | None, typer.Option(help="the markdown file whose table to rewrite")] = None,
    as_json: AsJson = False,
) -> None:
    """Time a bundle against its peers, interleaved in one run; exit 1 where ours gives another answer."""
    from . import api

    names = [name.strip() for name in peers.split(",")] if peers is not None else None
    with api.stages(as_json) as progress:
        result = api.bench(
            model, peers=names, batch=batch, seq=seq, phase=phase, past=past, task=task, against=against,
            backend=backend, rounds=rounds, threads=threads, limit_s=limit, write=write, progress=progress,
        )  # fmt: skip
    if as_json:
        print_json(result)
    else:
        rows = result["rows"]
        print_rows([{k: v for k, v in row.items() if k not in ("note", "compile_peak_bytes")} for row in rows])
        for note in dict.fromkeys([row["note"] for row in rows if row.get("note")] + result.get("notes", [])):
            print(note)
    if not all(row.get("same_answer", True) for row in result["rows"] if row["name"] == "tundish"):
        raise typer.Exit(1)


@app.command()
def diff(
    before: Annotated[Path, typer.Argument(help="what `tundish profile --json` wrote")],
    after: Annotated[Path, typer.Argument(help="a later one")],
    threshold: Annotated[str, typer.Option(help="a smaller change counts as none")] = "5%",
    fail_above: Annotated[str | None, typer.Option(help="exit 1 where the whole got slower by more, say 3%")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what got slower between two profiles."""
    from . import api

    limit = None if fail_above is None else api.read_percent(fail_above, "--fail-above")
    found = api.diff(before, after, threshold=threshold)
    if as_json:
        print_json(found.to_json())
    else:
        api.show_diff(found)
    if found.warning:
        say(f"tundish: warning: {found.warning}")
    if limit is not None and found.slower_by(limit):
        say(f"tundish: the whole run got slower by {found.total.change_percent:.1f}%, more than {limit:g}%")
        raise typer.Exit(1)


@app.command()
def calibrate(
    target: Target = "cpu",
    backend: BackendName = "onnxruntime",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="the file; by default the user's own")] = None,
    threads: Annotated[str | None, typer.Option(help="numbers of threads, as 1,4; 1 and all cores by default")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="in seconds, from few samples")] = False,
    plot: Annotated[Path | None, typer.Option(help="an .svg or .html file for the roofline")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure this machine and a backend's kernels on it, for predictions."""
    from . import api

    with api.stages(as_json) as progress:
        result = api.calibrate(
            target=target, backend=backend, output=output, threads=threads, quick=quick, plot=plot, progress=progress
        )
    if as_json:
        print_json(result)
        return
    for rows in result.values():
        if isinstance(rows, list):
            print_rows(rows)
    print_pairs({k: v for k, v in result.items() if not isinstance(v, list)})
