"""The error function in numpy, to double precision."""

from __future__ import annotations

import numpy as np

_SMALL = 2.5  # up to here the power series converges before it cancels
_LARGE = 6.0  # beyond this erf is 1 in double precision


def erf(x: np.ndarray) -> np.ndarray:
    """erf of every element, to about 1e-15.

    Below 2.5 the series 2/√π · exp(-x²) · Σ 2ⁿ x²ⁿ⁺¹ / (2n+1)!!, whose terms are all positive; above it the continued
    fraction of erfc. Source: Abramowitz and Stegun 1964, 7.1.6 and 7.1.14.
    """
    x = np.asarray(x, np.float64)
    size = np.abs(x)
    small = np.minimum(size, _SMALL)
    square = small * small
    term = small.copy()
    total = small.copy()
    for n in range(1, 48):
        term = term * (2.0 * square / (2 * n + 1))
        total = total + term
    near = 2.0 / np.sqrt(np.pi) * np.exp(-square) * total
    large = np.clip(size, _SMALL, _LARGE)
    fraction = np.zeros_like(large)
    for n in range(60, 0, -1):
        fraction = (n / 2.0) / (large + fraction)
    far = 1.0 - np.exp(-large * large) / (np.sqrt(np.pi) * (large + fraction))
    result = np.where(size <= _SMALL, near, np.where(size < _LARGE, far, 1.0))
    return np.where(np.isnan(x), np.nan, np.copysign(result, x))
