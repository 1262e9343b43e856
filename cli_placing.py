"""The command that places experts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_base import AsJson, app, print_json, print_pairs, print_rows, say

_SHOWN = (
    "max_over_mean", "lower_bound", "gap_percent", "moved_bytes", "moved_experts", "layers", "seconds_a_layer",
)  # fmt: skip


@app.command()
def place(
    experts: Annotated[int, typer.Option(min=1, help="experts of a layer")],
    devices: Annotated[int, typer.Option(min=1, help="devices to place them on")],
    slots: Annotated[int, typer.Option(min=1, help="places for an expert, on all devices together")],
    load: Annotated[Path | None, typer.Option(help="how often each expert is chosen: .npy, or a routing file")] = None,
    groups: Annotated[int, typer.Option(min=1, help="the router's groups; each stays within a node")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="nodes of equally many devices")] = 1,
    previous: Annotated[Path | None, typer.Option(help="what -o wrote before: move as little as keeps balance")] = None,
    expert_bytes: Annotated[str | None, typer.Option(help="bytes of one expert's weights, such as 44MB")] = None,
    most_moved: Annotated[str | None, typer.Option(help="load at most so many bytes, such as 80GiB")] = None,
    objective: Annotated[str, typer.Option(help="tokens (prefill), or different experts a batch (decode)")] = "tokens",
    top_k: Annotated[int | None, typer.Option(min=1, help="experts that each token chooses")] = None,
    batch_tokens: Annotated[int, typer.Option(min=1, help="tokens of a decode, for the objective experts")] = 64,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="write the placement there, as JSON")] = None,
    as_json: AsJson = False,
) -> None:
    """Place experts, with copies, on devices; how near to the best there can be."""
    from . import api

    found = api.place(
        experts=experts, devices=devices, slots=slots, load=load, groups=groups, nodes=nodes, previous=previous,
        expert_bytes=expert_bytes, most_moved=most_moved, objective=objective, top_k=top_k, batch_tokens=batch_tokens,
        output=output,
    )  # fmt: skip
    if as_json:
        print_json(found)
        return
    print_pairs({key: found[key] for key in _SHOWN})
    if found["layers"] > 1:
        print_rows(found["by_layer"])
    for line in found["notes"]:
        say(line)
