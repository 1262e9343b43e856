"""Products with weights in panels: every count of rows, any number of columns and any depth, by one thread or several.

The sizes of weights are fixed in a kernel, so a few odd ones are compiled once; the rows are drawn. The same of pairs
of bf16, whose results are f32, or bf16 after a GELU.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tundish.backends.tvm.runner import TvmRunner
from tundish.backends.tvm.tiles import WIDTH, Chip, tiles_of
from tundish.compiler.hardware.caches import caches
from tundish.compiler.hardware.machine import this_machine
from tundish.ir.dtypes import bf16
from tundish.ir.evaluate import evaluate
from tundish.ir.op import get

from .kit import Case, case, check, one, opened, program_of

RNG = np.random.default_rng(0)
DEEPER = 2 * caches()[1].size_bytes // 8 // (4 * WIDTH) - 5  # so deep that a panel is cut into blocks
SIZES = ((1, 1), (7, 33), (64, 96), (129, 40), (DEEPER, 70))  # k, n


PAIR_SIZES = ((2, 1), (8, 33), (64, 96), (130, 40), (2 * DEEPER + 2, 70))
pairs = pytest.mark.skipif("avx512_bf16" not in this_machine().features, reason="needs avx512_bf16")


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


def paired(k: int, n: int, *, bias: bool, rounded: bool) -> Case:
    w = (numbers(k, n) / np.float32(k**0.5)).astype(ml_dtypes.bfloat16)
    arrays = {
        "x": numbers(2, k).astype(ml_dtypes.bfloat16),
        "w": get("to_panels").reference(w, width=WIDTH, depth=2),
    } | ({"bias": numbers(n)} if bias else {})

    def write(b: Any, x: Any, w: Any, bias: Any = None) -> Any:
        y = b.emit("panel_linear", x, w, bias, columns=n)
        return b.emit("cast", b.emit("gelu", y), dtype=bf16) if rounded else y

    return case(write, arrays, {"x": ("m", None)})


def pair_cases() -> dict[str, Case]:
    sizes = [(k, n, rounded) for k, n in PAIR_SIZES for rounded in (False, True)]
    made = {}
    for k, n, rounded in sizes:
        one_case = paired(k, n, bias=n % 2 == 0, rounded=rounded)
        others = [numbers(m, k).astype(ml_dtypes.bfloat16) for m in (1, 2, 12, 13, 29, 300)]
        made[f"k{k}_n{n}_{rounded}"] = one_case.also(*({**one_case.inputs, "x": x} for x in others))
    return made


@pairs
@pytest.mark.parametrize("threads", [1, 2])
def test_pairs_of_bf16_add_up_in_f32(tmp_path: Path, threads: int) -> None:
    wide = {name: c for name, c in pair_cases().items() if name.endswith("False")}
    check(wide, tmp_path, threads=threads, atol=1e-5, rtol=1e-5)


@pairs
@pytest.mark.parametrize("threads", [1, 2])
def test_what_follows_is_rounded_once(tmp_path: Path, threads: int) -> None:
    """By at most one step of bf16 from what is rounded exactly."""
    rounded = {name: c for name, c in pair_cases().items() if name.endswith("True")}
    check(rounded, tmp_path, threads=threads, atol=1e-5, rtol=2**-7)


@pairs
def test_a_plain_product_may_be_rounded_and_columns_of_pairs_looked_up(tmp_path: Path) -> None:
    w = get("to_panels").reference(numbers(64, 70).astype(ml_dtypes.bfloat16), width=WIDTH, depth=2)
    x, ids = numbers(5, 64).astype(ml_dtypes.bfloat16), np.array([[0, 69], [31, 32]])

    def write(b: Any, x: Any, w: Any, ids: Any) -> Any:
        y = b.emit("cast", b.emit("panel_linear", x, w, columns=70), dtype=bf16)
        return y, b.emit("panel_gather", w, ids, columns=70), b.emit("from_panels", w, columns=70)

    check({"all": case(write, {"x": x, "w": w, "ids": ids}, {"x": ("m", None)})}, tmp_path, atol=1e-5, rtol=2**-7)
