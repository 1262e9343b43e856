"""What the commands share: the group, the arguments that many take, and printing."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

_USAGE: type[Exception] = typer.BadParameter.__mro__[1]  # type: ignore[assignment]  # Typer does not export it


class Group(TyperGroup):
    """Typer has its own answers to Ctrl-C, to a closed pipe and to words that it cannot read; these are ours."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except (KeyboardInterrupt, BrokenPipeError) as stop:
            raise SystemExit(stopped(stop)) from stop
        except _USAGE as error:
            say(f"tundish: {' '.join(error.format_message().split())}")  # type: ignore[attr-defined]
            command = getattr(getattr(error, "ctx", None), "command_path", "tundish")
            say(f"  try:   {command} --help")
            raise SystemExit(2) from error


app = typer.Typer(
    name="tundish", cls=Group, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
    help="One Transformer model in, a verified bundle for your hardware out.",
    epilog="Exit codes: 0 done, 1 a check failed, 2 something to change in the input, 70 a fault of ours. "
    "`--debug` anywhere shows the traceback of an error.",
)  # fmt: skip

Model = Annotated[str, typer.Argument(help="a folder, .gguf file, zoo name, file.py:factory, or a saved graph")]
BundlePath = Annotated[Path, typer.Argument(help="a bundle folder made by `tundish compile`")]
AsJson = Annotated[bool, typer.Option("--json", help="print the rows as JSON")]
Target = Annotated[str, typer.Option(help="cpu, cuda, or one of `tundish targets`")]
BackendName = Annotated[str, typer.Option(help="onnxruntime, tvm, reference, null; for compile auto: the fastest")]
TaskName = Annotated[str | None, typer.Option(help="the model's head, when not config.architectures[0]")]
Span = Annotated[str | None, typer.Option(help="sizes to allow: 4, 1..8 or 1..")]
SomeBatch = Annotated[int | None, typer.Option("--batch", min=1, help="batch size; 1 when not given")]
SomePhase = Annotated[str | None, typer.Option("--phase", help="prefill or decode; both when not given")]
Phase = Annotated[str, typer.Option(help="prefill: whole texts; decode: one token against a cache of `past`")]
PastSpan = Annotated[str | None, typer.Option("--past", help="tokens before the new one to allow: 4, 1..8 or 1..")]
PastSize = Annotated[int | None, typer.Option("--past", min=1, help="tokens before the new one; 128, or what fits")]
Packed = Annotated[bool, typer.Option("--packed", help="rows hold several texts: position_ids instead of a mask")]
Fixed = Annotated[list[str] | None, typer.Option("--fix", help="settle an ONNX input: NAME=1,2,3 or NAME=file.npy")]
PrecisionName = Annotated[str, typer.Option(help="fp32, fp16 or bf16")]
WeightsName = Annotated[str | None, typer.Option("--weights", help="fp32, bf16, int8, int4, or stored: as in the file")]
Threads = Annotated[int | None, typer.Option(min=1, help="threads to compute with; all cores when not given")]
BatchSize = Annotated[int, typer.Option(min=1, help="batch size")]
SeqSize = Annotated[int | None, typer.Option(min=1, help="sequence length; 128, or what the model can take")]



# -- printing ------------------------------------------------------------------------------------------


def print_json(value: Any) -> None:
    print(json.dumps(_plain(value), indent=2, default=str, allow_nan=False))


def _plain(value: Any) -> Any:
    """JSON has no word for what is not finite: it becomes null."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def say(text: str) -> None:
    print(text, file=sys.stderr)


def print_any(value: Any, as_json: bool) -> None:
    if as_json:
        print_json(value)
    elif isinstance(value, list):
        print_rows(value)
    else:
        print_pairs(value)


def print_rows(rows: list[dict[str, Any]]) -> None:
    from . import api

    api.table(rows)


def print_pairs(row: dict[str, Any]) -> None:
    from . import api

    api.pairs(row)


def stopped(stop: BaseException) -> int:
    """Ctrl-C, or nobody reads on: the exit codes that a shell knows them by."""
    if isinstance(stop, KeyboardInterrupt):
        say("tundish: stopped; nothing half-written was left")
        return 130
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
