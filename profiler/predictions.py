"""Predicted against measured: how far off a prediction was, node by node, in total and in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from .benchmarks import PREDICTED, Workload, machine_line, write_part
from .profiles import Profile

WORKLOADS = (
    Workload("bert-base", 1, 128), Workload("gpt2", 1, 128), Workload("llama-0.5b", 1, 128), Workload("vit-focus", 1),
    Workload("minilm", 1, 128),
)  # fmt: skip
"""What `tundish predictions` profiles when it is given no model."""
MOST = 0.95  # of the time: the nodes that make up so much, the largest first, are the large ones


def compared(profile: Profile) -> dict[str, Any]:
    """One row: errors are (predicted - measured) / measured; those of nodes without the sign, and their median.

    median_error: over all nodes that take time; large_error: over those that make up 95 % of the nodes' time, the
    largest first; within: the share of the nodes' time that fell into the predicted interval.
    """
    nodes = [n for n in profile.nodes if n.measured_ms > 0 and n.predicted_ms is not None]
    timed = sorted(nodes, key=lambda n: -n.measured_ms)
    whole, sum_ms, large = sum(n.measured_ms for n in timed), 0.0, []
    for node in timed:
        if sum_ms >= MOST * whole:
            break
        sum_ms += node.measured_ms
        large.append(node)
    inside = sum(n.measured_ms for n in timed if _inside(n))
    peak = profile.peak_bytes
    return {
        "model": profile.model, "threads": profile.threads, "sizes": dict(profile.sizes),
        "measured_ms": profile.total_ms, "iqr_ms": profile.iqr_ms, "predicted_ms": profile.predicted_ms,
        "total_error": _error(profile.predicted_ms, profile.total_ms),
        "median_error": median(map(_off, timed)) if timed else None,
        "large_error": median(map(_off, large)) if large else None,
        "within": inside / whole if whole else None,
        "unattributed": profile.unattributed_ms / profile.total_ms,
        "peak_measured_bytes": peak.get("measured"), "peak_predicted_bytes": peak.get("predicted"),
        "peak_error": _error(peak.get("predicted"), peak.get("measured")), "calibration": profile.calibration,
    }  # fmt: skip


def write_predictions(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Rewrites the table of predictions in a markdown file; the rest is kept."""
    lines = [
        machine_line(), "", *dict.fromkeys(f"Calibration: {row['calibration']}." for row in rows), "",
        "| | threads | measured ms | IQR | predicted ms | error | median node | large nodes | in the interval | "
        "unattributed | peak measured | peak predicted | error |",
        "|" + "---|" * 13, *map(_line, rows),
    ]  # fmt: skip
    write_part(path, PREDICTED, "\n".join(lines))


def _line(row: dict[str, Any]) -> str:
    sizes = " x ".join(str(s) for s in row["sizes"].values())
    cells = [
        f"{row['model']} {sizes}", str(row["threads"]), f"{row['measured_ms']:.1f}", f"{row['iqr_ms']:.1f}",
        _number(row["predicted_ms"]), _percent(row["total_error"], signed=True), _percent(row["median_error"]),
        _percent(row["large_error"]), _percent(row["within"]), _percent(row["unattributed"]),
        _mib(row["peak_measured_bytes"]), _mib(row["peak_predicted_bytes"]), _percent(row["peak_error"], signed=True),
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _inside(node: Any) -> bool:
    low, high = node.predicted_low_ms, node.predicted_high_ms
    return low is not None and high is not None and low <= node.measured_ms <= high


def _off(node: Any) -> float:
    return abs(node.predicted_ms - node.measured_ms) / float(node.measured_ms)


def _error(predicted: float | None, measured: float | None) -> float | None:
    return None if predicted is None or not measured else predicted / measured - 1


def _percent(share: float | None, signed: bool = False) -> str:
    return "" if share is None else f"{100 * share:+.1f} %" if signed else f"{100 * share:.1f} %"


def _number(ms: float | None) -> str:
    return "" if ms is None else f"{ms:.1f}"


def _mib(size: int | None) -> str:
    return "" if size is None else f"{size / 2**20:.0f} MiB"
