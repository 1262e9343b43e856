"""Products by tensor cores are those of the numbers that they are given: sizes around every tile's, in every order of
threads, with what follows them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tundish.backends.tvm.cuda.kernels.gemm_mma import gemm_mma
from tundish.backends.tvm.cuda.kernels.product import Cut, Product
from tundish.backends.tvm.cuda.library import Source, source
from tundish.backends.tvm.cuda.lower_product import MANY
from tundish.backends.tvm.epilogue import COLUMN, FULL, Epilogue
from tundish.backends.tvm.steps import Chain, Step
from tundish.compiler.hardware.gpus import GPUS
from tundish.ir.op import get

from .simulate import BACKWARD, FORWARD, MIXED, needs_compiler, run

pytestmark = needs_compiler
KINDS = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
SMALL, LARGE = (cut for _, _, cut in MANY)
RNG = np.random.default_rng(0)
ADDED = Epilogue((COLUMN, FULL), Chain(("float32",) * 3, (), (Step("add", (0, 1)), Step("add", (3, 2)))))


def product(kind: str, cut: Cut, m: int, k: int, n: int, order: int, made: str = "float32") -> tuple[Any, Any]:
    """What the kernel gives, and what it should."""
    form = Product(k, n, 64, kind, kind, made, ("float32", kind), ADDED)
    x, w, beside = (RNG.standard_normal(s).astype(KINDS[kind]) for s in ((m, k), (k, n), (m, n)))
    bias = RNG.standard_normal(n).astype(np.float32)
    panels: Any = get("to_panels").reference
    y = np.zeros((m, n), KINDS.get(made, np.float32))
    found: Source = source(gemm_mma("", form=form, cut=cut), GPUS["sm80"])
    grid = -(-m // cut.rows) * -(-n // cut.columns)
    run(found, grid, [x, panels(w, width=64), y, bias, beside, m], order)
    whole = [a.astype(np.float64) for a in (x, w, beside)]
    return y, whole[0] @ whole[1] + bias + whole[2]


@pytest.mark.parametrize("order", [FORWARD, BACKWARD, MIXED])
@pytest.mark.parametrize("kind", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_sizes_around_a_tile(kind: str, order: int) -> None:
    for m, k, n in ((64, 32, 64), (65, 40, 130), (9, 8, 3), (130, 104, 200)):
        got, want = product(kind, SMALL, m, k, n, order)
        np.testing.assert_allclose(got, want, atol=2e-5, rtol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("order", [BACKWARD, MIXED])
def test_large_tiles(order: int) -> None:
    for m, k, n in ((128, 256, 256), (300, 200, 520)):
        got, want = product("bfloat16", LARGE, m, k, n, order)
        np.testing.assert_allclose(got, want, atol=5e-5, rtol=2e-5)


def test_results_are_rounded_once() -> None:
    got, want = product("bfloat16", SMALL, 20, 64, 70, MIXED, "bfloat16")
    np.testing.assert_array_less(np.abs(got.astype(np.float64) - want), 2.0**-8 * np.abs(want) + 1e-6)
