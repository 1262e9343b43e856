"""A calibration as tables, and as a plot with a point for each kernel that was timed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...compiler.cost.estimate import Costs
from ...compiler.hardware.calibration import Calibration
from ...compiler.hardware.machine import Machine
from ...ir.weight_file import write_whole
from ..profiles import Roofs
from ..report.roofline import Point, roofline_svg


def rows(calibration: Calibration) -> dict[str, list[dict[str, Any]]]:
    """`peaks`, `bandwidths`, `launches` and `families`."""
    engines = calibration.backends.items()
    return {
        "peaks": [
            {"dtype": p.dtype, "threads": p.threads, "flops_per_s": p.flops_per_s, "spread": p.spread}
            for p in calibration.peaks
        ],
        "bandwidths": [
            {"level": b.level, "threads": b.threads, "read_bytes_per_s": b.read_bytes_per_s,
             "copy_bytes_per_s": b.copy_bytes_per_s, "spread": b.spread}
            for b in calibration.bandwidths
        ],
        "launches": [
            {"backend": name, "threads": launch.threads, "run_us": launch.run_s * 1e6, "node_us": launch.node_s * 1e6}
            for name, e in engines for launch in e.launches
        ],
        "families": [
            {"backend": name, "kernel": f.name, "dtype": f.dtype, "threads": f.threads, "sizes": len(f.points),
             "overhead_us": f.overhead_s * 1e6, "compute_share": f.compute_share, "memory_share": f.memory_share,
             "median_error": f.median_error, "p90_error": f.p90_error}
            for name, e in engines for f in e.families
        ],
    }  # fmt: skip


def roofs(calibration: Calibration, machine: Machine, threads: int) -> Roofs:
    """The ceilings as the plot takes them, in f32, with the other types' peaks beside."""
    found = Costs(calibration, machine, "", threads).roofs()
    others = {p.dtype: p.flops_per_s for p in calibration.peaks if p.threads == threads and p.dtype != "f32"}
    return Roofs(found.peak_flops_per_s, dict(found.bandwidths), others)


def plot(calibration: Calibration, machine: Machine, path: Path) -> None:
    """Writes the roofline at all measured threads: an SVG, or a page that holds it. Raises: BuildError."""
    most = max(p.threads for p in calibration.peaks)
    title = f"{calibration.title}, {most} thread{'s' if most > 1 else ''}"
    text = roofline_svg(roofs(calibration, machine, most), _points(calibration, most), standalone=True, title=title)
    if path.suffix != ".svg":
        text = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{_escaped(title)}</title>{text}</html>'
    write_whole(path, (text + "\n").encode())


def _points(calibration: Calibration, threads: int) -> list[Point]:
    """One for each size that was timed, a colour for each family."""
    families = [f for e in calibration.backends.values() for f in e.families if f.threads == threads]
    return [
        Point(f.name, p.flops / p.bytes, p.flops / p.seconds, 0.0, group, f"{f.name} {_spoken(p.at)}")
        for group, f in enumerate(families) for p in f.points if p.flops and p.bytes
    ]  # fmt: skip


def _spoken(at: tuple[float, ...]) -> str:
    return " x ".join(f"{x:g}" for x in at)


def _escaped(text: str) -> str:
    from html import escape

    return escape(text)
