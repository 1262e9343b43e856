"""The command line: arguments, tables and exit codes only. Each verb is the function of that name in `api`."""

from __future__ import annotations

import errno
import io
import platform
import shlex
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from . import (  # noqa: F401  (their commands join the group)
    cli_evaluating,
    cli_generating,
    cli_measuring,
    cli_placing,
    cli_profiling,
    cli_tuning,
)
from .cli_base import (
    AsJson,
    BackendName,
    BundlePath,
    Fixed,
    Model,
    Packed,
    PastSpan,
    Phase,
    PrecisionName,
    Span,
    Target,
    TaskName,
    Threads,
    WeightsName,
    app,
    print_any,
    print_json,
    print_pairs,
    print_rows,
    say,
    stopped,
)


def _version(asked: bool) -> None:
    from . import api

    if asked:
        print(f"tundish {api.version()}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    pass  # it is here for its option, and its docstring would take the place of the help's first line


@app.command()
def compile(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="the bundle folder to write")],
    target: Target = "cpu",
    backend: BackendName = "onnxruntime",
    task: TaskName = None,
    batch: Span = None,
    seq: Span = None,
    precision: PrecisionName = "fp32",
    weights: WeightsName = None,
    packed: Packed = False,
    phase: Phase = "generate",
    past: PastSpan = None,
    fix: Fixed = None,
    explain: Annotated[bool, typer.Option(help="what each pass did, and declined to do")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="write only a bundle that passes its own cases")] = False,
    print_after: Annotated[str | None, typer.Option(help="print the program after this pass")] = None,
    tuning: Annotated[str | None, typer.Option(help="a table of `tundish tune`, or none; else this chip's")] = None,
    routing: Annotated[Path | None, typer.Option(help="a file of `profile --record-routing`")] = None,
    expert_memory: Annotated[str | None, typer.Option(help="for all experts, as 4GiB; needs --routing")] = None,
    as_json: AsJson = False,
) -> None:
    """Compile a model into a bundle that runs without PyTorch."""
    from . import api

    with api.stages(as_json) as progress:
        bundle = api.compile(
            model, output, target=target, backend=backend, task=task, batch=batch, seq=seq, precision=precision,
            weights=weights, packed=packed, phase=phase, past=past, fixed=_assignments(fix or [], "--fix"),
            print_after=print_after, verified=verify, tuning=tuning, routing=routing,
            expert_memory=expert_memory, progress=progress,
        )  # fmt: skip
    passes = api.explain(bundle) if explain else None
    if as_json:
        print_json({**api.summary(bundle), **({"passes": passes} if explain else {})})
        return
    print_pairs(api.summary(bundle))
    if passes is not None:
        print_rows(passes)


