"""A run as nested spans of time: the entry, the modules one inside the other, the node, its kernel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..modules import paths_to, real_nodes
from ..profiles import NodeRow, Profile

ENTRY, MODULE, NODE, KERNEL = "entry", "module", "node", "kernel"


@dataclass(frozen=True, slots=True)
class Span:
    """kind: one of ENTRY, MODULE, NODE, KERNEL. name: the model, a module's path, a node's key, a kernel's name.

    depth: 0 for the entry, 1 for the modules below it, and so on. row: of a node, and of its kernel.
    """

    kind: str
    name: str
    depth: int
    start_ms: float
    end_ms: float
    row: NodeRow | None = None

    @property
    def ms(self) -> float:
        return self.end_ms - self.start_ms


def placed(profile: Profile) -> tuple[tuple[NodeRow, float], ...]:
    """(node, when it begins) in the order in which they ran.

    A node lasts its median and begins at its median start, or when the one before it ends where that is later: medians
    of different runs may overlap by a little, nodes never do.
    """
    found, now = [], 0.0
    for row in sorted(real_nodes(profile), key=lambda n: n.start_ms):
        start = max(row.start_ms, now)
        found.append((row, start))
        now = start + row.measured_ms
    return tuple(found)


def spans(profile: Profile) -> tuple[Span, ...]:
    """All spans, each before those inside it. The entry ends with its last node, or after `total_ms` if that is later.

    A module has one span for each time that the run enters it, from the first of its nodes there to the last.
    """
    rows = placed(profile)
    end = max((start + row.measured_ms for row, start in rows), default=0.0)
    found = [Span(ENTRY, profile.model, 0, 0.0, max(end, profile.total_ms))]
    for i, (row, start) in enumerate(rows):
        before = rows[i - 1][0].module if i else None
        for depth, path in _entered(before, row.module):
            found.append(Span(MODULE, path, depth, start, _leaves(rows, i, path)))
        depth = row.module.count(".") + 2 if row.module else 1
        end = start + row.measured_ms
        found.append(Span(NODE, row.name, depth, start, end, row))
        if row.kernel:
            found.append(Span(KERNEL, row.kernel, depth + 1, start, end, row))
    return tuple(found)


def _entered(before: str | None, module: str) -> Iterator[tuple[int, str]]:
    """The paths that a node is in and the node before it is not."""
    open_ = set() if before is None else set(paths_to(before))
    yield from ((d, p) for d, p in enumerate(paths_to(module)) if p and p not in open_)


def _leaves(rows: tuple[tuple[NodeRow, float], ...], first: int, path: str) -> float:
    """When the run leaves a module that it entered at `first`."""
    row, start = rows[first]
    end = start + row.measured_ms
    for row, start in rows[first + 1 :]:
        if row.module != path and not row.module.startswith(f"{path}."):
            break
        end = start + row.measured_ms
    return end
