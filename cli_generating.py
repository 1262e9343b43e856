"""The command that generates."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .cli_base import AsJson, Threads, app, print_json, say

Written = Annotated[str, typer.Argument(help="a bundle, or a model, which is compiled first, for this call alone")]
Prompt = Annotated[str, typer.Argument(help="what to go on from; - reads it from stdin")]


@app.command()
def generate(
    bundle: Written,
    prompt: Prompt,
    system: Annotated[str | None, typer.Option(help="what the chat begins with; implies --chat")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="the prompt is what a user says, in the chat template")] = False,
    max_new_tokens: Annotated[int | None, typer.Option(help="at most; 256, or what the context leaves")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 takes the likeliest token")] = None,
    top_k: Annotated[int, typer.Option(help="only the k likeliest tokens; 0 for all")] = 0,
    top_p: Annotated[float, typer.Option(help="only the likeliest tokens of this probability together")] = 1.0,
    min_p: Annotated[float, typer.Option(help="only tokens this many times as likely as the likeliest")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="above 1, what was said becomes less likely")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="a text to end before; more than one may be given")] = None,
    seed: Annotated[int | None, typer.Option(help="of the random numbers; drawn when not given")] = None,
    stream: Annotated[bool, typer.Option("--stream", help="print the text as it comes")] = False,
    context: Annotated[int | None, typer.Option(help="tokens to have room for; what is needed by default")] = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Go on from a prompt, token by token; the text goes to stdout, its speed to stderr."""
    from . import api

    if stream and as_json:
        raise api.TundishError("--stream and --json do not go together", hint="leave out one of them")
    with api.stages(as_json or (Path(bundle) / "manifest.json").exists()) as progress:
        found = api.generate(
            bundle, _from_stdin() if prompt == "-" else prompt, system=system, chat=chat, partial=True,
            on_piece=_shown if stream else None, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k,
            top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty, stop=stop or (), seed=seed,
            capacity=context, threads=threads, progress=progress, reuse=False,  # no later prompt meets this process
        )  # fmt: skip
    if as_json:
        print_json(found.to_json())
    else:
        print("" if stream else found.text)
        say(_speed(found))
    if found.finish_reason == "interrupted":
        raise typer.Exit(130)


def _from_stdin() -> str:
    """All of it, without the line's end that a shell puts behind a text."""
    from . import api

    if sys.stdin is None:  # as `<&-` leaves it
        raise api.TundishError("there is no stdin to read the prompt from")
    try:
        return sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise api.TundishError("what stdin gives is no text in UTF-8", found=str(error)) from error


def _shown(piece: Any) -> None:
    print(piece.text, end="", flush=True)


def _speed(found: Any) -> str:
    first, rate = found.time_to_first_token_s, found.tokens_per_s
    parts = [
        f"{len(found.tokens)} tokens ({found.finish_reason})",
        *([f"{rate:.1f} tokens/s"] if rate is not None else []),
        *([f"first token after {first:.3f} s"] if first is not None else []),
        f"prompt {found.prompt_tokens} tokens",
        *([f"seed {found.seed}"] if found.sampled else []),
    ]
    return ", ".join(parts)
