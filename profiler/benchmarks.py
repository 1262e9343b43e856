"""The tables of docs/benchmarks.md: what is measured, and how it is written down."""

from __future__ import annotations

import importlib.metadata
from datetime import date
from pathlib import Path
from typing import Any

from ..compiler.hardware.machine import this_machine

WORKLOADS = (("bert-base", 1, 128), ("gpt2", 1, 128))
"""(model, batch, seq) of what `tundish bench` times when it is given no model."""

_START, _END = "<!-- written by `tundish bench --write`: begin -->", "<!-- end -->"
_PACKAGES = ("torch", "transformers", "onnxruntime-gpu", "onnxruntime", "onnx")


def write_tables(path: Path, results: list[dict[str, Any]]) -> None:
    """Rewrites the part of a markdown file between the markers; the rest is kept."""
    text = path.read_text() if path.is_file() else f"# Benchmarks\n\n{_START}\n{_END}\n"
    head, _, rest = text.partition(_START)
    _, _, tail = rest.partition(_END)
    body = "\n\n".join([_machine(), *(_table(r) for r in results)])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{head}{_START}\n{body}\n{_END}{tail}")


def _machine() -> str:
    machine = this_machine()
    versions = []
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    widest = "AVX-512" if "avx512f" in machine.features else "AVX2" if "avx2" in machine.features else "scalar"
    return f"{date.today()}, {machine.name}, {machine.cores} cores, {widest}; {', '.join(versions)}."


def _table(result: dict[str, Any]) -> str:
    shapes = ", ".join(f"{k} {list(v)}" for k, v in result["shapes"].items())
    lines = [
        f"### {result['model']}, fp32, {shapes}, {result['threads']} threads",
        "",
        "| | median ms | IQR ms | times ours | compile s | peak while compiling | peak while running | differs by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(row) for row in sorted(result["rows"], key=lambda r: r.get("median_ms", float("inf")))]
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    if "cannot" in row:
        return f"| {row['name']} | cannot: {row['cannot']} | | | | | | |"
    ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
    differs = f"{row['max_abs_difference']:.1e}" if "max_abs_difference" in row else ""
    cells = [
        row["name"], f"{row['median_ms']:.1f}", f"{row['iqr_ms']:.1f}", ratio, _number(row["compile_s"], 1),
        _gib(row["compile_peak_bytes"]), _gib(row["peak_bytes"]), differs,
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _gib(value: int | None) -> str:
    return "" if value is None else f"{value / 2**30:.2f} GiB"
