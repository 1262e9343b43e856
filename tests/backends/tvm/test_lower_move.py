"""A reshape is a view wherever an array's elements lie so, as numpy finds too."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tundish.backends.tvm.emit import Root, View
from tundish.backends.tvm.lower_move import regrouped
from tundish.ir.build import Builder
from tundish.ir.dtypes import f32
from tundish.ir.graph import Value

from .kit import case, check


@st.composite
def strided(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, ...]]:
    """An array that is cut and turned, and a shape of as many elements."""
    full = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    whole = np.arange(math.prod(full), dtype=np.float32).reshape(full)
    cut = whole[tuple(slice(draw(st.integers(0, n - 1)), n) for n in full)].transpose(
        draw(st.permutations(range(len(full))))
    )  # fmt: skip
    left, shape = cut.size, list[int]()
    while left > 1:
        shape.append(draw(st.sampled_from([d for d in range(2, left + 1) if left % d == 0])))
        left //= shape[-1]
    shape.insert(draw(st.integers(0, len(shape))), 1)
    return cut, tuple(shape)


@given(strided())
def test_the_elements_are_the_same_in_the_same_order(made: tuple[np.ndarray, tuple[int, ...]]) -> None:
    array, shape = made
    strides = regrouped(View(Root("arena"), f32, array.shape, tuple(s // 4 for s in array.strides)), shape)
    if strides is None:
        return
    found = np.lib.stride_tricks.as_strided(array, shape, [4 * int(s) for s in strides])  # type: ignore[call-overload]
    np.testing.assert_array_equal(found, array.reshape(shape))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(2, 5), st.integers(2, 5))
def test_heads_of_a_part_of_a_product_are_a_view(lead: list[int], heads: int, d: int) -> None:
    part = np.zeros((*lead, 3 * heads * d), np.float32)[..., heads * d : 2 * heads * d]
    view = View(Root("arena"), f32, part.shape, tuple(s // 4 for s in part.strides))
    assert regrouped(view, (*lead, heads, d)) is not None


def test_answers(tmp_path: Path) -> None:
    def write(b: Builder, x: Value) -> Any:
        part = b.emit("slice", x, axis=2, start=6, stop=12)
        rows, s = x.type.shape[:2]
        heads = b.emit("reshape", part, shape=(rows, s, 2, 3))
        merged = b.emit("reshape", part, shape=(rows * s, 6))
        turned = b.emit("reshape", b.emit("transpose", heads, perm=(0, 2, 1, 3)), shape=(rows, s * 6))
        return heads, merged, turned

    x = np.random.default_rng(0).standard_normal((2, 5, 12)).astype(np.float32)
    more = {"x": np.concatenate([x, x])[:3, :4]}
    check({"parts": case(write, {"x": x}, {"x": ["rows", "s", None]}).also(more)}, tmp_path)
