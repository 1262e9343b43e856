"""A profile as one HTML page that needs nothing else: no server, no network, no other file."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from ...ir.weight_file import write_whole
from ..modules import module_rows, real_nodes, roofline_share
from ..profiles import Profile
from .experts import experts_section
from .roofline import Ceiling, ceilings, points, roofline_svg
from .table import rate, size
from .terminal import share, short
from .timeline import MODULE, placed, spans

SCRIPTS = ("base.js", "icicle.js", "timeline.js", "table.js", "main.js")  # in the order in which they run
COLOURS = 8  # ops with a colour of their own; the others share one
_HOLE = re.compile(r"\{\{(\w+)\}\}")


def write(profile: Profile, path: Path) -> None:
    """Raises: BuildError where the file cannot be written."""
    write_whole(path, page(profile).encode())


def page(profile: Profile) -> str:
    """The page's text. Whatever a profile's texts hold is shown as text and never read as markup."""
    script = "".join(_part(name) for name in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = {
        "title": escape(f"{profile.model}: {short(profile.total_ms)} ms"),
        "policy": f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        "style": _part("page.css"), "script": script, "data": _data(profile), "model": escape(profile.model),
        "asked": escape(" · ".join(_asked(profile))), "metrics": "".join(_metrics(profile)),
        "about": "".join(_about(profile)), "roofline": _roofline(profile),
        "experts": experts_section(profile),
    }  # fmt: skip
    return _HOLE.sub(lambda hole: parts[hole[1]], _part("page.html"))


def _part(name: str) -> str:
    return files(__package__).joinpath("page", name).read_text(encoding="utf-8")


# -- the head ------------------------------------------------------------------------------------------


def _asked(profile: Profile) -> list[str]:
    sizes = [f"{name} {value}" for name, value in profile.sizes.items()]
    threads = f"{profile.threads} thread{'s' * (profile.threads != 1)}"
    return [w for w in (profile.phase, *sizes, profile.precision, threads, profile.backend, profile.target) if w]


def _metrics(profile: Profile) -> Iterator[str]:
    yield _metric("Measured", f"{short(profile.total_ms)} ms", f"± {profile.iqr_ms / 2:.2g} ms, {profile.repeats} runs")
    predicted = profile.predicted_ms
    if predicted is None:
        yield _metric("Predicted", "unknown", "no prediction")
    else:
        off = f"{predicted / profile.total_ms - 1:+.1%} of measured" if profile.total_ms else ""
        yield _metric("Predicted", f"{short(predicted)} ms", off, kind="predicted")
    lost = share(profile.unattributed_ms, profile.total_ms)
    yield _metric("Unattributed", lost, f"{short(profile.unattributed_ms)} ms in no node")
    yield _speed(profile)
    peak = profile.peak_bytes
    measured, planned = (None if peak.get(k) is None else size(peak[k] or 0) for k in ("measured", "predicted"))
    yield _metric("Peak memory", measured or "unknown", f"{planned or 'unknown'} predicted")
    over = share(profile.profiled_ms - profile.total_ms, profile.total_ms)
    yield _metric("Cost of profiling", over, "not in the times below")


def _speed(profile: Profile) -> str:
    flops = sum(n.hardware_flops for n in real_nodes(profile))
    reached = flops / (profile.total_ms / 1e3) if profile.total_ms else 0.0
    peak = profile.roofs.peak_flops_per_s if profile.roofs else 0.0
    percent, _ = roofline_share(real_nodes(profile))
    beside = [f"{share(reached, peak)} of peak" if peak else "", f"{percent:.0f}% of roofline" if percent else ""]
    return _metric("Speed", rate(reached, "FLOP/s"), ", ".join(b for b in beside if b))


def _metric(name: str, value: str, beside: str, kind: str = "") -> str:
    number, _, unit = value.partition(" ")
    shown = f"{escape(number)}<small> {escape(unit)}</small>" if unit else escape(number)
    mark = f' class="{kind}"' if kind else ""
    return f"<div{mark}><dt>{escape(name)}</dt><dd>{shown}</dd><dd>{escape(beside)}</dd></div>"


def _about(profile: Profile) -> Iterator[str]:
    versions = ", ".join(f"{name} {version}" for name, version in profile.versions.items())
    told = {"Machine": profile.machine, "Calibration": profile.calibration, "Taken": profile.date, "With": versions}
    for name, value in told.items():
        if value:
            yield f"<li><b>{name}</b> {escape(value)}</li>"
    yield from (f'<li class="note">{escape(note)}</li>' for note in profile.notes if note != profile.calibration)


# -- the charts ----------------------------------------------------------------------------------------


def _roofline(profile: Profile) -> str:
    if profile.roofs is None:
        return '<p class="empty">The machine is not calibrated: <code>tundish calibrate</code> measures its roofs.</p>'
    drawn = points(profile, _groups(profile))
    left = len(real_nodes(profile)) - len(drawn)
    said = f'<p class="hint">{left} nodes do no FLOPs and have no point.</p>' if left else ""
    key = "".join(f"<li>{_named(c)}</li>" for c in ceilings(profile.roofs))
    return f'{roofline_svg(profile.roofs, drawn)}<ul class="ceilings">{key}</ul>{said}'


def _named(ceiling: Ceiling) -> str:
    value = rate(ceiling.per_s, "B/s" if ceiling.bandwidth else "FLOP/s")
    return f"<span>{escape(ceiling.name)}</span> {value}"


def _groups(profile: Profile) -> dict[str, int]:
    """Op -> colour: those that take the most time have one of their own, the last is for all others."""
    return {op: min(i, COLOURS) for i, (op, _) in enumerate(_by_op(profile))}


def _by_op(profile: Profile) -> list[tuple[str, float]]:
    times: dict[str, float] = {}
    for n in real_nodes(profile):
        times[n.op] = times.get(n.op, 0.0) + n.measured_ms
    return sorted(times.items(), key=lambda item: (-item[1], item[0]))


# -- the data that the scripts draw from ---------------------------------------------------------------

NODE_COLUMNS = (
    "name", "op", "module", "source", "kernel", "measured_ms", "iqr_ms", "predicted_ms", "predicted_low_ms",
    "predicted_high_ms", "flops", "hardware_flops", "read_bytes", "written_bytes", "roof", "percent_of_roof",
    "flops_per_s", "bytes_per_s",
)  # fmt: skip
MODULE_COLUMNS = (
    "path", "depth", "source", "nodes", "measured_ms", "self_ms", "predicted_ms", "hardware_flops", "read_bytes",
    "written_bytes", "roof", "percent_of_roof",
)  # fmt: skip


def _data(profile: Profile) -> str:
    """JSON without a `<`, so that no text can end the element that it stands in."""
    starts = {row.name: start for row, start in placed(profile)}
    groups = _groups(profile)
    live = {m.name: m.live_bytes for m in profile.memory}
    data = {
        "model": profile.model, "total_ms": profile.total_ms, "unattributed_ms": profile.unattributed_ms,
        "peak_bytes": dict(profile.peak_bytes),
        "ops": [[op, ms] for op, ms in _by_op(profile)],
        "module_columns": MODULE_COLUMNS,
        "modules": [[_number(getattr(r, c)) for c in MODULE_COLUMNS] for r in module_rows(profile)],
        "node_columns": (*NODE_COLUMNS, "start_ms", "group", "live_bytes"),
        "nodes": [
            [*(_number(getattr(n, c)) for c in NODE_COLUMNS), _number(starts.get(n.name)), groups.get(n.op, COLOURS),
             live.get(n.name)]
            for n in profile.nodes
        ],
        "spans": [
            [s.name, s.depth, _number(s.start_ms), _number(s.end_ms)] for s in spans(profile) if s.kind == MODULE
        ],
    }  # fmt: skip
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _number(value: Any) -> Any:
    """Seven digits of a float: more than a screen or a clock can tell."""
    return float(f"{value:.7g}") if isinstance(value, float) else value