@app.command()
def run(
    bundle: BundlePath,
    input: Annotated[list[str] | None, typer.Option(help="name=file.npy, or name=random")] = None,
    output: Annotated[Path | None, typer.Option(help="folder for one .npy file per output")] = None,
    entry: Annotated[str | None, typer.Option(help="which entry; the first when not given")] = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Run a bundle once on arrays from files."""
    from . import api

    given = _assignments(input or [], "--input")
    print_any(api.run(bundle, given, output=output, entry=entry, threads=threads), as_json)


@app.command()
def verify(
    bundle: BundlePath,
    against: Annotated[str | None, typer.Option(help="rerun this original model instead of the stored cases")] = None,
    bisect: Annotated[bool, typer.Option(help="on failure, find the first node that differs")] = False,
    perplexity: Annotated[Path | None, typer.Option(help="a text file to predict, also by --against")] = None,
    as_json: AsJson = False,
) -> None:
    """Prove that a bundle still answers as the original model did."""
    from . import api

    with api.stages(as_json or against is None) as progress:
        report = api.verify(bundle, against=against, bisect=bisect, perplexity=perplexity, progress=progress)
    if as_json:
        print_json(report.to_json())
    else:
        print_rows([_verified(row) for row in report.to_json()["outputs"]])
        print_rows(report.perplexity)
        say(f"{report.cases} cases answered by {report.origin}: {'passed' if report.passed else 'FAILED'}")
        for line in report.notes:
            say(line)
    if not report.passed:
        raise typer.Exit(1)


def _verified(row: dict[str, Any]) -> dict[str, Any]:
    keys = ["name", "max_abs_error", "max_rel_error", "median_row_error", "tolerance", "min_cosine", "worst_case"]
    return {k: row[k] for k in keys if row[k] is not None}


@app.command()
def export(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="the .onnx file to write; a folder if --with-past")],
    with_past: Annotated[bool, typer.Option("--with-past", help="a decoder and its cache, for other loaders")] = False,
    portable: Annotated[bool, typer.Option(help="standard ONNX ops only")] = False,
    opset: Annotated[int | None, typer.Option(help="ONNX opset, 17 or higher")] = None,
    task: TaskName = None,
    batch: Span = None,
    seq: Span = None,
    packed: Packed = False,
    phase: Phase = "prefill",
    past: PastSpan = None,
    fix: Fixed = None,
    weights: WeightsName = None,
    as_json: AsJson = False,
) -> None:
    """Write an ONNX file."""
    from . import api

    with api.stages(as_json) as progress:
        row = api.export(
            model, output, portable=portable, opset=opset, task=task, batch=batch, seq=seq, packed=packed,
            phase=phase, past=past, fixed=_assignments(fix or [], "--fix"), with_past=with_past, weights=weights,
            progress=progress,
        )  # fmt: skip
    print_any(row, as_json)


@app.command()
def show(
    model: Model,
    task: TaskName = None,
    optimized: Annotated[bool, typer.Option(help="after the passes, for ONNX Runtime on cpu")] = False,
    text: Annotated[bool, typer.Option(help="the whole program in text form")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what was captured: inputs, outputs, functions, ops."""
    from . import api

    with api.stages(as_json) as progress:
        row = api.show(model, task=task, optimized=optimized, progress=progress)
    if as_json:
        print_json(row)
    elif text:
        print(row["text"])
    else:
        print_pairs({k: v for k, v in row.items() if k not in ("op_counts", "text")})
        print_rows([{"op": k, "count": v} for k, v in row["op_counts"].items()])


@app.command()
def capture(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="the folder to save the graph in")],
    task: TaskName = None,
    batch: Span = None,
    seq: Span = None,
    packed: Packed = False,
    phase: Phase = "prefill",
    past: PastSpan = None,
    fix: Fixed = None,
    as_json: AsJson = False,
) -> None:
    """Capture a model and save its graph and weights."""
    from . import api

    with api.stages(as_json) as progress:
        program = api.capture(
            model, task=task, batch=batch, seq=seq, packed=packed, phase=phase, past=past,
            fixed=_assignments(fix or [], "--fix"), output=output, progress=progress,
        )  # fmt: skip
    print_any({"saved": str(output), "nodes": sum(len(g.nodes) for g in program.functions.values())}, as_json)


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the models that have a name."""
    from . import api

    print_any(api.models(), as_json)


@app.command()
def targets(as_json: AsJson = False) -> None:
    """List targets and the backends that serve them here."""
    from . import api

    print_any(api.targets(), as_json)


@app.command()
def ops(as_json: AsJson = False) -> None:
    """List every op, and how each backend takes it."""
    from . import api

    print_any(api.ops(), as_json)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what is installed, what is missing, and what to do about it."""
    from . import api

    print_any(api.doctor(), as_json)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for the bundles")] = Path("demo"),
    as_json: AsJson = False,
) -> None:
    """Compile two models with real weights, verify them, use them, and profile one."""
    from . import api

    with api.stages(as_json) as progress:
        rows = api.demo(output, progress=progress)
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            print_pairs({k: v for k, v in row.items() if k != "lines"})
            print("\n".join(f"  {line}" for line in row["lines"]), end="\n\n")
    if not all(row["passed"] for row in rows):
        raise typer.Exit(1)


