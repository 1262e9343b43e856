"""Experts to devices, with copies: who lies where, how tokens are split, how far that is from the best there can be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...ir.diagnostics import TundishError
from .bound import lower_bound
from .split import copies_of, split
from .swaps import exchanged, mended
from .wrap import wrapped

CLOSE = 1e-3  # of the bound: nearer than that nothing is looked for
WORSE = 5e-3  # of a fresh placement's fullest level: what keeping weights where they are may cost


@dataclass(frozen=True, slots=True)
class Fleet:
    """What experts are placed on: devices with slots / devices places each, in `nodes` nodes of equal size.

    groups: experts in so many equal runs, each to lie within one node, where the router limits a token's groups.
    1: anywhere. Raises: TundishError on numbers that no placement has.
    """

    devices: int
    slots: int
    nodes: int = 1
    groups: int = 1

    def __post_init__(self) -> None:
        for name in ("devices", "slots", "nodes", "groups"):
            if getattr(self, name) < 1:
                raise TundishError(f"a placement has at least one of {name}", found=str(getattr(self, name)))
        _divides("devices", self.devices, "slots", self.slots)
        _divides("nodes", self.nodes, "devices", self.devices)
        if self.groups > 1:
            _divides("nodes", self.nodes, "groups", self.groups)

    @property
    def each(self) -> int:
        return self.slots // self.devices

    def check(self, experts: int) -> None:
        """Raises: TundishError where that many experts do not fit, or more than all have a copy on every device."""
        if experts < 1:
            raise TundishError("there are no experts to place", found=f"{experts} experts")
        if experts > self.slots:
            raise TundishError(f"{experts} experts do not fit into {self.slots} slots",
                               found=f"{self.each} slots on each of {self.devices} devices",
                               hint=f"at least {-(-experts // self.devices) * self.devices} slots")  # fmt: skip
        if self.each > experts:
            raise TundishError(f"{self.each} slots a device are more than the {experts} experts, and no device holds "
                               "two copies of one", hint=f"at most {experts * self.devices} slots")  # fmt: skip
        if self.groups > 1:
            _divides("groups", self.groups, "experts", experts)
            if self.each > experts // self.nodes:
                raise TundishError(f"{self.each} slots a device are more than the {experts // self.nodes} experts of a "
                                   "node", hint="fewer slots or fewer nodes")  # fmt: skip


def _divides(one: str, n: int, other: str, m: int) -> None:
    if m % n:
        raise TundishError(f"{other} are a multiple of {one}", found=f"{m} {other}, {n} {one}")


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """assignment: i64 [devices, slots a device], the expert in each slot. parts: f64, the load that each copy takes.

    bound: no placement has a fullest device below it. puts: slots that load an expert which the device had not before.
    """

    loads: np.ndarray
    assignment: np.ndarray
    parts: np.ndarray
    bound: float
    puts: int

    @property
    def level(self) -> np.ndarray:
        return np.asarray(self.parts.sum(1))

    @property
    def mean(self) -> float:
        return float(self.loads.sum()) / len(self.assignment)

    @property
    def max_over_mean(self) -> float:
        return float(self.level.max()) / self.mean if self.mean > 0 else 1.0

    @property
    def bound_over_mean(self) -> float:
        return self.bound / self.mean if self.mean > 0 else 1.0

    @property
    def copies(self) -> np.ndarray:
        return copies_of(self.assignment, len(self.loads))

    def on(self, loads: np.ndarray) -> Placement:
        """The same experts in the same slots under other loads, only the split made anew: nothing is moved."""
        return _placement(self.assignment, loads, self.bound * float(loads.sum()) / float(self.loads.sum()), 0)


def place(
    loads: np.ndarray, fleet: Fleet, previous: np.ndarray | None = None, most_puts: int | None = None
) -> Placement:
    """Places experts by their loads [experts], any unit.

    previous:  the assignment that lies on the devices now. Its experts stay where they are as far as that costs at
      most WORSE of a fresh placement's balance; `most_puts` limits the slots that are loaded whatever that costs.
    Raises: TundishError on loads or numbers that cannot be.
    """
    loads = checked_loads(loads)
    fleet.check(len(loads))
    fresh = _fresh(loads, fleet)
    if previous is None:
        return fresh
    _check_assignment(previous, len(loads), fleet)
    goal = float(fresh.level.max()) * (1 + WORSE)
    kept = previous
    if fleet.groups == 1:
        kept = mended(previous, loads, goal, most_puts=most_puts)
    elif split(previous, loads).fullest > goal:
        kept = _mended_by_node(previous, loads, fleet, goal, most_puts)
    found = _placement(kept, loads, fresh.bound, puts_of(previous, kept))
    settled = matched(fresh.assignment, previous, fleet.nodes if fleet.groups > 1 else 1)
    puts = puts_of(previous, settled)
    better = found.level.max() > goal * (1 + WORSE) and fresh.level.max() < found.level.max()
    if better and puts <= (fleet.slots if most_puts is None else most_puts):
        return _placement(settled, loads, fresh.bound, puts)
    return found


def _fresh(loads: np.ndarray, fleet: Fleet) -> Placement:
    bound = lower_bound(loads, fleet.devices, fleet.slots)
    if fleet.groups == 1:
        assignment = _even(loads, fleet.devices, fleet.each, bound)
    else:
        nodes, bound = _by_node(loads, fleet, bound)
        parts = [
            mine[_even(loads[mine], fleet.devices // fleet.nodes, fleet.each,
                       lower_bound(loads[mine], fleet.devices // fleet.nodes, fleet.slots // fleet.nodes))]
            for mine in nodes
        ]  # fmt: skip
        assignment = np.concatenate(parts)
    return _placement(assignment, loads, bound, fleet.slots)


def _placement(assignment: np.ndarray, loads: np.ndarray, bound: float, puts: int) -> Placement:
    return Placement(loads, assignment, split(assignment, loads).parts, bound, puts)


def _even(loads: np.ndarray, devices: int, each: int, bound: float) -> np.ndarray:
    """Experts [devices, each] as near to the bound as is found."""
    rows = wrapped(loads, devices, each, devices * each - len(loads))
    assignment = _all_slots([r.experts for r in rows], loads, each)
    goal = bound * (1 + CLOSE)
    assignment = exchanged(assignment, loads, goal)
    return mended(assignment, loads, goal, steps=40)


def _all_slots(rows: list[list[int]], loads: np.ndarray, each: int) -> np.ndarray:
    """Fills what is free with further copies, each of the expert that has most load for its copies."""
    copies = np.bincount([e for row in rows for e in row], minlength=len(loads))
    for row in sorted(rows, key=len):
        while len(row) < each:
            share = loads / copies
            share[row] = -1.0
            best = int(np.argmax(share))
            row.append(best)
            copies[best] += 1
    return np.array(rows, np.int64)


def _by_node(loads: np.ndarray, fleet: Fleet, bound: float) -> tuple[list[np.ndarray], float]:
    """(the experts of each node, the bound that groups within nodes have): groups to nodes as evenly as is found."""
    groups = np.arange(len(loads)).reshape(fleet.groups, -1)
    weights = loads[groups].sum(1)
    each = fleet.groups // fleet.nodes
    rows = _even(weights, fleet.nodes, each, lower_bound(weights, fleet.nodes, fleet.groups))
    inside = lower_bound(weights, fleet.nodes, fleet.groups) / (fleet.devices // fleet.nodes)
    return [groups[row].ravel() for row in rows], max(bound, inside)


def _mended_by_node(
    previous: np.ndarray, loads: np.ndarray, fleet: Fleet, goal: float, most_puts: int | None
) -> np.ndarray:
    """Each node's devices for themselves, so that no group leaves its node; the fullest node first."""
    per, kept, left = fleet.devices // fleet.nodes, previous.copy(), most_puts
    order = sorted(range(fleet.nodes), key=lambda n: -split(previous, loads).level[n * per : (n + 1) * per].max())
    for node in order:
        mine = slice(node * per, (node + 1) * per)
        experts, inner = np.unique(kept[mine], return_inverse=True)
        local = inner.reshape(per, -1)
        then = mended(local, loads[experts], max(goal, float(loads[experts].sum()) / per), most_puts=left)
        left = None if left is None else left - puts_of(local, then)
        kept[mine] = experts[then]
    return kept


