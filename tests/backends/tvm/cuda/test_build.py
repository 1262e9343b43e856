"""Compiling for GPUs on a machine that has none: what a bundle holds, and what is said where it cannot run."""

from __future__ import annotations

import ctypes.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tundish
from tundish.backends.tvm.cuda.lower_product import WIDTH
from tundish.backends.tvm.cuda.nvrtc import nvrtc
from tundish.backends.tvm.runner import read_schedule
from tundish.compiler.hardware.gpus import GPUS
from tundish.ir.build import Builder
from tundish.ir.diagnostics import CompileError, LoadError
from tundish.ir.op import get
from tundish.ir.weights import TensorFile

from ..kit import case, check, opened
from .device import Simulating
from .simulate import BACKWARD, FORWARD, MIXED, needs_compiler

needs_nvrtc = pytest.mark.skipif(nvrtc() is None, reason="device code is made by NVRTC: pip install 'tundish[cuda]'")
no_gpu = pytest.mark.skipif(bool(ctypes.util.find_library("cuda")), reason="this machine has an NVIDIA driver")


@pytest.mark.slow
@needs_nvrtc
def test_a_bundle_holds_device_code_of_each_kind_and_no_source(tmp_path: Path) -> None:
    target = "cuda-sm80+sm90+sm100"
    bundle = tundish.compile("bert-tiny", tmp_path / "b", batch=2, seq="1..8", backend="tvm", target=target)
    assert bundle.target == target
    for gpu in GPUS.values():
        code = TensorFile(bundle.path / "tvm" / f"kernels.{gpu.arch}.safetensors")
        schedule = read_schedule(bundle.path / "tvm" / f"{gpu.arch}.forward.0.json")
        assert {c.kernel for c in schedule.calls} == set(code) == set(schedule.launches)
        for array in code.values():
            data = array.tobytes()
            assert data[:4] == b"\x7fELF" and b"__global__" not in data and b".version" not in data


@no_gpu
@needs_nvrtc
def test_without_a_gpu_it_is_said_what_is_needed(tmp_path: Path) -> None:
    bundle = tundish.compile("bert-tiny", tmp_path / "b", batch=2, seq=8, backend="tvm", target="cuda-sm90")
    with pytest.raises(LoadError, match="NVIDIA GPU.*no NVIDIA driver") as caught:
        bundle.run(bundle.cases().cases[0].inputs)
    assert caught.value.hint and caught.value.exit_code == 2


def test_a_target_that_is_none_is_named() -> None:
    with pytest.raises(CompileError, match="cuda-sm75"):
        tundish.compile("bert-tiny", "unused", backend="tvm", target="cuda-sm75")


@needs_compiler
@pytest.mark.parametrize("order", [FORWARD, BACKWARD, MIXED])
def test_a_small_network_means_the_same(tmp_path: Path, order: int) -> None:
    """Norm, product, GELU, product and residual; of few rows and of many."""
    rng = np.random.default_rng(0)

    def some(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    def write(b: Builder, x, gain, up, bias, down):  # type: ignore[no-untyped-def]
        y = b.emit("panel_linear", b.emit("rms_norm", x, gain, eps=1e-5), up, bias, columns=33)
        return b.emit("add", x, b.emit("panel_linear", b.emit("gelu", y), down, columns=20))

    panels: Any = get("to_panels").reference
    up, down = panels(some(20, 33), width=WIDTH), panels(some(33, 20), width=WIDTH)
    arrays = {"x": some(3, 20), "gain": some(20), "up": up, "bias": some(33), "down": down}
    made = case(write, arrays, {"x": ("n", None)})
    made = made.also(*({**arrays, "x": some(n, 20)} for n in (1, 8, 9, 70)))
    backend = Simulating(order=order)
    check({"network": made}, tmp_path, atol=3e-5, rtol=3e-5, passes=True, backend=backend, target=backend.target)


@needs_compiler
def test_a_schedule_that_speaks_of_what_is_not_there_is_refused(tmp_path: Path) -> None:
    """An array of the arena that there is not, a kernel without code."""
    backend = Simulating()

    def write(b: Builder, x: Any) -> Any:
        return b.emit("exp", b.emit("sum", b.emit("exp", x), axes=(0,)))

    made = case(write, {"x": np.ones((3, 4), np.float32)})
    for i, (old, new) in enumerate((("", ""), ('["arena","0"', '["arena","7"'), ("elementwise_0", "elementwise_9"))):
        folder = tmp_path / str(i)
        folder.mkdir()
        runner = opened({"network": made}, folder, backend=backend, target=backend.target)
        (file,) = folder.rglob("*network.0.json")
        text = file.read_text()
        assert old in text
        if not old:
            runner.run("network", made.inputs)
            continue
        file.write_text(text.replace(old, new, 1))
        with pytest.raises(LoadError, match="broken"):
            runner.run("network", made.inputs)
