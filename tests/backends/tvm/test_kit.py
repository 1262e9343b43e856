"""The kit runs several graphs from one library, at several sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from .kit import Case, check, one

RNG = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def sums() -> Case:
    longer = {"i0": numbers(33, 5), "i1": numbers(1, 5)}
    return one("add", numbers(3, 5), numbers(1, 5), shapes=[("n", None)]).also(longer)


@pytest.mark.parametrize("passes", [False, True])
def test_graphs_at_several_sizes(tmp_path: Path, passes: bool) -> None:
    check({"sum": sums(), "product": one("mul", numbers(2, 17), numbers(2, 17))}, tmp_path, passes=passes)


def test_what_is_off_is_found_and_named(tmp_path: Path) -> None:
    curve = one("exp", numbers(2, 5), shapes=[("n", None)]).also({"i0": numbers(200, 5)})
    with pytest.raises(AssertionError, match="curve, .*float32"):
        check({"sum": sums(), "curve": curve}, tmp_path, atol=0, rtol=1e-9)
