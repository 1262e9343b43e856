"""A profile by module: the tree of module paths, each with what its nodes cost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .profiles import UNATTRIBUTED, NodeRow, Profile


@dataclass(frozen=True, slots=True)
class ModuleRow:
    """All nodes at or below one module path ("" is the whole model).

    source: where its first node comes from. nodes: how many; self_ms: of those that are in no deeper module.
    predicted_ms: the sum over its nodes, None where any that took time has no prediction.
    percent_of_roof: the nodes' time at their roofs as a share of the time they took, over nodes that have a roof.
    """

    path: str
    depth: int
    source: str
    nodes: int
    measured_ms: float
    self_ms: float
    predicted_ms: float | None
    flops: int
    hardware_flops: int
    read_bytes: int
    written_bytes: int
    roof: str | None
    percent_of_roof: float | None

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]

    def to_json(self) -> dict[str, Any]:
        return {"module": self.path, **{k: getattr(self, k) for k in self.__slots__ if k != "path"}}


def real_nodes(profile: Profile) -> tuple[NodeRow, ...]:
    """The rows that are nodes of the plan: all but what could not be attributed to one."""
    return tuple(n for n in profile.nodes if n.name != UNATTRIBUTED)


def module_rows(profile: Profile) -> tuple[ModuleRow, ...]:
    """Every module path of a profile and every path above one, parents first, siblings in the order they first run."""
    inside: dict[str, list[NodeRow]] = {"": []}
    for node in real_nodes(profile):
        for path in paths_to(node.module):
            inside.setdefault(path, []).append(node)
    below: dict[str, list[str]] = {}
    for path in inside:
        if path:
            below.setdefault(path.rpartition(".")[0], []).append(path)
    return tuple(_row(path, inside[path]) for path in preorder(below))


def paths_to(module: str) -> Iterator[str]:
    """The paths from the root to a module: `a.b` -> "", `a`, `a.b`."""
    yield ""
    parts = module.split(".") if module else []
    for i in range(len(parts)):
        yield ".".join(parts[: i + 1])


def depth_of(path: str) -> int:
    return len(path.split(".")) if path else 0


def preorder(below: dict[str, list[str]]) -> Iterator[str]:
    """Parents first, from the root; `below`: path -> the paths right under it, in order."""
    waiting = [""]
    while waiting:
        path = waiting.pop()
        yield path
        waiting.extend(reversed(below.get(path, ())))


def _row(path: str, nodes: list[NodeRow]) -> ModuleRow:
    share, roof = roofline_share(nodes)
    return ModuleRow(
        path, depth_of(path), nodes[0].source if nodes else "", len(nodes),
        sum(n.measured_ms for n in nodes), sum(n.measured_ms for n in nodes if n.module == path),
        predicted_sum(nodes), sum(n.flops for n in nodes), sum(n.hardware_flops for n in nodes),
        sum(n.read_bytes for n in nodes), sum(n.written_bytes for n in nodes), roof, share,
    )  # fmt: skip


def predicted_sum(nodes: Iterable[NodeRow]) -> float | None:
    """The sum of predictions; None where a node that took time has none, so that a sum never misses a part."""
    total = 0.0
    for node in nodes:
        if node.predicted_ms is None and node.measured_ms:
            return None
        total += node.predicted_ms or 0.0
    return total


def roofline_share(nodes: Iterable[NodeRow]) -> tuple[float | None, str | None]:
    """(percent of roof, the roof under which most of the time is spent) of several nodes together."""
    at_roof, measured, by_roof = 0.0, 0.0, dict[str, float]()
    for node in nodes:
        if node.percent_of_roof is not None:
            at_roof += node.measured_ms * node.percent_of_roof
            measured += node.measured_ms
        if node.roof is not None:
            by_roof[node.roof] = by_roof.get(node.roof, 0.0) + node.measured_ms
    return at_roof / measured if measured else None, max(by_roof, key=lambda r: by_roof[r]) if by_roof else None
