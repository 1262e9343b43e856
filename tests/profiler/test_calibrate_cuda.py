"""Calibrating a GPU: the kernels' arithmetic in numba's simulator; the whole where there is a GPU."""

from __future__ import annotations

import ctypes.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tundish.ir.diagnostics import TundishError
from tundish.profiler.calibrate.cuda import require
from tundish.profiler.calibrate.verb import calibrate
from tundish.profiler.report.progress import silent

HERE = ctypes.util.find_library("cuda") is not None
SIMULATED = """
import json
import numpy as np
from tundish.profiler.calibrate.device import copying, multiply_adds, reading

out = np.zeros(4, np.float32)
multiply_adds()[1, 4](out, 3, np.float32(0.5))
data, sums, target = np.arange(10, dtype=np.float32), np.zeros(4, np.float32), np.zeros(10, np.float32)
reading()[2, 2](data, sums, 3)
copying()[2, 2](data, target, 1)
print(json.dumps([out.tolist(), sums.tolist(), target.tolist()]))
"""  # fmt: skip


def test_the_kernels_do_the_work_that_is_counted() -> None:
    """acc <- (acc + 1) / 2 three times is acc / 8 + 7 / 8; eight of them begin at 1/2, 1, ... 4."""
    done = subprocess.run(
        [sys.executable, "-c", SIMULATED], capture_output=True, text=True, timeout=120,
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    out, sums, target = json.loads(done.stdout)
    starts = np.arange(1, 9) / 2
    assert out == [(starts / 8 + 7 / 8).sum()] * 4
    assert sum(sums) == 3 * sum(range(10)) and target == list(range(10))


@pytest.mark.skipif(HERE, reason="there is an NVIDIA driver")
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(TundishError, match="no NVIDIA driver"):
        calibrate("cuda", "onnxruntime", tmp_path / "cuda.json", None, True, None, silent)
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
@pytest.mark.skipif(not HERE, reason="there is no NVIDIA driver")
def test_a_gpu_is_calibrated(tmp_path: Path) -> None:
    require()
    found = calibrate("cuda", "onnxruntime", tmp_path / "cuda.json", None, True, None, silent)
    assert {r["dtype"] for r in found["peaks"]} == {"f32", "f64"}
    assert [r["level"] for r in found["bandwidths"]] == ["L2", "memory"] and found["families"]


def test_a_target_or_threads_that_are_none_are_refused(tmp_path: Path) -> None:
    for target, threads, problem in (("tpu", None, "no target"), ("cpu", "x", "--threads"), ("cpu", "0", "--threads")):
        with pytest.raises(TundishError, match=problem):
            calibrate(target, "onnxruntime", tmp_path / "c.json", threads, True, None, silent)
    with pytest.raises(TundishError, match="folder"):
        calibrate("cpu", "onnxruntime", tmp_path, None, True, None, silent)
