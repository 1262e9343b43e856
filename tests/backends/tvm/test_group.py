"""Groups of nodes that one kernel computes: random graphs of products and element-wise ops mean what they meant."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tundish.backends.tvm.group import MOST_ARRAYS, MOST_NODES, groups
from tundish.backends.tvm.lower import cpus
from tundish.backends.tvm.steps import FORMULAS
from tundish.backends.tvm.tiles import WIDTH
from tundish.ir.build import Builder
from tundish.ir.dtypes import f32
from tundish.ir.graph import Graph, Value, producers, users
from tundish.ir.op import get

from .kit import Case, case, check

RNG = np.random.default_rng(0)
ONE, TWO = ("tanh", "sigmoid", "neg", "gelu", "silu", "relu", "abs"), ("add", "sub", "mul", "maximum")
K, N = 9, 41


def numbers(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def panels() -> np.ndarray:
    packed: np.ndarray = get("to_panels").reference(numbers(K, N), width=WIDTH)
    return packed


def arrays(m: int) -> dict[str, np.ndarray]:
    return {
        "x": numbers(m, K), "full": numbers(m, N), "bias": numbers(N), "column": numbers(1, N), "row": numbers(m, 1),
        "one": numbers(1), "turned": numbers(N, m), "w0": panels(), "w1": panels(),
    }  # fmt: skip


def some_graph(seed: int) -> Case:
    """Ops on values that were made before, most of them recent ones; all that nobody reads are outputs."""
    choose = random.Random(seed)

    def write(b: Builder, x: Value, full: Value, turned: Value, w0: Value, w1: Value, **others: Value) -> Any:
        wide = [full, b.emit("transpose", turned, perm=(1, 0)), b.emit("panel_linear", x, w0, columns=N)]
        wide.append(b.emit("panel_linear", x, w1, others["bias"], columns=N))
        small = [*others.values(), b.emit("constant", value=choose.uniform(-2, 2), dtype=f32)]
        for _ in range(choose.randint(1, 9)):
            near = wide[-1 - min(choose.randrange(len(wide)), choose.randrange(len(wide)))]
            if choose.random() < 0.4:
                wide.append(b.emit(choose.choice(ONE), near))
            else:
                pair = [near, choose.choice([*wide, *small])]
                choose.shuffle(pair)
                wide.append(b.emit(choose.choice(TWO), *pair))
        graph = b.finish(wide[2:])
        used = users(graph)
        return [v for v in wide[2:] if not used[v]]

    given = arrays(6)
    named = {n: ["m", None] for n in ("x", "full", "row")} | {"turned": [None, "m"]}
    return case(write, given, named).also({**given, **{k: v for k, v in arrays(13).items() if k in named}})


GRAPHS = {f"graph_{seed}": some_graph(seed) for seed in range(8)}


def test_answers(tmp_path: Path) -> None:
    check(GRAPHS, tmp_path, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_group_gives_one_result(name: str) -> None:
    graph = GRAPHS[name].graph
    found, used = groups(graph, cpus()), users(graph)
    of = {node: group for group in found.values() if group is not None for node in group.all}
    assert of.keys() == found.keys()
    for last, group in found.items():
        if group is None:
            continue
        assert group.nodes[-1] is last
        assert 1 < len(group.all) <= MOST_NODES + 1
        assert len(group.arrays) <= MOST_ARRAYS
        for node in (n for n in group.all if n is not last):
            assert node.output not in graph.outputs
            assert all(of.get(user) is group for user in used[node.output])


def alone(graph: Graph) -> int:
    """Element-wise nodes and products that are kernels of their own, or the last of a group."""
    found = groups(graph, cpus())
    return sum(found.get(n, n) is not None for n in graph.nodes if n.op.name in FORMULAS or n.op.name == "panel_linear")


def test_the_two_products_of_a_gated_layer_take_all_that_follows_them() -> None:
    def write(b: Builder, x: Value, w0: Value, w1: Value, bias: Value) -> Value:
        gate = b.emit("silu", b.emit("panel_linear", x, w0, columns=N))
        return b.emit("add", b.emit("mul", gate, b.emit("panel_linear", x, w1, columns=N)), bias)

    given = {n: a for n, a in arrays(4).items() if n in ("x", "w0", "w1", "bias")}
    graph = case(write, given).graph
    assert alone(graph) == 2
    assert [g.anchor.op.name for g in groups(graph, cpus()).values() if g is not None and g.anchor] == ["panel_linear"]


def test_what_is_used_twice_or_later_read_is_a_kernel_of_its_own() -> None:
    def write(b: Builder, full: Value) -> tuple[Value, Value]:
        twice = b.emit("tanh", full)
        return b.emit("add", b.emit("exp", twice), full), twice

    graph = case(write, {"full": numbers(3, N)}).graph
    assert alone(graph) == 2
    assert producers(graph)[graph.outputs[1]] not in groups(graph, cpus())
