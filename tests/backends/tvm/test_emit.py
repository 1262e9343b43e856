"""When a kernel waits for those before it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from tundish.backends.tvm.schedule import Call, Schedule
from tundish.ir.build import Builder
from tundish.ir.graph import Value

from .kit import case, opened


def two_products(b: Builder, w: Value, x: Value, y: Value, z: Value) -> tuple[Value, Value]:
    return b.emit("matmul", w, x), b.emit("matmul", y, z)


def calls(folder: Path, name: str) -> list[Call]:
    (file,) = folder.rglob(f"{name}.0.json")
    return msgspec.json.decode(file.read_bytes(), type=Schedule).calls


def test_parts_of_a_concat_are_copied_side_by_side(tmp_path: Path) -> None:
    arrays = {n: np.full((2, i + 3), i, np.float32) for i, n in enumerate("xyz")}

    def write(b: Builder, **values: Value) -> Value:
        joined = b.emit("concat", *values.values(), axis=1)
        return b.emit("concat", joined, b.emit("exp", joined), axis=0)

    opened({"joined": case(write, arrays)}, tmp_path)
    assert [c.waits for c in calls(tmp_path, "joined")] == [False, False, False, True, False, True]


@pytest.mark.parametrize(("inner", "waits"), [(8, False), (9, True)])
def test_threads_wait_where_scratch_memory_is_cut_anew(tmp_path: Path, inner: int, waits: bool) -> None:
    """Products that need nothing of one another run side by side, unless their parts of that memory overlap."""
    arrays = {"w": (4, 8), "x": (8, 5), "y": (4, inner), "z": (inner, 5)}
    products = case(two_products, {n: np.ones(shape, np.float32) for n, shape in arrays.items()})
    opened({"products": products}, tmp_path)
    first, second = calls(tmp_path, "products")
    assert not first.waits and second.waits == waits