_VALUES = {"--input": "name=file.npy or name=random", "--fix": "name=1,2,3 or name=file.npy"}


def _assignments(items: list[str], option: str) -> dict[str, str]:
    from . import api

    found: dict[str, str] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals or not name or not value:
            raise api.TundishError(f"{option} takes {_VALUES[option]}, got {item!r}")
        if name in found:
            raise api.TundishError(f"{option} {name} is given twice")
        found[name] = value
    return found


# -- errors and exit codes -----------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs a command line; exits 0 done, 1 a check did not hold, 2 the user's input, 70 our fault."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = [a for a in given if a != "--debug"]
    if isinstance(sys.stdout, io.TextIOWrapper):  # texts have letters that not every terminal has a sign for
        sys.stdout.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        _show_warnings()
        code = _guarded(lambda: app(args=given, prog_name="tundish", standalone_mode=True), given, debug)
    try:
        sys.stdout.flush()
    except BrokenPipeError as stop:
        code = stopped(stop)
    sys.exit(code)


def _show_warnings() -> None:
    """Ours about a model in one line each; others as Python does."""
    from . import api

    theirs = warnings.showwarning

    def show(message: Any, category: type[Warning], *place: Any) -> None:
        if issubclass(category, api.ModelWarning):
            say(f"tundish: warning: {message}")
        else:
            theirs(message, category, *place)

    warnings.showwarning = show  # type: ignore[assignment]
    warnings.simplefilter("always", api.ModelWarning)


def _guarded(command: Callable[[], Any], arguments: list[str], debug: bool) -> int:
    try:
        command()
        return 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except (KeyboardInterrupt, BrokenPipeError) as stop:
        return stopped(stop)
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _failed(error, arguments)


def _failed(error: Exception, arguments: list[str]) -> int:
    from . import api

    program: str | None = getattr(error, "tundish_program", None)
    if isinstance(error, api.TundishError) and program is None:
        say(f"tundish: {error}")
        return error.exit_code
    if isinstance(error, MemoryError):
        say("tundish: there is not enough memory")
        return 2
    if isinstance(error, OSError) and error.errno in _OF_THE_MACHINE:
        say(f"tundish: {error.strerror}{f': {str(error.filename)[:200]}' if error.filename else ''}")
        return 2
    first = str(error).strip().partition("\n")[0]
    say(f"tundish: a fault of ours: {type(error).__name__}: {first}")
    try:
        say(f"  a reproduction is in {_reproduction(arguments, error, program or '')}; please report it")
    except OSError as lost:
        say(f"  a reproduction could not be written ({lost.strerror}); run it again with --debug")
    return 70


# What a machine may refuse to any program: a full disk, no permission, too many open files, a name that is too long.
_OF_THE_MACHINE = frozenset({
    errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENAMETOOLONG, errno.ENFILE, errno.ENOMEM,
    errno.ENOSPC, errno.EPERM, errno.EROFS,
})  # fmt: skip


def _reproduction(arguments: list[str], error: BaseException, program: str) -> Path:
    """Writes the command, the versions, the traceback and, where one is known, the program's text."""
    from . import api

    folder = Path(tempfile.mkdtemp(prefix="tundish-fault-"))
    (folder / "command.txt").write_text(f"tundish {shlex.join(arguments)}\n")
    (folder / "traceback.txt").write_text("".join(traceback.format_exception(error)))
    lines = [f"tundish {api.version()}", f"python {platform.python_version()}", platform.platform()]
    lines += [f"{row['part']}: {row['about']}" for row in api.doctor()]
    (folder / "versions.txt").write_text("\n".join(lines) + "\n")
    if program:
        (folder / "program.txt").write_text(program)
    return folder
