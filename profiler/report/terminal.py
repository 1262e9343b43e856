"""A profile on a terminal: what it took in all, which modules and which nodes took most of it."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any

from ..modules import predicted_sum, real_nodes, roofline_share
from ..profiles import NodeRow, Profile
from .table import size

WIDTH = 80  # of what is piped, and the least that is kept to
TOP = 12
SOURCE = 20  # columns that a source line has at least: a file of transformers and its line
LEFT = ("roof",)  # columns of words
_INDEX = re.compile(r"(?<=\.)\d+(?=\.|$)")


def show(profile: Profile, top: int = TOP) -> None:
    """Prints a profile to stdout: a summary, then the costliest modules and nodes, `top` of each."""
    from rich.console import Console
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    for line in summary(profile):
        console.print(Text(line))
    groups = by_module(profile)
    shown = (
        (f"modules by the time of their own nodes ({min(top, len(groups))} of {len(groups)})", "module", groups),
        (f"nodes ({min(top, len(real_nodes(profile)))} of {len(real_nodes(profile))})", "node", by_node(profile)),
    )
    for title, name, rows in shown:
        console.print(Text(f"\n{title}", style="bold"))
        titles = (name, "ms", "±%", "share", "pred.", "%roof", "roof", "source")
        console.print(grid(titles, [_cells(line) for line in rows[:top]], console.width))


def summary(profile: Profile) -> list[str]:
    """The head of a report, a sentence or two a line."""
    sizes = ", ".join(f"{k} {v}" for k, v in profile.sizes.items())
    asked = [profile.phase, sizes, profile.precision, f"{profile.threads} thread{'s' * (profile.threads != 1)}"]
    spread = f"± {profile.iqr_ms / 2:.3f} (half of the IQR of {profile.repeats} runs)"
    lines = [
        f"{profile.model} on {profile.backend}, {profile.target}",
        "; ".join(a for a in asked if a),
        profile.machine,
        f"measured      {profile.total_ms:.3f} ms {spread}",
        f"predicted     {_predicted(profile)}",
        f"unattributed  {profile.unattributed_ms:.3f} ms ({share(profile.unattributed_ms, profile.total_ms)})",
        f"profiling     adds {share(profile.profiled_ms - profile.total_ms, profile.total_ms)}",
        "peak memory   " + ", ".join(f"{_size(profile.peak_bytes.get(k))} {k}" for k in ("measured", "predicted")),
        f"calibration   {profile.calibration}",
    ]
    return [*lines, *(f"note: {n}" for n in profile.notes if n != profile.calibration)]


def _predicted(profile: Profile) -> str:
    if profile.predicted_ms is None:
        return "not known"
    error = profile.predicted_ms / profile.total_ms - 1 if profile.total_ms else 0.0
    return f"{profile.predicted_ms:.3f} ms ({error:+.1%} of measured)"


def share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _size(count: int | None) -> str:
    return "unknown" if count is None else size(count)


Line = dict[str, Any]


def by_module(profile: Profile) -> list[Line]:
    """The costliest first; equal layers are one line, `layers.*.mlp` with how many they are."""
    groups: dict[str, list[NodeRow]] = {}
    for node in real_nodes(profile):
        groups.setdefault(_INDEX.sub("*", node.module), []).append(node)
    lines = []
    for name, nodes in groups.items():
        times = len({n.module for n in nodes})
        lines.append(_line(f"{name or '(root)'} ×{times}" if times > 1 else name or "(root)", nodes, profile))
    return sorted(lines, key=lambda line: -line["measured"])


def by_node(profile: Profile) -> list[Line]:
    """The costliest first."""
    nodes = sorted(real_nodes(profile), key=lambda n: -n.measured_ms)
    return [_line(f"{n.module or n.name} {n.op}", [n], profile) for n in nodes]


def _line(name: str, nodes: Sequence[NodeRow], profile: Profile) -> Line:
    percent, roof = roofline_share(nodes)
    measured = sum(n.measured_ms for n in nodes)
    spread = sum(n.iqr_ms for n in nodes) / 2
    return {
        "name": name, "source": nodes[0].source, "measured": measured, "spread": spread / measured if measured else 0.0,
        "share": measured / profile.total_ms if profile.total_ms else 0.0, "predicted": predicted_sum(nodes),
        "percent": percent, "roof": roof,
    }  # fmt: skip


def _cells(line: Line) -> list[str]:
    predicted, percent = line["predicted"], line["percent"]
    return [
        line["name"], short(line["measured"]), f"{line['spread'] * 100:.0f}", f"{line['share']:.1%}",
        "-" if predicted is None else short(predicted), "-" if percent is None else f"{percent:.0f}",
        line["roof"] or "-", line["source"],
    ]  # fmt: skip


def grid(titles: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Any:
    """A rich table of at most `width` columns: what stands between the name, first, and the source, last, is kept
    whole; those two give way, the name down to a third of the width."""
    from rich.table import Table
    from rich.text import Text

    between = sum(max(map(len, column)) for column in list(zip(titles, *rows, strict=True))[1:-1])
    room = width - between - len(titles)
    names, sources = (max((len(row[i]) for row in rows), default=0) for i in (0, -1))
    source = max(len(titles[-1]), min(sources, room - min(names, max(width // 3, room - SOURCE))))
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for i, title in enumerate(titles):
        left = i in (0, len(titles) - 1) or title in LEFT
        table.add_column(title, justify="left" if left else "right", no_wrap=True, overflow="crop")
    for row in rows:
        table.add_row(Text(tail(row[0], room - source)), *row[1:-1], Text(tail(row[-1], source)))
    return table


def short(ms: float) -> str:
    """Milliseconds in five characters, as long as they are under 100 seconds."""
    return f"{ms:.{3 if ms < 10 else 2 if ms < 100 else 1 if ms < 1000 else 0}f}"


def tail(text: str, width: int) -> str:
    """The end of a text that is too long: names of modules and lines differ at their ends."""
    return text if len(text) <= width else f"…{text[1 - width:]}"
