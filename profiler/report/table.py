"""Rows as a table on a terminal, as aligned plain text in a pipe."""

from __future__ import annotations

import sys
from typing import Any

Row = dict[str, Any]


def table(rows: list[Row], title: str = "") -> None:
    """Prints rows to stdout; columns are the keys in the order they first appear."""
    if not rows:
        return
    columns = list(dict.fromkeys(k for row in rows for k in row))
    cells = [[spoken(c, row.get(c)) for c in columns] for row in rows]
    numeric = [all(_is_number(row.get(c)) for row in rows) for c in columns]
    if sys.stdout.isatty():
        _rich(columns, cells, numeric, title)
    else:
        _plain(columns, cells, numeric)


def pairs(row: Row) -> None:
    """Prints one row as `name  value` lines."""
    width = max((len(k) for k in row), default=0)
    for key, value in row.items():
        print(f"{key.replace('_', ' '):{width}}  {spoken(key, value)}")


def spoken(name: str, value: Any) -> str:
    """A value with its unit, by the ending of its column's name."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name.endswith("bytes") and isinstance(value, int):
        return size(value)
    if name.endswith("_s") and isinstance(value, (int, float)):
        return f"{value:.2f} s"
    if name.endswith("_ms") and isinstance(value, (int, float)):
        return f"{value:.2f} ms"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1e-2 or abs(value) >= 1e5 else f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{k.removesuffix('_bytes')} {spoken(k, v)}" for k, v in value.items())
    return str(value)


def size(count: int) -> str:
    """Bytes in binary units."""
    number = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if number < 1024 or unit == "TiB":
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    raise AssertionError("unreachable")


def rate(per_s: float, unit: str) -> str:
    """A rate in decimal units: `224 GFLOP/s`, `1.6 TB/s`."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(per_s) < 999.5 or prefix == "P":
            return f"{per_s:.3g} {prefix}{unit}"
        per_s /= 1000
    raise AssertionError("unreachable")


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _rich(columns: list[str], cells: list[list[str]], numeric: list[bool], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=title or None, box=None, header_style="bold", pad_edge=False)
    for name, right in zip(columns, numeric, strict=True):
        shown.add_column(name.replace("_", " "), justify="right" if right else "left", overflow="fold")
    for line in cells:
        shown.add_row(*line)
    Console().print(shown)


def _plain(columns: list[str], cells: list[list[str]], numeric: list[bool]) -> None:
    lines = [[c.replace("_", " ") for c in columns], *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        parts = [c.rjust(w) if n else c.ljust(w) for c, w, n in zip(line, widths, numeric, strict=True)]
        print("  ".join(parts).rstrip())
