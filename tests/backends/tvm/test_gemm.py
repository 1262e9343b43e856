"""Products with weights in panels: every count of rows, any number of columns and any depth, by one thread or several.

The sizes of weights are fixed in a kernel, so a few odd ones are compiled once; the rows are drawn.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tundish.backends.tvm.runner import TvmRunner
from tundish.backends.tvm.tiles import WIDTH, Chip, tiles_of
from tundish.compiler.hardware.caches import caches
from tundish.ir.evaluate import evaluate
from tundish.ir.op import get

from .kit import Case, one, opened, program_of

RNG = np.random.default_rng(0)
DEEPER = 2 * caches()[1].size_bytes // 8 // (4 * WIDTH) - 5  # so deep that a panel is cut into blocks
SIZES = ((1, 1), (7, 33), (64, 96), (129, 40), (DEEPER, 70))  # k, n


def numbers(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def panels(k: int, n: int) -> np.ndarray:
    packed: np.ndarray = get("to_panels").reference(numbers(k, n) / np.float32(k**0.5), width=WIDTH)
    return packed


def product(k: int, n: int, *, bias: bool) -> Case:
    arrays = [numbers(2, k), panels(k, n), *([numbers(n)] if bias else [])]
    return one("panel_linear", *arrays, shapes=[("m", None)], columns=n)


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {f"k{k}_n{n}": product(k, n, bias=n % 2 == 0) for k, n in SIZES}


@pytest.fixture(scope="module")
def runners(cases: Mapping[str, Case], tmp_path_factory: pytest.TempPathFactory) -> dict[int, TvmRunner]:
    two = opened(cases, tmp_path_factory.mktemp("gemm"), threads=2)
    assert isinstance(two, TvmRunner)
    return {1: TvmRunner(two.built, 1), 2: two}


@given(m=st.integers(1, 40) | st.integers(100, 300), size=st.sampled_from(SIZES), threads=st.sampled_from((1, 2)))
@settings(max_examples=120, deadline=None)
def test_any_rows_by_any_threads(
    cases: Mapping[str, Case], runners: Mapping[int, TvmRunner], m: int, size: tuple[int, int], threads: int
) -> None:
    name = f"k{size[0]}_n{size[1]}"
    inputs = {**cases[name].inputs, "i0": numbers(m, size[0])}
    wanted = next(iter(evaluate(program_of(cases), inputs, name).values()))
    got = next(iter(runners[threads].run(name, inputs).values()))
    np.testing.assert_allclose(got, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chip", [Chip(), Chip(8, 16), Chip(4, 32), Chip(16, 32, 48 << 10, 2 << 20)])
@pytest.mark.parametrize("k", [1, 576, 4096, 14336])
def test_tiles_fit_their_registers_and_caches(k: int, chip: Chip) -> None:
    tiles, vectors = tiles_of(k, chip), WIDTH // chip.lanes
    assert tiles.rows * vectors + min(tiles.rows, vectors) + 1 <= chip.registers
    x, weights, sums = tiles.row_block * tiles.deep, 2 * tiles.deep * WIDTH, tiles.group * tiles.row_block * WIDTH
    assert 4 * (x + weights) <= chip.l2_bytes
    assert 4 * sums <= chip.l2_bytes // 8
    assert 4 * tiles.ahead <= chip.l1_bytes // 2
    assert tiles.deep * -(-k // tiles.deep) - k < chip.lanes * -(-k // tiles.deep)
