"""Element types of 8 bits and less in ONNX Runtime: what runs means the same, the rest is declined."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tundish.backends import registry
from tundish.backends.bundle_write import build_files
from tundish.compiler.plan import Guard, Plan, Variant
from tundish.ir.build import Builder
from tundish.ir.diagnostics import BuildError
from tundish.ir.dtypes import DTYPES, f32
from tundish.ir.evaluate import evaluate
from tundish.ir.graph import Program
from tundish.ir.tensor import TensorType


def there_and_back(name: str) -> Plan:
    """x as a code, doubled in that type, and back."""
    b = Builder()
    x = b.input("x", TensorType(f32, (8,)))
    code = b.emit("cast", x, dtype=DTYPES[name])
    y = b.emit("cast", b.emit("add", code, code), dtype=f32)
    program = Program({"main": b.finish([y], ["y"])}, ("main",))
    return Plan(program, {"main": (Variant(Guard(), "main"),)}, "onnxruntime", "cpu")


@pytest.mark.parametrize("name", ["f8e4m3", "f8e5m2", "f8e4m3fnuz", "f8e5m2fnuz", "bf16"])
def test_codes_mean_the_same(name: str, tmp_path: Path):
    """What is too large is no number: a cast of ours does not saturate."""
    plan, engine = there_and_back(name), registry.get("onnxruntime")
    x = np.array([0.3, -1.7, 3.14, 100, 300, 1e6, -1e6, 0], np.float32)
    found = engine.open(build_files(plan, engine, tmp_path), threads=1).run("main", {"x": x})["y"]
    np.testing.assert_array_equal(found, evaluate(plan.program, {"x": x})["y"])


@pytest.mark.parametrize("name", ["f4e2m1", "f8e8m0", "i2", "u2"])
def test_types_without_kernels_are_declined(name: str, tmp_path: Path):
    engine = registry.get("onnxruntime")
    with pytest.raises(BuildError, match=f"cast: ONNX Runtime has no kernels for {name}"):
        build_files(there_and_back(name), engine, tmp_path)
