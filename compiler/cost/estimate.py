"""How long one op takes on a calibrated machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Estimate:
    """A predicted time with its interval.

    roof:   what binds: `compute`, `memory` (with its level: `L2`, `L3`, `memory`) or `launch`.
    roof_s: the time at that roof, which no kernel can beat: measured / roof_s is the share of the roofline reached.
    """

    seconds: float
    low_s: float
    high_s: float
    roof: str
    roof_s: float
