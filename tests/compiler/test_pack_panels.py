"""Weights of products go into panels once, whatever their casts and transposes; a tied embedding has no second copy."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tundish.compiler.capabilities import Capabilities
from tundish.compiler.hardware.machine import this_machine
from tundish.compiler.passes.pack_panels import pack_panels
from tundish.compiler.task import Precision, Task
from tundish.ir.build import Builder
from tundish.ir.dims import Range, symbol
from tundish.ir.dtypes import DTYPES, bf16, f16, f32, i64
from tundish.ir.evaluate import Evaluator
from tundish.ir.graph import Program
from tundish.ir.op import OPS
from tundish.ir.tensor import TensorType
from tundish.ir.weights import Held, Weight


def able(panel: int = 4) -> Task:
    return Task(this_machine(), Capabilities("any", frozenset(OPS), panel=panel), dataclasses.replace(Precision()))


def weight(b: Builder, weights: dict[str, Weight], name: str, *shape: int, dtype: Any = f32) -> Any:
    array = np.random.default_rng(len(weights)).standard_normal(shape).astype(np.float32).astype(dtype.numpy)
    weights[name] = Weight(TensorType(dtype, shape), Held(array))
    return b.emit_node("weight", (), {"name": name}, types=(TensorType(dtype, shape),)).output


def ops(program: Program) -> list[str]:
    return [n.op.name for n in program.functions["f"].nodes if n.op.name != "weight"]


def used(program: Program) -> dict[str, Weight]:
    names = [n.attrs["name"] for n in program.functions["f"].nodes if n.op.name == "weight"]
    return {name: program.weights[name] for name in names}


def same(before: Program, after: Program, inputs: dict[str, np.ndarray]) -> None:
    wanted, got = Evaluator(before).run(inputs, "f"), Evaluator(after).run(inputs, "f")
    for name, array in wanted.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-6, atol=1e-6)


def test_a_product_with_a_weight_is_packed_and_one_of_activations_is_not():
    b, weights = Builder(), dict[str, Weight]()
    x = b.input("x", TensorType(f32, (symbol("s"), 6)))
    other = b.input("other", TensorType(f32, (6, 5)))
    y = b.emit("linear", x, weight(b, weights, "w", 6, 10), weight(b, weights, "bias", 10))
    program = Program({"f": b.finish([y, b.emit("linear", x, other)], ["y", "z"])}, ("f",), weights, {"s": Range(1, 9)})
    done = pack_panels(program, able()).program
    assert ops(done) == ["panel_linear", "linear"]
    assert used(done)["w.to_panels"].type == TensorType(f32, (3, 6, 4))
    rng = np.random.default_rng(0)
    shapes = {"x": (3, 6), "other": (6, 5)}
    same(program, done, {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()})


def test_a_backend_without_panels_gets_the_program_as_it_is():
    b, weights = Builder(), dict[str, Weight]()
    x = b.input("x", TensorType(f32, (2, 6)))
    program = Program({"f": b.finish([b.emit("linear", x, weight(b, weights, "w", 6, 10))])}, ("f",), weights, {})
    assert pack_panels(program, able(0)).program is program


@pytest.mark.parametrize("held", ["f32", "bf16"])
@pytest.mark.parametrize("turned_first", [True, False])
def test_a_tied_embedding_has_one_copy_however_it_is_written(held: str, turned_first: bool):
    b, weights = Builder(), dict[str, Weight]()
    ids = b.input("ids", TensorType(i64, (symbol("s"),)))
    table = weight(b, weights, "table", 10, 6)
    narrow = table if held == "f32" else b.emit("cast", table, dtype=DTYPES[held])
    if turned_first:
        head = b.emit("transpose", table, perm=(1, 0))
        head = head if held == "f32" else b.emit("cast", b.emit("cast", head, dtype=DTYPES[held]), dtype=f32)
    else:
        wide = narrow if held == "f32" else b.emit("cast", narrow, dtype=f32)
        head = b.emit("transpose", wide, perm=(1, 0))
    rows = b.emit("gather", narrow, ids, axis=0)
    rows = rows if held == "f32" else b.emit("cast", rows, dtype=f32)
    program = Program({"f": b.finish([b.emit("linear", rows, head)], ["y"])}, ("f",), weights, {"s": Range(1, 9)})
    done = pack_panels(program, able()).program
    assert [op for op in ops(done) if op != "cast"] == ["panel_gather", "panel_linear"]
    (only,) = used(done).values()
    assert only.type == TensorType(DTYPES[held], (3, 6, 4))
    same(program, done, {"ids": np.array([0, 9, 3])})


def test_bf16_stays_so_and_f16_is_widened_when_it_is_built():
    for dtype, panels in ((bf16, bf16), (f16, f32)):
        b, weights = Builder(), dict[str, Weight]()
        x = b.input("x", TensorType(f32, (2, 6)))
        w = b.emit("cast", weight(b, weights, "w", 6, 10, dtype=dtype), dtype=f32)
        program = Program({"f": b.finish([b.emit("linear", x, w)], ["y"])}, ("f",), weights, {})
        done = pack_panels(program, able()).program
        assert ops(done) == ["panel_linear"]
        (only,) = used(done).values()
        assert only.type.dtype == panels
        same(program, done, {"x": np.ones((2, 6), np.float32)})


def test_layers_pack_what_their_callers_widen():
    """A layer's parameter is f32 and every call gives it a bf16 weight, widened: its panels are bf16, and too large to
    grow."""
    layer, wide = Builder(), TensorType(f32, (256, 256))
    x, w = layer.input("x", TensorType(f32, (2, 256))), layer.input("w", wide)
    body = layer.finish([layer.emit("linear", x, layer.emit("transpose", w, perm=(1, 0)))])
    b, weights = Builder(), dict[str, Weight]()
    y: Any = b.input("x", TensorType(f32, (2, 256)))
    for name in ("first", "second"):
        held = b.emit("cast", weight(b, weights, name, 256, 256, dtype=bf16), dtype=f32)
        y = b.emit_node("call", (y, held), {"function": "layer"}, types=(y.type,)).output
    program = Program({"layer": body, "f": b.finish([y], ["y"])}, ("f",), weights, {})
    held_as = dataclasses.replace(Precision(), weights="bf16")
    done = pack_panels(program, dataclasses.replace(able(), precision=held_as)).program
    assert [n.op.name for n in done.functions["layer"].nodes] == ["panel_linear"]
    assert [w.type.dtype for n, w in used(done).items() if n.endswith("to_panels")] == [bf16, bf16]
    same(program, done, {"x": np.full((2, 256), 1 / 4096, np.float32)})  # so that sums of 256 round below 1e-6
