"""The roofline plot as SVG: ceilings of bandwidth and compute on two logarithmic axes, and a point per node.

Source: Williams, Waterman and Patterson 2009, "Roofline: an insightful visual performance model".
Positions along x are percentages and texts have fixed sizes, so one drawing is readable at any width without a script.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from ..modules import real_nodes
from ..profiles import Profile, Roofs
from .table import rate

HEIGHT, TOP, BOTTOM, LINE = 420, 30, 36, 15  # pixels
DEEPEST = 1e-7  # the least share of the peak that is still drawn


@dataclass(frozen=True, slots=True)
class Point:
    """intensity: FLOPs per byte. share: of the run's time, 0 to 1; the area of the dot. group: the colour, from 0."""

    name: str
    intensity: float
    flops_per_s: float
    share: float = 0.0
    group: int = 0
    title: str = ""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """bandwidth: bytes per second, or None for a ceiling of compute, FLOP per second."""

    name: str
    per_s: float
    bandwidth: bool

    def __str__(self) -> str:
        return f"{self.name} {rate(self.per_s, 'B/s' if self.bandwidth else 'FLOP/s')}"


def ceilings(roofs: Roofs) -> tuple[Ceiling, ...]:
    """All that bind: bandwidths, the fastest first, then compute, the peak of the profile's dtype first."""
    levels = sorted(roofs.bandwidths.items(), key=lambda item: -item[1])
    compute = [("compute", roofs.peak_flops_per_s), *roofs.other_peaks.items()]
    return (*(Ceiling(n, v, True) for n, v in levels), *(Ceiling(n, v, False) for n, v in compute))


def points(profile: Profile, groups: Mapping[str, int]) -> tuple[Point, ...]:
    """A point for each node that does FLOPs on bytes in a time that was measured. groups: op -> colour."""
    found = []
    for n in real_nodes(profile):
        moved, speed = n.read_bytes + n.written_bytes, n.flops_per_s
        if moved and speed:
            share = n.measured_ms / profile.total_ms if profile.total_ms else 0.0
            found.append(Point(n.name, n.hardware_flops / moved, speed, share, groups.get(n.op, len(groups)),
                               f"{n.op} {n.module}"))  # fmt: skip
    return tuple(found)


def roofline_svg(roofs: Roofs, points: Sequence[Point] = (), *, standalone: bool = False, title: str = "") -> str:
    """The plot. standalone: a file of its own, with its colours and a key of the ceilings; else they are the page's."""
    listed = [c for c in ceilings(roofs) if c.per_s > 0]
    key = [title, *map(str, listed)] if standalone else []
    axes = _axes(listed, points, TOP + LINE * len(key))
    body = [*_grid(axes), *_roofs(axes, listed), *_ticks(axes), *_dots(axes, points)]
    for i, text in enumerate(key):
        body.append(f'<text x="8" y="{LINE * (i + 1)}" class="key{" head" if not i else ""}">{escape(text)}</text>')
    label = escape(f"roofline: {', '.join(map(str, listed))}; {len(points)} points")
    size = f'width="{900 if standalone else "100%"}" height="{axes.height}"'
    style = f"<style>{STYLE}</style>" if standalone else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="roofline" role="img" aria-label="{label}" {size}>'
        f"{style}{''.join(body)}</svg>"
    )


@dataclass(frozen=True, slots=True)
class _Axes:
    """Ranges of intensity (x) and FLOP per second (y); the plot's top in pixels."""

    left: float
    right: float
    low: float
    high: float
    top: int

    @property
    def height(self) -> int:
        return HEIGHT + self.top - TOP

    @property
    def floor(self) -> int:
        return self.height - BOTTOM

    def x(self, intensity: float) -> str:
        return f"{_within(self.left, intensity, self.right) * 100:.2f}%"

    def y(self, speed: float) -> str:
        return f"{self.floor - _within(self.low, speed, self.high) * (self.floor - self.top):.1f}"


def _within(low: float, value: float, high: float) -> float:
    """Where a value stands between two on a logarithmic axis, 0 to 1."""
    return min(1.0, max(0.0, math.log(max(value, low) / low) / math.log(high / low)))


def _axes(listed: Sequence[Ceiling], points: Sequence[Point], top: int) -> _Axes:
    peak = max((c.per_s for c in listed if not c.bandwidth), default=1.0)
    widths = [c.per_s for c in listed if c.bandwidth] or [peak]
    xs = [p.intensity for p in points] + [peak / w for w in widths]
    left, right = min(xs) / 3, max(xs) * 10
    speeds = [p.flops_per_s for p in points] + [peak * DEEPEST ** (3 / 7)]
    high = max(peak, *speeds) * 1.15
    return _Axes(left, right, max(min(speeds) / 2, high * DEEPEST), high, top)


