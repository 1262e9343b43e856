"""Rotary embedding on the TVM backend, of all features or some, of sizes that no vector has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .kit import Case, case, check, one

RNG = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def turning(d: int, turned: int, rows: int, interleaved: bool) -> Case:
    """rows: of the angles, 1 for the same in all."""
    x, angles = ("b", "s", None, None), ("b" if rows > 1 else None, "s", None)
    made = one("rotary", numbers(2, 5, 3, d), *(numbers(rows, 5, turned) for _ in "cs"), shapes=(x, angles, angles),
               interleaved=interleaved)  # fmt: skip
    more = [numbers(3, 17, 3, d), *(numbers(min(rows, 2) // 2 * 3 or 1, 17, turned) for _ in "cs")]
    return made.also({f"i{i}": a for i, a in enumerate(more)})


@pytest.mark.parametrize("interleaved", [False, True])
def test_sizes(tmp_path: Path, interleaved: bool) -> None:
    sizes = ((64, 64), (64, 32), (128, 128), (20, 20), (20, 6), (7, 2), (2, 2), (80, 34))
    made = {f"{d} {turned} {rows}": turning(d, turned, rows, interleaved) for d, turned in sizes for rows in (1, 2)}
    check(made, tmp_path)


def test_parts_of_one_projection(tmp_path: Path) -> None:
    """Queries and keys that lie beside one another, and heads before places."""

    def write(b: Any, x: Any, cos: Any, sin: Any) -> Any:
        n, s, _ = x.type.shape
        q, k = b.emit_node("split", (x,), {"axis": 2, "sizes": (64, 32)}).outputs
        q, k = (b.emit("reshape", p, shape=(n, s, h, 16)) for p, h in ((q, 4), (k, 2)))
        turned = b.emit("transpose", b.emit("transpose", k, perm=(0, 2, 1, 3)), perm=(0, 2, 1, 3))
        return [b.emit("rotary", p, cos, sin) for p in (q, turned)]

    arrays = {"x": numbers(2, 7, 96), "cos": numbers(1, 7, 16), "sin": numbers(1, 7, 16)}
    shapes = {"x": ("b", "s", None), "cos": (None, "s", None), "sin": (None, "s", None)}
    check({"parts": case(write, arrays, shapes)}, tmp_path)
