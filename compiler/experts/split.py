"""How an expert's tokens are divided among its copies: as evenly over the devices as the copies allow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

_WHOLE = 1 << 29  # all load in whole units: what the flow counts in, at most 2^31


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """parts: f64 [devices, slots a device], the load that each copy takes. level: f64 [devices], the sum of each.

    group: i64 [devices]: devices of one group have one level and share load with no other; 0 is the fullest.
    """

    parts: np.ndarray
    level: np.ndarray
    group: np.ndarray

    @property
    def fullest(self) -> float:
        return float(self.level.max())


def copies_of(assignment: np.ndarray, experts: int) -> np.ndarray:
    """i64 [experts]: how many devices hold each."""
    return np.bincount(assignment.ravel(), minlength=experts)


def split(assignment: np.ndarray, loads: np.ndarray) -> Split:
    """The split whose levels, sorted from the fullest down, are the least in that order of all splits.

    All devices take the same where a flow can do that. Where it cannot, the least cut names a group of devices whose
    experts lie nowhere else and are too much for them; they and the others are then split each for themselves.

    Shapes: assignment i64 [devices, slots a device], no expert twice on one; loads f64 [experts].
    Source: Fujishige 1980, "Lexicographically Optimal Base of a Polymatroid"; the flow is Dinic's.
    """
    loads = np.asarray(loads, np.float64)
    copies = copies_of(assignment, len(loads))
    if (copies <= 1).all():
        parts = loads[assignment]
        return _alone(parts)
    total = loads.sum()
    scale = _WHOLE / total if total > 0 else 0.0
    units = np.floor(loads * scale).astype(np.int64)
    found = _Levels(assignment, units)
    found.divide(np.arange(len(assignment)), np.unique(assignment))
    taken = np.maximum(found.parts, 0).astype(np.float64)
    sums = np.zeros(len(loads))
    np.add.at(sums, assignment, taken)
    share = np.where(sums > 0, loads / np.where(sums > 0, sums, 1.0), 0.0)
    parts = taken * share[assignment]
    idle = (sums == 0) & (loads > 0)  # too little for one unit: the first copy takes it
    for expert in np.flatnonzero(idle):
        device, slot = np.argwhere(assignment == expert)[0]
        parts[device, slot] = loads[expert]
    return Split(parts, parts.sum(1), found.group)


def excess(assignment: np.ndarray, loads: np.ndarray, goal: float) -> float:
    """The least load that does not fit under `goal` on each device, in the unit of the loads, however it is split."""
    scale = _WHOLE / loads.sum()
    units = np.floor(loads * scale).astype(np.int64)
    flow = _Flow(assignment, units, np.arange(len(assignment)), np.arange(len(loads)), int(goal * scale))
    return flow.left / scale


def _alone(parts: np.ndarray) -> Split:
    level = parts.sum(1)
    group = np.empty(len(level), np.int64)
    group[np.argsort(-level, kind="stable")] = np.arange(len(level))
    return Split(parts, level, group)


class _Levels:
    """The parts in units, found group by group."""

    def __init__(self, assignment: np.ndarray, units: np.ndarray) -> None:
        self.assignment, self.units = assignment, units
        self.parts = np.zeros(assignment.shape, np.int64)
        self.group = np.zeros(len(assignment), np.int64)
        self.groups = 0

    def divide(self, devices: np.ndarray, experts: np.ndarray) -> None:
        """Splits these experts over these devices, the fullest group first."""
        todo = [(devices, experts)]
        while todo:
            devices, experts = todo.pop()
            flow = _Flow(self.assignment, self.units, devices, experts)
            if flow.fits:
                self.parts[devices] += flow.parts
                self.group[devices] = self.groups
                self.groups += 1
            else:
                over, heavy = flow.cut()
                todo.append((devices[~over], experts[~heavy]))
                todo.append((devices[over], experts[heavy]))


class _Flow:
    """One flow from experts to devices that may each take `cap`, the mean where none is given."""

    def __init__(
        self, assignment: np.ndarray, units: np.ndarray, devices: np.ndarray, experts: np.ndarray, cap: int = 0
    ) -> None:
        from scipy.sparse.csgraph import maximum_flow

        total = int(units[experts].sum())
        n, m = len(experts), len(devices)
        of = np.full(len(units), -1)
        of[experts] = np.arange(n)
        inner = of[assignment[devices]]
        self.at, self.slot = np.nonzero(inner >= 0)
        self.expert, self.shape, self.source = inner[self.at, self.slot], (m, assignment.shape[1]), n + m
        heads = np.concatenate([self.expert, n + np.arange(m), np.full(n, n + m)])
        tails = np.concatenate([n + self.at, np.full(m, n + m + 1), np.arange(n)])
        sizes = np.concatenate([np.full(len(self.at), _WHOLE), np.full(m, cap or -(-total // m)), units[experts]])
        self.graph = _matrix(heads, tails, sizes, n + m + 2)
        self.result = maximum_flow(self.graph, n + m, n + m + 1)
        self.left = total - int(self.result.flow_value)

    @property
    def fits(self) -> bool:
        return not self.left

    @property
    def parts(self) -> np.ndarray:
        """i64 [devices, slots]: what runs to each copy."""
        parts = np.zeros(self.shape, np.int64)
        n = self.source - self.shape[0]
        parts[self.at, self.slot] = np.asarray(self.result.flow[self.expert, n + self.at]).ravel()
        return parts

    def cut(self) -> tuple[np.ndarray, np.ndarray]:
        """(bool [devices], bool [experts]): those on the side of the least cut that is too full."""
        from scipy.sparse.csgraph import breadth_first_order

        rest = self.graph - self.result.flow  # flow is antisymmetric: what runs forward may be taken back
        rest.data[rest.data < 0] = 0
        rest.eliminate_zeros()
        reached = np.zeros(self.graph.shape[0], bool)
        reached[breadth_first_order(rest, self.source, return_predecessors=False)] = True
        n = self.source - self.shape[0]
        return reached[n : self.source], reached[:n]


def _matrix(heads: np.ndarray, tails: np.ndarray, sizes: np.ndarray, nodes: int) -> Any:
    from scipy.sparse import csr_array

    kept = sizes > 0
    heads, tails, sizes = heads[kept], tails[kept], sizes[kept].astype(np.int32)
    order = np.lexsort((tails, heads))
    starts = np.zeros(nodes + 1, np.int32)
    np.cumsum(np.bincount(heads, minlength=nodes), out=starts[1:])
    return csr_array((sizes[order], tails[order].astype(np.int32), starts), shape=(nodes, nodes))
