"""Exchanges that make a placement more even, each measured by the split that follows it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .split import Split, copies_of, excess, split

_TRIED = 12  # candidates whose split is worked out exactly, of each kind, in each step
_ENOUGH = 1e-9
_LEAST = 1e-3  # of what is above the goal: a change that mends less is none
_KEPT = 0.8  # of what is above the goal: a change that mends so much is taken at once


def exchanged(assignment: np.ndarray, loads: np.ndarray, goal: float, most: int = 1000) -> np.ndarray:
    """Exchanges experts that have one copy between the fullest device and another while that lowers the fullest.

    Parts of experts with several copies stay where the split has them. Ends at a level of `goal`, or after `most`.
    """
    assignment = assignment.copy()
    found = split(assignment, loads)
    parts, level = found.parts.copy(), found.level.copy()
    single = copies_of(assignment, len(loads))[assignment] == 1
    for _ in range(most):
        full = int(np.argmax(level))
        if level[full] <= goal * (1 + _ENOUGH):
            break
        given = parts[full][:, None, None] - parts[None]  # [slots, devices, slots]: what leaves the fullest
        after = np.maximum(level[full] - given, level[None, :, None] + given)
        allowed = single[full][:, None, None] & single[None]
        allowed[:, full] = False
        after = np.where(allowed, after, np.inf)
        slot, device, other = np.unravel_index(int(np.argmin(after)), after.shape)
        if after[slot, device, other] >= level[full] * (1 - _ENOUGH):
            break
        moved = given[slot, device, other]
        for array in (assignment, parts):
            array[full, slot], array[device, other] = array[device, other], array[full, slot]
        level[full] -= moved
        level[device] += moved
    return assignment


@dataclass(frozen=True, slots=True)
class Change:
    """Experts to put into slots: ((device, slot, expert), ...). guess: the fullest level expected of it."""

    puts: tuple[tuple[int, int, int], ...]
    guess: float

    def applied(self, assignment: np.ndarray) -> np.ndarray:
        changed = assignment.copy()
        for device, slot, expert in self.puts:
            changed[device, slot] = expert
        return changed


def mended(
    assignment: np.ndarray, loads: np.ndarray, goal: float, *, most_puts: int | None = None, steps: int = 200
) -> np.ndarray:
    """Changes slots, the change that lowers the fullest group most in each step, until the fullest is at `goal`.

    A change overwrites one copy of an expert that has others, or exchanges two slots. It counts 1 or 2 slots that load
    an expert; `most_puts` of them at most. Of changes of equal gain the one with fewer.
    """
    found, used = split(assignment, loads), 0
    for _ in range(steps):
        if found.fullest <= goal * (1 + _ENOUGH):
            break
        left = None if most_puts is None else most_puts - used
        best = _best(assignment, loads, found, goal, left)
        if best is None:
            break
        assignment = best.applied(assignment)
        found = split(assignment, loads)
        used += len(best.puts)
    return assignment


def _best(
    assignment: np.ndarray, loads: np.ndarray, found: Split, goal: float, left: int | None
) -> Change | None:
    """The change after which least load is above the goal, for each slot it loads."""
    best, before = None, excess(assignment, loads, goal)
    most = _LEAST * before
    for change in _candidates(assignment, loads, found):
        if left is not None and len(change.puts) > left:
            continue
        gain = (before - excess(change.applied(assignment), loads, goal)) / len(change.puts)
        if gain > most:
            best, most = change, gain
        if gain * len(change.puts) > _KEPT * before:
            break
    return best


def _candidates(assignment: np.ndarray, loads: np.ndarray, found: Split) -> Iterator[Change]:
    """The most promising changes between the fullest group and the others, by what they promise for each slot."""
    changes = sorted(_exchanges(assignment, found), key=lambda c: c.guess)[:_TRIED]
    changes += sorted(_overwrites(assignment, loads, found), key=lambda c: c.guess)[:_TRIED]
    yield from sorted(changes, key=lambda c: (c.guess - found.fullest) / len(c.puts))


def _exchanges(assignment: np.ndarray, found: Split) -> Iterator[Change]:
    """For each slot of the fullest group the slot elsewhere that evens the two groups out best."""
    sizes = np.bincount(found.group)
    inside = np.flatnonzero(found.group == 0)
    outside = np.flatnonzero(found.group != 0)
    if not len(outside):
        return
    size = sizes[found.group[outside]][:, None]
    for device in inside:
        free = ~(assignment[outside][:, :, None] == assignment[device]).any((1, 2))  # shares no expert with it
        for slot, expert in enumerate(assignment[device]):
            given = found.parts[device, slot] - found.parts[outside]
            guess = np.maximum(found.fullest - given / len(inside), found.level[outside][:, None] + given / size)
            guess = np.where(free[:, None], guess, np.inf)
            other, place = np.unravel_index(int(np.argmin(guess)), guess.shape)
            if guess[other, place] < found.fullest:
                there = int(outside[other])
                puts = ((int(device), slot, int(assignment[there, place])), (there, int(place), int(expert)))
                yield Change(puts, float(guess[other, place]))


def _overwrites(assignment: np.ndarray, loads: np.ndarray, found: Split) -> Iterator[Change]:
    """A further copy of an expert of the fullest group, in place of a copy elsewhere that leaves others."""
    copies = copies_of(assignment, len(loads))[assignment]
    sizes = np.bincount(found.group)
    heavy = np.unique(assignment[found.group == 0])
    heavy = heavy[np.argsort(-loads[heavy], kind="stable")][:_TRIED]
    for device, slot in np.argwhere((copies > 1) & (found.group != 0)[:, None]):
        group, gone = found.group[device], found.parts[device, slot]
        together = sizes[0] + sizes[group]
        level = (found.fullest * sizes[0] + found.level[device] * sizes[group] + gone) / together
        for expert in heavy:
            if expert not in assignment[device]:
                yield Change(((int(device), int(slot), int(expert)),), float(max(level, gone)))
