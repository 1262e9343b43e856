"""Writes the tables of docs/placement.md: placements of drawn loads beside the published method of EPLB.

Run: `make placement-table`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from eplb import eplb
from eplb import level as eplb_level

from tundish.compiler.experts.drawn import KINDS, choices, loads_of, popularity, touched
from tundish.compiler.experts.placement import Fleet, matched, place, puts_of
from tundish.compiler.experts.split import split

# (experts, slots, devices, experts a token)
SHAPES = (
    (128, 128, 8, 8), (128, 144, 8, 8), (128, 160, 32, 8), (256, 288, 32, 8), (256, 320, 64, 8), (8, 16, 8, 2),
)  # fmt: skip
SEEDS, TOKENS, BATCHES = 6, 8192, 20
DRIFTS = (0.0, 0.1, 0.3)  # the deviation of what is added to each expert's log-popularity between two windows


@dataclass(frozen=True)
class Seen:
    """One placement: fullest loads over the mean, the bound likewise, and how long it took."""

    bound: float
    here: float
    later: float
    eplb: float
    eplb_later: float
    seconds: float

    @property
    def over(self) -> float:
        return self.here / self.bound


def windows(shape: tuple[int, int, int, int], kind: str, seed: int, drift: float = 0.0) -> tuple[np.ndarray, ...]:
    """The loads of a window of tokens, and of the next."""
    experts, _, _, k = shape
    draw = np.random.default_rng(seed)
    logits = popularity(kind, experts, draw)
    first = loads_of(choices(logits, TOKENS, k, draw), experts)
    later = logits + drift * draw.normal(size=experts)
    return first, loads_of(choices(later, TOKENS, k, draw), experts)


def seen(shape: tuple[int, int, int, int], kind: str, seed: int) -> Seen:
    experts, slots, devices, _ = shape
    now, then = windows(shape, kind, seed)
    start = time.perf_counter()
    found = place(now, Fleet(devices, slots))
    seconds = time.perf_counter() - start
    base, mean = eplb(now, devices, slots), now.sum() / devices
    return Seen(
        found.bound_over_mean, found.max_over_mean, found.on(then).max_over_mean,
        float(eplb_level(base, now).max()) / mean, float(eplb_level(base, then).max()) / mean, seconds,
    )  # fmt: skip


def mean(rows: list[Seen], name: str) -> float:
    return float(np.mean([getattr(row, name) for row in rows]))


def balance() -> Iterator[str]:
    """In the window that was placed for, and in the next one with no weight moved."""
    yield ("| experts, slots, devices, k | load | bound / mean | fullest / bound | fullest / mean | next window | "
           "EPLB | EPLB, next window | ms a layer |")  # fmt: skip
    yield "|---|---|---|---|---|---|---|---|---|"
    for shape in SHAPES:
        for kind in KINDS:
            rows = [seen(shape, kind, seed) for seed in range(SEEDS)]
            yield (
                f"| {', '.join(map(str, shape))} | {kind} | {mean(rows, 'bound'):.4f} | {mean(rows, 'over'):.4f} | "
                f"{mean(rows, 'here'):.4f} | {mean(rows, 'later'):.4f} | {mean(rows, 'eplb'):.4f} | "
                f"{mean(rows, 'eplb_later'):.4f} | {1e3 * min(r.seconds for r in rows):.1f} |"
            )


def moves() -> Iterator[str]:
    """The next window placed from the last placement, and placed anew."""
    yield ("| experts, slots, devices, k | load | drift | loaded anew | of these by the best devices | loaded | "
           "times fewer | fullest / mean anew | fullest / mean |")  # fmt: skip
    yield "|---|---|---|---|---|---|---|---|---|"
    for shape in SHAPES[:-1]:
        fleet = Fleet(shape[2], shape[1])
        for kind in KINDS:
            for drift in DRIFTS:
                yield _moved(shape, fleet, kind, drift)


def _moved(shape: tuple[int, int, int, int], fleet: Fleet, kind: str, drift: float) -> str:
    anew, best, kept, fresh_max, kept_max = [], [], [], [], []
    for seed in range(SEEDS):
        now, then = windows(shape, kind, seed, drift)
        before = place(now, fleet).assignment
        fresh, found = place(then, fleet), place(then, fleet, before)
        anew.append(puts_of(before, fresh.assignment))
        best.append(puts_of(before, matched(fresh.assignment, before)))
        kept.append(found.puts)
        fresh_max.append(fresh.max_over_mean)
        kept_max.append(found.max_over_mean)
    fewer = f"{np.sum(best) / np.sum(kept):.1f}" if sum(kept) else "none loaded"
    return (
        f"| {', '.join(map(str, shape))} | {kind} | {drift} | {np.mean(anew):.1f} | {np.mean(best):.1f} | "
        f"{np.mean(kept):.1f} | {fewer} | {np.mean(fresh_max):.4f} | {np.mean(kept_max):.4f} |"
    )


def decode() -> Iterator[str]:
    """What the fullest device reads of a batch's experts, placed by tokens and by different experts."""
    yield ("| experts, slots, devices, k | load | tokens of a batch | placed by tokens | placed by experts | "
           "times fewer |")  # fmt: skip
    yield "|---|---|---|---|---|---|"
    for shape in (SHAPES[0], SHAPES[2], SHAPES[4]):
        for kind in KINDS[1:]:
            for batch in (16, 32, 64):
                rows = np.concatenate([_decoded(shape, kind, batch, seed) for seed in range(SEEDS)])
                tokens, experts = rows.mean(0)
                yield (f"| {', '.join(map(str, shape))} | {kind} | {batch} | {tokens:.2f} | {experts:.2f} | "
                       f"{tokens / experts:.2f} |")  # fmt: skip


def _decoded(shape: tuple[int, int, int, int], kind: str, batch: int, seed: int) -> np.ndarray:
    """[batches, 2]: the most different experts of a device. A whole number, since flows of whole experts are whole."""
    experts, slots, devices, k = shape
    draw = np.random.default_rng(seed)
    logits = popularity(kind, experts, draw)
    loads = loads_of(choices(logits, TOKENS, k, draw), experts)
    found = [place(of, Fleet(devices, slots)).assignment for of in (loads, touched(loads, TOKENS, batch))]
    rows = []
    for _ in range(BATCHES):
        reached = np.bincount(np.unique(choices(logits, batch, k, draw)), minlength=experts)
        rows.append([np.ceil(split(assignment, reached).fullest - 1e-6) for assignment in found])
    return np.array(rows)


TABLES = {"balance": balance, "moves": moves, "decode": decode}


def rewritten(text: str, name: str, lines: Iterator[str]) -> str:
    """The text with what stands between two marks replaced."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    return f"{before}{start}\n" + "\n".join(lines) + f"\n{end}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Place drawn loads, beside EPLB's method.")
    parser.add_argument("--write", type=Path, help="the markdown file whose tables to rewrite; printed else")
    parser.add_argument("--only", choices=tuple(TABLES), help="one table")
    asked = parser.parse_args()
    for name, table in TABLES.items():
        if asked.only in (None, name):
            if asked.write is None:
                for line in table():
                    print(line, flush=True)
            else:
                text = asked.write.read_text(encoding="utf-8")
                asked.write.write_text(rewritten(text, name, table()), encoding="utf-8")


if __name__ == "__main__":
    main()