def _grid(axes: _Axes) -> Iterator[str]:
    for value in _decades(axes.left, axes.right):
        x = axes.x(value)
        yield f'<line class="grid" x1="{x}" x2="{x}" y1="{axes.top}" y2="{axes.floor}"/>'
    for value in _decades(axes.low, axes.high):
        y = axes.y(value)
        yield f'<line class="grid" x1="0" x2="100%" y1="{y}" y2="{y}"/>'
    yield f'<line class="axis" x1="0" x2="100%" y1="{axes.floor}" y2="{axes.floor}"/>'


def _ticks(axes: _Axes) -> Iterator[str]:
    for value in _decades(axes.left, axes.right):
        yield f'<text class="tick" x="{axes.x(value)}" y="{axes.floor + 15}" text-anchor="middle">{value:g}</text>'
    for value in _decades(axes.low, axes.high):
        yield f'<text class="tick" x="4" y="{float(axes.y(value)) - 4:.1f}">{rate(value, "FLOP/s")}</text>'
    yield f'<text class="tick" x="100%" y="{axes.floor + 31}" text-anchor="end" dx="-4">FLOP per byte</text>'


def _decades(low: float, high: float) -> list[float]:
    """The powers of ten between two numbers, clear of both ends; every second one where they are many."""
    powers = [p for p in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
              if 0.03 < _within(low, 10.0**p, high) < 0.97]  # fmt: skip
    return [10.0**p for p in powers[:: 1 + len(powers) // 8]]


def _roofs(axes: _Axes, listed: Sequence[Ceiling]) -> Iterator[str]:
    """Slanted lines of bandwidth up to the highest ceiling of the profile's dtype, level ones of compute."""
    levels, computes = [c for c in listed if c.bandwidth], [c for c in listed if not c.bandwidth]
    peak = computes[0].per_s if computes else axes.high
    widest = levels[0].per_s if levels else peak / axes.left
    spoken_at = -1.0
    for i, level in enumerate(levels):
        start = max(axes.left, axes.low / level.per_s)
        ridge = peak / level.per_s
        yield (
            f'<line class="roof level{i}" x1="{axes.x(start)}" y1="{axes.y(start * level.per_s)}"'
            f' x2="{axes.x(ridge)}" y2="{axes.y(peak)}"><title>{escape(str(level))}</title></line>'
        )
        at = max(_within(axes.left, ridge, axes.right), spoken_at + 0.07)  # labels that would touch move on
        spoken_at = at
        y = float(axes.y(peak)) - 7
        yield f'<text class="label" x="{at * 100:.2f}%" y="{y:.1f}" text-anchor="middle">{escape(level.name)}</text>'
    for i, compute in enumerate(computes):
        height, name = axes.y(compute.per_s), escape(str(compute))
        label = name if i else rate(compute.per_s, "FLOP/s")
        yield (
            f'<line class="roof {"other" if i else "peak"}" x1="{axes.x(compute.per_s / widest)}" x2="100%"'
            f' y1="{height}" y2="{height}"><title>{name}</title></line>'
            f'<text class="label" x="100%" dx="-4" y="{float(height) - 7:.1f}" text-anchor="end">{label}</text>'
        )


def _dots(axes: _Axes, points: Sequence[Point]) -> Iterator[str]:
    """The largest first, so that no dot hides a smaller one."""
    order = sorted(range(len(points)), key=lambda i: -points[i].share)
    for p in (points[i] for i in order):
        radius = 2.5 + 14 * math.sqrt(max(0.0, min(1.0, p.share)))
        title = f"<title>{escape(p.title)}</title>" if p.title else ""
        yield (
            f'<circle class="dot g{p.group}" data-point="{escape(p.name)}" cx="{axes.x(p.intensity)}"'
            f' cy="{axes.y(p.flops_per_s)}" r="{radius:.1f}">{title}</circle>'
        )


STYLE = """
:root{color-scheme:light dark;--ink:#1b2330;--muted:#5b6675;--line:#e2e6ec;--paper:#fff;--accent:#2563a8}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ee;--muted:#98a3b3;--line:#2a323d;--paper:#14181e;--accent:#6aa9ee}}
svg{background:var(--paper);font:12px system-ui,sans-serif}
.grid{stroke:var(--line)}.axis{stroke:var(--muted)}.tick{fill:var(--muted);font-size:11px}
.roof{stroke:var(--ink);stroke-width:1.75}.other{stroke-dasharray:5 4;stroke:var(--muted)}
.label,.key{fill:var(--ink)}.head{font-weight:600}
.label,.tick{paint-order:stroke;stroke:var(--paper);stroke-width:3px}
.dot{fill:var(--accent);fill-opacity:.6}
"""
