"""How evenly experts can be spread over devices at best."""

from __future__ import annotations

import numpy as np


def lower_bound(loads: np.ndarray, devices: int, slots: int) -> float:
    """The least load that the fullest of the devices can have, however the experts are placed and their tokens split.

    The mean; and for each h the h hottest experts. Their copies lie on m devices, m at most slots - (experts - h),
    since every other expert takes a slot too. The other devices have (devices - m) · slots / devices slots, so that of
    the other experts at least so many as do not fit there lie on the m devices wholly: at least the coldest of them.
    Those loads and the h hottest are on m devices together; m is the one for which that is least.

    Shapes: loads [experts], as even as `slots` copies, slots / devices on each, can make them.
    Source: ours, derived above.
    >>> lower_bound(np.array([9.0, 1.0, 1.0, 1.0]), 2, 4)
    10.0
    >>> lower_bound(np.array([9.0, 1.0, 1.0, 1.0]), 2, 6)
    6.0
    """
    ordered = np.sort(np.asarray(loads, np.float64))
    experts, each = len(ordered), slots // devices
    mean = float(ordered.sum() / devices)
    coldest = np.concatenate([[0.0], np.cumsum(ordered)])
    hottest = np.concatenate([[0.0], np.cumsum(ordered[::-1])])
    best = mean
    for h in range(1, experts + 1):
        most = min(devices, slots - experts + h)
        on = np.arange(-(-h // each), most + 1)
        forced = np.clip(experts - h - (devices - on) * each, 0, experts - h)
        if len(on):
            best = max(best, float(((hottest[h] + coldest[forced]) / on).min()))
        if hottest[h] >= mean * devices - 1e-9 * mean:
            break
    return best
