"""When a kernel waits for those before it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from tundish.backends.tvm.schedule import Schedule
from tundish.ir.build import Builder
from tundish.ir.graph import Value

from .kit import case, opened


def two_products(b: Builder, w: Value, x: Value, y: Value, z: Value) -> tuple[Value, Value]:
    return b.emit("matmul", w, x), b.emit("matmul", y, z)


@pytest.mark.parametrize(("inner", "waits"), [(8, False), (9, True)])
def test_threads_wait_where_scratch_memory_is_cut_anew(tmp_path: Path, inner: int, waits: bool) -> None:
    """Products that need nothing of one another run side by side, unless their parts of that memory overlap."""
    arrays = {"w": (4, 8), "x": (8, 5), "y": (4, inner), "z": (inner, 5)}
    products = case(two_products, {n: np.ones(shape, np.float32) for n, shape in arrays.items()})
    opened({"products": products}, tmp_path)
    (file,) = tmp_path.rglob("products.0.json")
    first, second = msgspec.json.decode(file.read_bytes(), type=Schedule).calls
    assert not first.waits and second.waits == waits
