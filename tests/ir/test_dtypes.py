"""Element types: what they hold, how they are stored, and where they are only codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tundish.ir.build import Builder
from tundish.ir.dtypes import DTYPES, DType, f32, from_numpy
from tundish.ir.evaluate import evaluate
from tundish.ir.graph import Program
from tundish.ir.packing import is_packed, pack, packed_bytes, unpack
from tundish.ir.save import load, save
from tundish.ir.tensor import TensorType
from tundish.ir.text import from_text, to_text
from tundish.ir.weights import Held, Weight, materialize

ALL = list(DTYPES.values())


def some(dtype: DType, count: int = 7) -> np.ndarray:
    """Numbers of a type from its bits, all of them finite."""
    return (np.arange(count) % 2 if dtype.kind == "bool" else 1 + np.arange(count) % 2).astype(dtype.numpy)


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_a_row_says_what_numpy_holds(dtype: DType):
    assert from_numpy(dtype.numpy) is dtype
    low, high = dtype.range
    assert np.asarray(high).astype(dtype.numpy).astype(np.float64) == high or dtype.bits == 64
    assert low < high


def test_ranges():
    assert {n: DTYPES[n].range for n in ("u2", "i4", "f8e4m3", "f8e5m2", "f4e2m1")} == {
        "u2": (0, 3), "i4": (-8, 7), "f8e4m3": (-448, 448), "f8e5m2": (-57344, 57344), "f4e2m1": (-6, 6),
    }  # fmt: skip
    assert (DTYPES["bf16"].significand, DTYPES["bf16"].exponent) == (8, 8)


@pytest.mark.parametrize("dtype", [d for d in ALL if d.bits < 8], ids=str)
@pytest.mark.parametrize("shape", [(0,), (1,), (7,), (2, 3, 5)])
def test_packing_and_back(dtype: DType, shape: tuple[int, ...]):
    numbers = np.arange(int(np.prod(shape))) % (1 << dtype.bits)
    array = numbers.astype(np.uint8).reshape(shape)
    if dtype.kind == "int":
        array = array.astype(np.int8) - (1 << (dtype.bits - 1))
    array = array.view(dtype.numpy) if dtype.is_float else array.astype(dtype.numpy)
    type = TensorType(dtype, shape)
    packed = pack(array)
    assert is_packed(type) and packed.shape == (packed_bytes(type),) and packed.nbytes == type.bytes
    np.testing.assert_array_equal(unpack(packed, type).view(np.uint8), array.view(np.uint8))


def test_the_first_number_lies_lowest():
    assert pack(np.array([1, 2, 3], DTYPES["u2"].numpy)).tolist() == [1 | 2 << 2 | 3 << 4]
    assert pack(np.array([-1, 1], DTYPES["i4"].numpy)).tolist() == [0x1F]


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_weights_of_every_type_are_saved_and_read(dtype: DType, tmp_path: Path):
    b = Builder()
    w = b.emit_node("weight", (), {"name": "w"}, types=[TensorType(dtype, (7,))]).output
    y = b.emit("reshape", w, shape=(7, 1))
    program = Program({"f": b.finish([y])}, ("f",), {"w": Weight(TensorType(dtype, (7,)), Held(some(dtype)))}, {})
    save(program, tmp_path / "p")
    again = load(tmp_path / "p", check=True)
    read = materialize(again.weights["w"])
    assert read.dtype == dtype.numpy
    np.testing.assert_array_equal(read.astype(np.float64), some(dtype).astype(np.float64))
    assert to_text(from_text(to_text(program))) == to_text(program)


@pytest.mark.parametrize("dtype", [d for d in ALL if d.is_float and d.bits < 16], ids=str)
def test_codes_stay_codes_in_float64(dtype: DType):
    """Judging others' rounding must not undo that a model rounds to 8 bits on purpose."""
    b = Builder()
    x = b.input("x", TensorType(f32, (4,)))
    y = b.emit("cast", b.emit("cast", x, dtype=dtype), dtype=f32)
    program = Program({"f": b.finish([y], ["y"])}, ("f",), {}, {})
    given = {"x": np.array([0.3, 1.1, 2.7, 5.3], np.float32)}
    wanted = given["x"].astype(dtype.numpy).astype(np.float64)
    np.testing.assert_array_equal(evaluate(program, given, float64=True)["y"], wanted)