def puts_of(before: np.ndarray, after: np.ndarray) -> int:
    """How many slots load an expert that the device did not hold."""
    return sum(len(set(new.tolist()) - set(old.tolist())) for old, new in zip(before, after, strict=True))


def matched(assignment: np.ndarray, previous: np.ndarray, nodes: int = 1) -> np.ndarray:
    """The rows of an assignment given to the devices that hold most of them already, those of a node to one node."""
    from scipy.optimize import linear_sum_assignment

    shared = (assignment[:, None, :, None] == previous[None, :, None, :]).any(3).sum(2)
    per = len(assignment) // nodes
    blocks = shared.reshape(nodes, per, nodes, per).swapaxes(1, 2)
    best = [[linear_sum_assignment(-blocks[i, j]) for j in range(nodes)] for i in range(nodes)]
    kept = np.array([[blocks[i, j][best[i][j]].sum() for j in range(nodes)] for i in range(nodes)])
    settled = np.empty_like(assignment)
    for i, j in zip(*linear_sum_assignment(-kept), strict=True):
        rows, devices = best[i][j]
        settled[j * per + devices] = assignment[i * per + rows]
    return settled


def checked_loads(loads: np.ndarray) -> np.ndarray:
    """Loads as f64. Raises: TundishError on what is no load."""
    loads = np.asarray(loads)
    if loads.ndim != 1 or loads.dtype.kind not in "iuf":
        raise TundishError("loads are one number for each expert", found=f"{loads.dtype} {list(loads.shape)}")
    loads = loads.astype(np.float64)
    if not np.isfinite(loads).all() or (loads < 0).any():
        bad = int(np.flatnonzero(~np.isfinite(loads) | (loads < 0))[0])
        raise TundishError("a load is a number that is not negative", found=f"{loads[bad]} for expert {bad}")
    return loads if loads.sum() > 0 else np.ones_like(loads)


def _check_assignment(assignment: np.ndarray, experts: int, fleet: Fleet) -> None:
    """Raises: TundishError where an earlier placement is not of these devices and experts."""
    wanted = (fleet.devices, fleet.each)
    if assignment.shape != wanted:
        raise TundishError("the earlier placement is of other devices",
                           found=f"{list(assignment.shape)}, not {list(wanted)} slots")  # fmt: skip
    if assignment.min() < 0 or assignment.max() >= experts or len(np.unique(assignment)) != experts:
        found = f"{len(np.unique(assignment))} experts up to {assignment.max()}, not {experts}"
        raise TundishError("the earlier placement is of other experts", found=found)
    if any(len(set(row)) < len(row) for row in assignment.tolist()):
        raise TundishError("the earlier placement has two copies of an expert on one device")
