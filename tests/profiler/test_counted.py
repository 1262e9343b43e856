"""What a run must do is counted from the program of a bundle."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tundish.ir.build import Builder
from tundish.ir.dims import Range, symbol
from tundish.ir.dtypes import f32, i64
from tundish.ir.graph import Program
from tundish.ir.tensor import TensorType
from tundish.ir.weights import Held, Weight
from tundish.profiler.counted import Counted, of_program


@given(st.integers(1, 64), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_a_product_reads_its_weights_whole_and_a_table_by_the_row(rows: int, table: int, k: int, n: int) -> None:
    b, m = Builder(), symbol("m")
    held = {"t": (table, k), "w": (k, n)}
    t, w = (b.emit_node("weight", (), {"name": name}, types=(TensorType(f32, s),)).output for name, s in held.items())
    y = b.emit("linear", b.emit("gather", t, b.input("ids", TensorType(i64, (m,))), axis=0), w)
    weights = {name: Weight(TensorType(f32, s), Held(np.zeros(s, np.float32))) for name, s in held.items()}
    program = Program({"forward": b.finish([y], ["y"])}, ("forward",), weights, {"m": Range(1, 64)})
    assert of_program(program, "forward", {"m": rows}) == Counted(
        2 * rows * k * n, 4 * k * n + min(4 * table * k, 4 * rows * k + 8 * rows)
    )  # fmt: skip
