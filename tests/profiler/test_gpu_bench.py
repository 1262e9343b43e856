"""The benchmark of a GPU's kernels checks what it times, and says in one line that there is no GPU."""

from __future__ import annotations

import ctypes.util

import numpy as np
import pytest

from tundish.ir.diagnostics import CheckError
from tundish.profiler import gpu_bench


@pytest.mark.skipif(bool(ctypes.util.find_library("cuda")), reason="this machine has an NVIDIA driver")
def test_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_bench.main(["gemm"]) == 2
    said = capsys.readouterr()
    assert "no NVIDIA driver" in said.err and not said.out


def test_a_wrong_product_is_told() -> None:
    rng = np.random.default_rng(0)
    x, panels = rng.standard_normal((40, 16)), rng.standard_normal((1, 16, 64))
    gpu_bench._check(x @ panels[0], x, panels)
    wrong = x @ panels[0]
    wrong[32] += 1.0
    with pytest.raises(CheckError, match="wrong"):
        gpu_bench._check(wrong, x, panels)
