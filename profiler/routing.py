"""What a model's routers choose on a text: the program run for its choices alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..compiler.experts.routing import MOST_TRACED, VERSION, Routing, expert_layers, layer_of, routing_key
from ..ir.diagnostics import LoadError
from ..ir.graph import Graph, Program
from ..ir.unfold import unfold
from .perplexity import read_text

Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
WINDOW = 256  # tokens of a text that are seen at once, where the model can take so many
OUTPUT = "choices"


def choosing(program: Program) -> Program:
    """The program whose outputs are what each router chose, `choices.0` on; what else it computes is left out.

    Raises: LoadError where there is no layer of experts.
    """
    flat = unfold(program)
    name = flat.entries[0]
    graph = flat.functions[name]
    chosen = [place.node.inputs[1] for place in expert_layers(flat)]
    if not chosen:
        raise LoadError("the model has no layer of experts, so there is no routing to record")
    names = tuple(f"{OUTPUT}.{i}" for i in range(len(chosen)))
    only = Graph(graph.inputs, graph.nodes, tuple(v for v in chosen if v is not None), names)
    return flat.replace(functions={name: only}, entries=(name,))


def recorded(program: Program, model: str, run: Run, texts: Iterable[Mapping[str, np.ndarray]], of: str) -> Routing:
    """The routing of a program on texts: inputs of one row each, whose tokens all count.

    run: of `choosing(program)`. of: what the texts are, in words.
    """
    places = expert_layers(program)
    chosen: list[list[np.ndarray]] = [[] for _ in places]
    for inputs in texts:
        found = run(inputs)
        for i, place in enumerate(places):
            chosen[i].append(np.asarray(found[f"{OUTPUT}.{i}"]).reshape(-1, place.k).astype(np.int64))
    traced = MOST_TRACED // sum(p.k for p in places)
    layers = tuple(
        layer_of(p.module, p.experts, rows, traced) for p, rows in zip(places, chosen, strict=True)
    )  # fmt: skip
    lengths = [len(rows) for rows in chosen[0]]
    return Routing(VERSION, model, routing_key(program), of, sum(lengths), tuple(_first(lengths, traced)), layers)


def _first(lengths: Sequence[int], most: int) -> Iterator[int]:
    """The lengths of texts, of which `most` tokens in all are kept."""
    for length in lengths:
        if most > 0:
            yield min(length, most)
        most -= length


def windows_of(text: Path, tokenizer: bytes | None, longest: int | None, tokens: int | None) -> list[np.ndarray]:
    """A text file's tokens in rows i64 [n] of at most WINDOW and what the model takes; at most `tokens` in all.

    Raises: LoadError where the model has no tokenizer, or the text no tokens.
    """
    if tokenizer is None:
        raise LoadError("the model has no tokenizer to read a text with", found=f"--text {text.name}",
                        hint="leave the text out: tokens are drawn then")  # fmt: skip
    import tokenizers

    words = tokenizers.Tokenizer.from_str(tokenizer.decode())
    words.no_truncation()
    words.no_padding()
    ids = np.array(words.encode(read_text(text)).ids, np.int64)[:tokens]
    size = min(WINDOW, longest or WINDOW)
    rows = [ids[i : i + size] for i in range(0, len(ids), size)]
    rows = [r for r in rows if len(r) == size] or rows[:1]
    if not rows or len(rows[0]) < 2:
        raise LoadError(f"{text.name} is {len(ids)} tokens long", hint="a text of at least two tokens")
    return rows
