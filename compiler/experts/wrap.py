"""A placement that is even by construction: experts laid end to end, and cut where a device is full."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(slots=True)
class Row:
    """One device while it is filled: its experts, and the load that they bring."""

    experts: list[int]
    load: float


def wrapped(loads: np.ndarray, devices: int, each: int, spare: int) -> list[Row]:
    """The experts of each device. Each of the first `spare` cuts leaves a copy of one expert on two devices.

    With spare >= devices - 1 every device gets the mean exactly: device j takes what the last cut left over and so
    many experts more that it is full, and what is too much of one of them is cut off for the next. There is always a
    choice that fits: of the experts left, the hottest and the n - 1 that follow each other in load make no less than
    the device needs, as the mean does not fall; the least such overshoot is below the hottest, which is cut then.
    The devices that no cut is left for are filled from the hottest expert down, the emptiest device first.

    each: slots of a device. spare: slots beyond one for each expert.
    Source: ours, after the rule of McNaughton 1959, "Scheduling with Deadlines and Loss Functions", with a number of
    places on each machine.
    """
    goal = float(loads.sum()) / devices
    pool = [int(e) for e in np.argsort(loads, kind="stable")]
    sizes = _sizes(len(loads), devices, each, min(spare, devices - 1))
    rows, carried, rest = list[Row](), -1, 0.0
    for j in range(min(spare, devices - 1)):
        picked = _pick(loads, pool, sizes[j], goal - rest)
        pool = [e for e in pool if e not in set(picked)]
        parts = ([(carried, rest)] if carried >= 0 else []) + [(e, float(loads[e])) for e in picked]
        over = rest + float(loads[picked].sum()) - goal
        rows.append(Row([e for e, _ in parts], goal + min(over, 0.0)))
        carried, rest = _cut(parts, over)
    opened = [Row([carried], rest) if carried >= 0 else Row([], 0.0)]
    opened += [Row([], 0.0) for _ in range(devices - len(rows) - 1)]
    return rows + _filled(loads, pool, opened, each)


def _sizes(experts: int, devices: int, each: int, cuts: int) -> list[int]:
    """How many experts each device begins, one place kept for what a cut leaves it; what is not needed taken evenly."""
    sizes = [each] + [each - 1] * cuts + [each] * (devices - cuts - 1)
    for j in range(sum(sizes) - experts):
        sizes[j % devices] -= 1
    return sizes


def _pick(loads: np.ndarray, pool: list[int], n: int, need: float) -> list[int]:
    """n of the pool, sorted by load, that bring at least `need`.

    The n coldest where they are enough: what was carried on goes further then. Else the hottest with those beside it
    that bring too much by about half of the hottest, which is cut: a later split can move that cut either way.
    """
    if n == 0 or n >= len(pool):
        return pool[:n]
    sums = np.concatenate([[0.0], np.cumsum(loads[pool])])
    hottest = float(loads[pool[-1]])
    if sums[n] - need >= hottest / 2:
        return pool[:n]
    windows = sums[n - 1 : -1] - sums[: len(pool) - n + 1] + hottest - need  # too much, by the window's first
    fits = (windows >= -1e-9 * max(need, 1.0)) & (windows <= hottest)
    if not fits.any():  # the coldest are enough, if barely: with them the hottest would be more than can be cut
        return pool[:n]
    first = int(np.argmin(np.where(fits, np.abs(windows - hottest / 2), np.inf)))
    return [*pool[first : first + n - 1], pool[-1]]


def _cut(parts: list[tuple[int, float]], over: float) -> tuple[int, float]:
    """(the expert that is cut, what of it goes on): the one that leaves most on its smaller side. (-1, 0) for none."""
    if over <= 0:
        return -1, 0.0
    expert, _ = max(parts, key=lambda part: min(over, part[1] - over))
    return expert, over


def _filled(loads: np.ndarray, pool: list[int], rows: list[Row], each: int) -> list[Row]:
    for expert in reversed(pool):
        free = [r for r in rows if len(r.experts) < each]
        row = min(free, key=lambda r: r.load)
        row.experts.append(expert)
        row.load += float(loads[expert])
    return rows
