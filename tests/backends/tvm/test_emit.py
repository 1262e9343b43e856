"""When a kernel waits for those before it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from tundish.backends.tvm.schedule import Call, Schedule
from tundish.backends.tvm.tiles import WIDTH
from tundish.ir.build import Builder
from tundish.ir.graph import Value
from tundish.ir.op import get

from .kit import case, check, opened


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


@pytest.mark.parametrize(("k", "waits"), [(9, [False, False]), (11, [False, True])])
def test_a_product_need_not_wait_for_one_that_is_cut_alike(tmp_path: Path, k: int, waits: list[bool]) -> None:
    """A gate is read where it was written by the same thread; a product of another depth may be cut otherwise."""
    rng, n = np.random.default_rng(0), 300
    shapes = {"x": (70, 9), "z": (70, k), "gate": (9, n), "up": (k, n)}
    arrays = {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}
    arrays |= {name: get("to_panels").reference(arrays[name], width=WIDTH) for name in ("gate", "up")}

    def write(b: Builder, x: Value, z: Value, gate: Value, up: Value) -> Value:
        gate, up = b.emit("panel_linear", x, gate, columns=n), b.emit("panel_linear", z, up, columns=n)
        return b.emit("mul", b.emit("silu", gate), up)

    gated = {"gated": case(write, arrays)}
    check(gated, tmp_path, atol=2e-5, rtol=2e-5, threads=2)
    assert [c.waits for c in calls(tmp_path, "gated")] == waits


def test_a_product_waits_for_what_it_multiplies_however_that_was_cut(tmp_path: Path) -> None:
    weight = get("to_panels").reference(np.eye(64, dtype=np.float32), width=WIDTH)
    arrays = {"x": np.ones((70, 64), np.float32), "w": weight}

    def write(b: Builder, x: Value, w: Value) -> Value:
        once = b.emit("panel_linear", x, w, columns=64)
        return b.emit("add", once, b.emit("panel_linear", once, w, columns=64))

    opened({"twice": case(write, arrays)}, tmp_path)
    assert [c.waits for c in calls(tmp_path, "twice")] == [False, True]
