"""Parameters in all and of one token: experts count k of e."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from tundish.ir import dims, dtypes
from tundish.ir.build import Builder
from tundish.ir.dims import Range
from tundish.ir.graph import Program
from tundish.ir.op import get
from tundish.ir.tensor import TensorType
from tundish.ir.weights import Held, Recipe, Weight
from tundish.profiler.account import account
from tundish.profiler.parameters import parameters

N = dims.symbol("tokens")
E, K, D, F = 8, 2, 4, 6


def f32(*shape):
    return TensorType(dtypes.f32, shape)


def experts(gate_up: Weight, down: Weight, k: int = K) -> Program:
    """A router and a layer of experts, with a shared expert beside them."""
    b, values = Builder(), {}
    weights = {"router.weight": Weight(f32(D, E)), "experts.gate_up": gate_up, "experts.down": down,
               "shared.weight": Weight(f32(D, D))}  # fmt: skip
    for name, weight in weights.items():
        values[name] = b.emit_node("weight", (), {"name": name}, types=[weight.type], names=[name]).output
    x = b.input("x", f32(N, D))
    scores, ids = b.emit_node("topk", [b.emit("linear", x, values["router.weight"], None)], {"k": k}).outputs
    mixed = b.emit("moe", x, ids, scores, values["experts.gate_up"], values["experts.down"])
    y = b.emit("add", mixed, b.emit("linear", x, values["shared.weight"], None))
    return Program({"f": b.finish([y])}, ("f",), weights, {"tokens": Range(1, 64)})


def stacked(*shape: int) -> Weight:
    """A layer's experts out of one array for each, as checkpoints hold them."""
    parts = tuple(Weight(f32(1, *shape), Held(np.zeros((1, *shape), np.float32))) for _ in range(E))
    return Weight(f32(E, *shape), Recipe(get("concat"), {"axis": 0}, parts))


@pytest.mark.parametrize("k", [1, 2, 8])
@pytest.mark.parametrize("form", ["one array", "an array for each expert"])
def test_experts_count_k_of_e_and_all_else_in_full(form, k):
    if form == "one array":
        gate_up, down = Weight(f32(E, D, 2 * F)), Weight(f32(E, F, D))
    else:
        gate_up, down = stacked(D, 2 * F), stacked(F, D)
    program = experts(gate_up, down, k)
    one = D * 2 * F + F * D
    found = account(program, {"tokens": 5})
    assert found.parameters == D * E + D * D + E * one
    assert found.active == D * E + D * D + k * one
    modules = {r.name: (r.parameters, r.active) for r in found.by_module}
    assert modules["shared"] == (D * D, D * D)
    if form == "one array":
        assert modules["experts"] == (E * one, k * one)


def test_each_storage_has_its_name_and_share():
    program = experts(Weight(f32(E, D, 2 * F)), Weight(f32(E, F, D)))
    found = {p.name: p for p in parameters(program, None, frozenset(), None)}
    assert found["experts.down"].active == Fraction(K, E) * found["experts.down"].elements == K * F * D
    assert found["router.weight"].active == found["router.weight"].elements
    assert found["experts.down"].module == "experts"


def test_a_dense_model_uses_all_of_them():
    b = Builder()
    w = b.emit_node("weight", (), {"name": "w"}, types=[f32(3, 5)]).output
    y = b.emit("linear", b.input("x", f32(N, 3)), w, None)
    found = account(Program({"f": b.finish([y])}, ("f",), {"w": Weight(f32(3, 5))}, {"tokens": Range(1, 9)}))
    assert found.parameters == found.active == 15
