"""Programs of one model side by side: weights and sizes of one name are one, and nothing else is let through."""

from __future__ import annotations

import numpy as np
import pytest

from tundish.ir.build import Builder
from tundish.ir.diagnostics import GraphError
from tundish.ir.dims import Range, symbol
from tundish.ir.dtypes import f32
from tundish.ir.evaluate import evaluate
from tundish.ir.graph import Program
from tundish.ir.join import join
from tundish.ir.tensor import TensorType
from tundish.ir.verify import verify
from tundish.ir.weights import Held, Weight

NUMBERS = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)


def linear(array: np.ndarray, times: int, size: str = "rows", key: str = "w", high: int = 8) -> Program:
    """`times` products with one weight."""
    b, type = Builder(), TensorType(f32, array.shape)
    x = b.input("x", TensorType(f32, (symbol(size), 4)))
    held = b.emit_node("weight", (), {"name": key}, types=(type,), names=(key,)).output
    for _ in range(times):
        x = b.emit("matmul", x, held)
    weights = {key: Weight(type, Held(array))}
    return Program({"main": b.finish([x], ["y"])}, ("main",), weights, {size: Range(1, high)})


def test_each_entry_answers_as_its_program_alone():
    parts = {"once": linear(NUMBERS, 1), "twice": linear(NUMBERS, 2)}
    whole = verify(join(parts))
    assert whole.entries == ("once", "twice") and list(whole.weights) == ["w"]
    given = {"x": np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)}
    for name, alone in parts.items():
        assert np.array_equal(evaluate(whole, given, name)["y"], evaluate(alone, given)["y"])


def test_equal_bytes_are_one_weight_and_other_bytes_are_refused():
    assert join({"a": linear(NUMBERS, 1), "b": linear(NUMBERS.copy(), 1)}).weights["w"].source.array is NUMBERS
    odd = np.where(NUMBERS > 0, NUMBERS, np.nan)
    assert list(join({"a": linear(odd, 1), "b": linear(odd.copy(), 1)}).weights) == ["w"]
    with pytest.raises(GraphError, match="'w' stands for two weights"):
        join({"a": linear(NUMBERS, 1), "b": linear(NUMBERS + 1, 1)})
    with pytest.raises(GraphError, match="'w' stands for two weights"):
        join({"a": linear(NUMBERS, 1), "b": linear(NUMBERS[:, :3], 1)})
    with pytest.raises(GraphError, match="'w' stands for two weights"):  # the same memory, read the other way
        join({"a": linear(NUMBERS, 1), "b": linear(NUMBERS.T, 1)})


def test_weights_and_sizes_of_other_names_stand_side_by_side():
    whole = join({"a": linear(NUMBERS, 1), "b": linear(NUMBERS + 1, 1, "tokens", "v")})
    assert set(whole.weights) == {"w", "v"} and set(whole.symbols) == {"rows", "tokens"}


def test_a_size_has_one_range():
    with pytest.raises(GraphError, match="rows is"):
        join({"a": linear(NUMBERS, 1), "b": linear(NUMBERS, 1, high=9)})
