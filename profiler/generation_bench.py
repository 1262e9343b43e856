"""Figures of generating with a bundle: `python -m tundish.profiler.generation_bench BUNDLE... [--write FILE]`.

The memory that a long decode takes against what its plan says, its speed at the start and at the end, and how soon the
first token of a prompt comes where its beginning was read before.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..backends.bundle import Bundle, open_bundle
from ..backends.generation.session import Session
from ..ir.diagnostics import TundishError
from .benchmarks import machine_line, write_part
from .process import resident_bytes
from .report.table import size, table

NEW, WARM, EDGE = 4096, 64, 256  # tokens of the long decode, of its start that is not counted, at either end for speed
SHARED, OWN, TRIES = 500, 20, 5  # tokens of a prompt's stored beginning, and of what follows; prompts that share it
PART = "generation"


def long_decode(bundle: Bundle, threads: int | None = None) -> dict[str, Any]:
    """One row, NEW tokens after WARM, or as many as the context holds: growth of memory, and speed at either end."""
    new = min(NEW, (bundle.generator.context or NEW + WARM) - WARM)
    session, rng = Session(bundle, 1, WARM + new, threads), np.random.default_rng(0)
    ids = rng.integers(0, session.vocab, 64).tolist()  # few, so that the embedding's pages are there from the start on
    for i in range(WARM):
        session.read([[ids[i % len(ids)]]])
    before, stamps = resident_bytes(), [time.perf_counter()]
    for i in range(new):
        session.read([[ids[i % len(ids)]]])
        stamps.append(time.perf_counter())
    grown = resident_bytes() - before
    planned = session.bytes * new // (WARM + new)
    edge = min(EDGE, new // 2)
    return {
        "new_tokens": new, "planned_bytes": planned, "grown_bytes": grown, "off_percent": 100 * (grown / planned - 1),
        "first_tokens_per_s": edge / (stamps[edge] - stamps[0]),
        "last_tokens_per_s": edge / (stamps[-1] - stamps[-1 - edge]),
    }  # fmt: skip


def stored_prefix(bundle: Bundle) -> dict[str, Any]:
    """Seconds to the first token of prompts that begin alike: of the first, of the second, the median of all later."""
    rng = np.random.default_rng(0)
    vocab = int(bundle.entries["step"].outputs[0].shape[-1])
    shared = rng.integers(0, vocab, SHARED).tolist()
    prompts = [shared + rng.integers(0, vocab, OWN).tolist() for _ in range(1 + TRIES)]
    # What a process does once, for a prompt of this length too, is not the first prompt's.
    bundle.generate([rng.integers(0, vocab, SHARED + OWN).tolist()], max_new_tokens=2, reuse=False)
    times, reused = [], []
    for prompt in prompts:
        (found,) = bundle.generate([prompt], max_new_tokens=2, ignore_eos=True)
        times.append(found.time_to_first_token_s)
        reused.append(found.reused_tokens)
    return {
        "first_s": times[0], "second_s": times[1], "later_s": statistics.median(times[1:]),
        "ratio": times[0] / times[1], "reused_tokens": reused[1],
    }  # fmt: skip


def measured(path: Path, threads: int | None = None) -> dict[str, Any]:
    """Both for one bundle, as a row."""
    with open_bundle(path, threads=threads) as bundle:
        name = bundle.manifest.name
        weights = (bundle.manifest.info.get("weights") or {}).get("format", "fp32")
        long, prefix = long_decode(bundle, threads), stored_prefix(bundle)
    return {
        "bundle": f"{name} {weights}", "new tokens": long["new_tokens"], "planned": size(long["planned_bytes"]),
        "grown": size(long["grown_bytes"]), "off %": round(long["off_percent"], 2),
        "tokens/s first": round(long["first_tokens_per_s"], 1), "tokens/s last": round(long["last_tokens_per_s"], 1),
        "first token ms": round(1e3 * prefix["first_s"], 1), "second ms": round(1e3 * prefix["second_s"], 1),
        "later ms": round(1e3 * prefix["later_s"], 1), "second is sooner": round(prefix["ratio"], 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--write", type=Path, help="the markdown file to rewrite")
    asked = parser.parse_args()
    try:
        rows = [measured(path) for path in asked.bundles]
    except TundishError as error:
        parser.exit(2, f"{error}\n")
    table(rows)
    if asked.write is not None:
        keys = list(rows[0])
        lines = ["| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
        lines += ["| " + " | ".join(str(row[k]) for k in keys) + " |" for row in rows]
        write_part(asked.write, PART, "\n".join([machine_line(), "", *lines]))


if __name__ == "__main__":
    main()
