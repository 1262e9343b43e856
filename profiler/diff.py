"""What changed between two profiles: the whole, each module, each node."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..ir.diagnostics import LoadError, TundishError
from .modules import module_rows, paths_to, real_nodes
from .profiles import NodeRow, Profile

SLOWER, FASTER, SAME = "slower", "faster", "same"
# What two profiles must share for their times to be about the same thing.
SHARED = ("model", "machine", "backend", "target", "phase", "precision", "threads", "sizes")


@dataclass(frozen=True, slots=True)
class Change:
    """One thing in two profiles.

    spread_ms: half of both IQRs together: medians that are no farther apart may be of equal runs.
    change_percent: of before_ms; None where that is zero.
    verdict: SAME unless the change exceeds both the threshold and the spread.
    """

    name: str
    op: str
    module: str
    source: str
    before_ms: float
    after_ms: float
    spread_ms: float
    change_percent: float | None
    verdict: str

    @property
    def change_ms(self) -> float:
        return self.after_ms - self.before_ms

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "change_ms": self.change_ms}


@dataclass(frozen=True, slots=True)
class Diff:
    """Two profiles, `after` held against `before`.

    modules: every path that both have; nodes: every name that both have; both with the most time lost first.
    added, removed: nodes that only one has. differ: what the profiles do not share -> its two values.
    """

    threshold_percent: float
    total: Change
    unattributed: Change
    peak_bytes: Mapping[str, int | None]
    modules: tuple[Change, ...]
    nodes: tuple[Change, ...]
    added: tuple[NodeRow, ...]
    removed: tuple[NodeRow, ...]
    differ: Mapping[str, tuple[Any, Any]]

    @property
    def warning(self) -> str:
        """One line on what makes the two hard to compare; "" where nothing does."""
        told = [f"{name} ({_plain(a)} | {_plain(b)})" for name, (a, b) in self.differ.items()]
        return f"the two profiles are not of the same thing: they differ in {', '.join(told)}" if told else ""

    def slower_by(self, percent: float) -> bool:
        """Whether the whole run got slower by more than that, and by more than its spread."""
        lost = self.total.change_percent
        return lost is not None and lost > percent and self.total.change_ms > self.total.spread_ms

    def to_json(self) -> dict[str, Any]:
        return {
            "threshold_percent": self.threshold_percent, "warning": self.warning or None,
            "total": self.total.to_json(), "unattributed": self.unattributed.to_json(),
            "peak_bytes": dict(self.peak_bytes),
            "modules": [c.to_json() for c in self.modules], "nodes": [c.to_json() for c in self.nodes],
            "added": [n.to_json() for n in self.added], "removed": [n.to_json() for n in self.removed],
        }  # fmt: skip


def diff(before: Profile, after: Profile, threshold_percent: float = 5.0) -> Diff:
    """Holds one profile against another, nodes matched by name. Raises: LoadError where names are not unique."""
    one, other = _by_name(before), _by_name(after)
    judge = _Judge(threshold_percent)
    nodes = [_node(one[name], other[name], judge) for name in one if name in other]
    lost = _half(before.iqr_ms, after.iqr_ms)
    peaks = {"before": before.peak_bytes.get("measured"), "after": after.peak_bytes.get("measured")}
    return Diff(
        threshold_percent, judge("total", before.total_ms, after.total_ms, lost),
        judge("unattributed", before.unattributed_ms, after.unattributed_ms, lost), peaks,
        _ranked(_modules(before, after, judge)), _ranked(nodes),
        tuple(n for name, n in other.items() if name not in one),
        tuple(n for name, n in one.items() if name not in other),
        {k: (a, b) for k in SHARED if (a := getattr(before, k)) != (b := getattr(after, k))},
    )  # fmt: skip


def _node(before: NodeRow, after: NodeRow, judge: _Judge) -> Change:
    spread = _half(before.iqr_ms, after.iqr_ms)
    return judge(after.name, before.measured_ms, after.measured_ms, spread, op=after.op, module=after.module,
                 source=after.source)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Judge:
    threshold_percent: float

    def __call__(
        self, name: str, before: float, after: float, spread: float, *, op: str = "", module: str = "", source: str = ""
    ) -> Change:
        percent = 100 * (after - before) / before if before else None
        beyond = percent is None or abs(percent) > self.threshold_percent
        moved = after != before and abs(after - before) > spread and beyond
        verdict = (SLOWER if after > before else FASTER) if moved else SAME
        return Change(name, op, module, source, before, after, spread, percent, verdict)


def _modules(before: Profile, after: Profile, judge: _Judge) -> Iterable[Change]:
    """A module's spread is that of its nodes as if they varied on their own: the root of the sum of squares."""
    one, other = ({r.path: r for r in module_rows(p)} for p in (before, after))
    varied = _varied(before), _varied(after)
    for path, row in one.items():
        if path and path in other:
            spread = _half(*(math.sqrt(v[path]) for v in varied))
            now = other[path]
            yield judge(path, row.measured_ms, now.measured_ms, spread, module=path, source=now.source)


def _varied(profile: Profile) -> dict[str, float]:
    """Module path -> the sum of its nodes' squared IQRs."""
    found: dict[str, float] = {}
    for node in real_nodes(profile):
        for path in paths_to(node.module):
            found[path] = found.get(path, 0.0) + node.iqr_ms**2
    return found


def _by_name(profile: Profile) -> dict[str, NodeRow]:
    found: dict[str, NodeRow] = {}
    for node in real_nodes(profile):
        if node.name in found:
            raise LoadError("two nodes of a profile bear one name", found=node.name[:200])
        found[node.name] = node
    return found


def _half(one_iqr: float, other_iqr: float) -> float:
    return (one_iqr + other_iqr) / 2


def _ranked(changes: Iterable[Change]) -> tuple[Change, ...]:
    return tuple(sorted(changes, key=lambda c: (-c.change_ms, c.name)))


def _plain(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)


def read_percent(text: str | float, what: str) -> float:
    """`5%`, `5` or 5.0 as 5.0. Raises: TundishError on what is no percentage."""
    try:
        value = float(text.strip().removesuffix("%")) if isinstance(text, str) else float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise TundishError(f"{what} takes a percentage", found=str(text), hint="5%")
    return value
