"""What changed between two profiles, on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..diff import SAME, Change, Diff
from ..profiles import NodeRow
from .table import size
from .terminal import TOP, WIDTH, grid, short, tail


def show_diff(diff: Diff, top: int = TOP) -> None:
    """Prints to stdout: the whole, then the modules and nodes that changed, those that lost most time first."""
    from rich.console import Console
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    for line in _summary(diff):
        console.print(Text(line))
    for name, changes in (("module", diff.modules), ("node", diff.nodes)):
        moved = [c for c in changes if c.verdict != SAME]
        console.print(Text(f"\n{name}s: {_counted(moved, changes)}", style="bold"))
        if moved:
            titles = (name, "before", "after", "ms", "%", "source")
            console.print(grid(titles, [_cells(c) for c in _ends(moved, top)], console.width))
    for title, rows in (("only after", diff.added), ("only before", diff.removed)):
        if rows:
            took = short(sum(n.measured_ms for n in rows))
            console.print(Text(f"\n{title}: {len(rows)} nodes, {took} ms", style="bold"))
            for row in sorted(rows, key=lambda n: -n.measured_ms)[:top]:
                console.print(Text(_alone(row)), no_wrap=True, overflow="ellipsis")


def _summary(diff: Diff) -> list[str]:
    total, peak = diff.total, diff.peak_bytes
    said = "within the spread or the threshold" if total.verdict == SAME else total.verdict
    before, after = (p if p is None else size(p) for p in (peak["before"], peak["after"]))
    return [
        f"total         {short(total.before_ms)} -> {short(total.after_ms)} ms, {signed(total)}: {said}",
        f"unattributed  {short(diff.unattributed.before_ms)} -> {short(diff.unattributed.after_ms)} ms",
        f"peak memory   {before or 'unknown'} -> {after or 'unknown'}",
        f"threshold     {diff.threshold_percent:g}%, and more than half of both IQRs",
    ]


def signed(change: Change) -> str:
    return "new" if change.change_percent is None else f"{change.change_percent:+.1f}%"


def _counted(moved: Sequence[Change], all_: Sequence[Change]) -> str:
    slower = sum(c.change_ms > 0 for c in moved)
    return f"{slower} slower, {len(moved) - slower} faster, {len(all_) - len(moved)} the same"


def _ends(moved: list[Change], top: int) -> list[Change]:
    """Of what is ranked from most lost to most won: the first of those that lost, the last of those that won."""
    slower, faster = [c for c in moved if c.change_ms > 0], [c for c in moved if c.change_ms <= 0]
    return [*slower[:top], *faster[max(0, len(faster) - top) :]]


def _cells(c: Change) -> list[str]:
    name = f"{c.module or c.name} {c.op}" if c.op else c.name
    return [name, short(c.before_ms), short(c.after_ms), f"{c.change_ms:+.3f}", signed(c), c.source]


def _alone(row: NodeRow) -> str:
    return f"{short(row.measured_ms)} ms  {tail(f'{row.module or row.name} {row.op}', 40)}  {tail(row.source, 24)}"
