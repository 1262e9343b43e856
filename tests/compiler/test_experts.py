"""Layers of experts are packed as they are held, and what binds them is said by the machine and the routing."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from tundish.compiler.capabilities import Capabilities
from tundish.compiler.cost.roofline import Roofline
from tundish.compiler.experts.schedule import Layer, schedule, uniform
from tundish.compiler.hardware.machine import this_machine
from tundish.compiler.passes.experts import experts
from tundish.compiler.task import Precision, Task
from tundish.ir.build import Builder
from tundish.ir.dtypes import bf16, f32, i64
from tundish.ir.evaluate import Evaluator
from tundish.ir.graph import Program
from tundish.ir.op import OPS
from tundish.ir.tensor import TensorType
from tundish.ir.weights import Held, Weight

E, K, D, F, T = 4, 2, 64, 48, 3


def test_layers_pack_what_their_callers_widen() -> None:
    """A layer's parameters are f32 and every call gives them bf16 weights, widened: they stay bf16 in panels."""
    layer, shapes = Builder(), {"up": (E, 2 * F, D), "down": (E, D, F)}
    kinds = {"x": TensorType(f32, (T, D)), "ids": TensorType(i64, (T, K)), "share": TensorType(f32, (T, K))}
    given = [layer.input(n, t) for n, t in kinds.items()]
    held = [layer.emit("transpose", layer.input(n, TensorType(f32, s)), perm=(0, 2, 1)) for n, s in shapes.items()]
    body = layer.finish([layer.emit("moe", *given, *held)])
    b, weights, rng = Builder(), dict[str, Weight](), np.random.default_rng(0)
    y, *rest = (b.input(n, t) for n, t in kinds.items())
    for i in range(2):
        parts: list[Any] = []
        for name, shape in shapes.items():
            kind = TensorType(bf16, shape)
            weights[f"{name}{i}"] = Weight(kind, Held((rng.standard_normal(shape) / 8).astype(bf16.numpy)))
            one = b.emit_node("weight", (), {"name": f"{name}{i}"}, types=(kind,)).output
            parts.append(b.emit("cast", one, dtype=f32))
        y = b.emit_node("call", (y, *rest, *parts), {"function": "layer"}, types=(kinds["x"],)).output
    program = Program({"layer": body, "f": b.finish([y], ["y"])}, ("f",), weights, {})
    precision = dataclasses.replace(Precision(), weights="bf16")
    task = Task(this_machine(), Capabilities("any", frozenset(OPS), panel=32), precision)
    done = experts(program, task).program
    assert [n.op.name for n in done.functions["layer"].nodes] == ["panel_moe"]
    used = [n.attrs["name"] for n in done.functions["f"].nodes if n.op.name == "weight"]
    assert [done.weights[n].type.dtype for n in used if n.endswith("to_expert_panels")] == [bf16] * 4
    inputs = {"x": rng.standard_normal((T, D), np.float32), "ids": rng.integers(0, E, (T, K)),
              "share": rng.random((T, K), np.float32)}  # fmt: skip
    wanted, got = Evaluator(program).run(inputs, "f")["y"], Evaluator(done).run(inputs, "f")["y"]
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layer", [Layer(8, 2, 4000, 2000), Layer(64, 8, 1000, 3000), Layer(1, 1, 10**6, 10)])
def test_below_the_number_that_is_said_reading_binds_and_from_there_on_arithmetic(layer: Layer) -> None:
    roofline, reach = Roofline(1e9, {"memory": 1e8}), uniform(layer)
    found = schedule(layer, roofline)

    def reading(n: int) -> bool:
        return reach(n) * layer.expert_bytes / 1e8 > n * layer.k * layer.row_flops / 1e9

    assert not reading(found.bound_by_memory)
    assert found.bound_by_memory == 1 or reading(found.bound_by_memory - 1)
    assert found.least_rows == pytest.approx(layer.expert_bytes / 1e8 / (layer.row_flops / 1e9), abs=0.5)


def test_recorded_routing_moves_the_bound() -> None:
    """Tokens that all choose the same experts read fewer."""
    layer, roofline = Layer(64, 8, 4000, 2000), Roofline(1e9, {"memory": 1e8})
    skewed = schedule(layer, roofline, lambda n: 8.0)
    assert skewed.bound_by_memory < schedule(layer, roofline).bound_by_memory
    assert {count for _, count in skewed.reached} == {8.0}
