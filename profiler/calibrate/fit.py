"""The three parameters of a family's roofline, and what each measured size deviates from it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ...compiler.cost.estimate import Costs
from ...compiler.cost.roofline import correction, kernel_s
from ...compiler.hardware.calibration import Family, Point
from .engine import Measured

_LEAST_S, _LEAST_SHARE, _MOST_SHARE = 1e-9, 1e-4, 1.5
_USUAL_SHARE, _PRIOR_WEIGHT = 0.5, 0.02  # settles a share that no size of the grid depends on


def fit(name: str, measured: Sequence[Measured], costs: Costs, dtype: str, threads: int) -> Family:
    """Overhead and shares that make ln(measured / fitted) least; outliers count by their distance, not its square.

    costs: the machine's ceilings, without families. Errors are of each size as predicted from the other sizes.
    """
    from scipy.optimize import least_squares

    seconds = np.array([m.seconds for m in measured])
    floors = [costs.floors(m.kernel) for m in measured]

    def residuals(parameters: np.ndarray) -> np.ndarray:
        overhead, compute, memory = np.exp(parameters)
        fitted = [kernel_s(c, m, overhead, compute, memory) for c, m in floors]
        usual = _PRIOR_WEIGHT * np.log(np.array([compute, memory]) / _USUAL_SHARE)
        return np.concatenate([np.log(seconds) - np.log(fitted), usual])

    start = np.log([max(_LEAST_S, seconds.min() / 4), 0.5, 0.5])
    low = np.log([_LEAST_S, _LEAST_SHARE, _LEAST_SHARE])
    high = np.log([max(2 * _LEAST_S, float(seconds.min())), _MOST_SHARE, _MOST_SHARE])
    start = np.clip(start, low + 1e-6, high - 1e-6)
    found = least_squares(residuals, start, bounds=(low, high), loss="soft_l1", f_scale=0.1)
    overhead, compute, memory = (float(x) for x in np.exp(found.x))
    left = [float(r) for r in residuals(found.x)[: len(measured)]]
    points = tuple(
        Point(
            at=m.kernel.at, seconds=m.seconds, residual=r, spread=m.spread, flops=m.kernel.flops, bytes=m.kernel.bytes
        )
        for m, r in zip(measured, left, strict=True)
    )
    errors = _errors(points)
    return Family(
        name=name, dtype=dtype, threads=threads, overhead_s=overhead, compute_share=compute, memory_share=memory,
        points=points, median_error=float(np.median(errors)), p90_error=float(np.quantile(errors, 0.9)),
    )  # fmt: skip


def _errors(points: Sequence[Point]) -> list[float]:
    """|predicted / measured - 1| of each point, as predicted by the fit and the other points."""
    found = []
    for i, point in enumerate(points):
        others = [(p.at, p.residual) for j, p in enumerate(points) if j != i]
        found.append(abs(math.expm1(correction(point.at, others) - point.residual)))
    return found



