"""Repeated layers are found by structure, cut at the right place, and unfolding gives the flat program back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from tundish.ir.build import Builder
from tundish.ir.canonical import canonical
from tundish.ir.diagnostics import Where
from tundish.ir.dims import Range, symbol
from tundish.ir.dtypes import f32
from tundish.ir.evaluate import evaluate
from tundish.ir.fold import fold, unfold
from tundish.ir.graph import Graph, Node, Program, Value
from tundish.ir.tensor import TensorType
from tundish.ir.text import same, to_text
from tundish.ir.verify import verify
from tundish.ir.walk import resolve, walk
from tundish.ir.weights import Held, Weight

D = 8
X = TensorType(f32, (symbol("batch"), symbol("seq"), D))


@dataclass
class Model:
    """A flat program under construction."""

    b: Builder = field(default_factory=Builder)
    weights: dict[str, Weight] = field(default_factory=dict)
    made: dict[str, Value] = field(default_factory=dict)
    at: str = ""
    line: int = 1

    def emit(self, op: str, *inputs: Value, **attrs: object) -> Value:
        return self.b.emit(op, *inputs, where=Where("model.py", self.line, self.at), **attrs)

    def weight(self, name: str, *shape: int) -> Value:
        name = f"{self.at}.{name}" if self.at else name
        if name not in self.made:
            array = np.random.default_rng(len(self.weights)).standard_normal(shape).astype(np.float32) / 4
            self.weights[name] = Weight(TensorType(f32, shape), Held(array))
            node = self.b.emit_node("weight", (), {"name": name}, types=[self.weights[name].type],
                                    where=Where("model.py", 1, self.at), names=(name,))  # fmt: skip
            self.made[name] = node.output
        return self.made[name]

    def norm(self, x: Value, name: str = "norm") -> Value:
        """An RMS norm as models write it, in single ops."""
        within, self.at = self.at, f"{self.at}.{name}" if self.at else name
        square = self.emit("pow", x, self.emit("constant", value=2.0, dtype=f32))
        mean = self.emit("mean", square, axes=(2,), keepdims=True)
        scale = self.emit("rsqrt", self.emit("add", mean, self.emit("constant", value=1e-6, dtype=f32)))
        y = self.emit("mul", self.weight("weight", D), self.emit("mul", x, scale))
        self.at = within
        return y

    def linear(self, x: Value, name: str) -> Value:
        n = x.type.shape[-1]
        return self.emit("linear", x, self.emit("transpose", self.weight(name, n, n), perm=(1, 0)))

    def attention(self, x: Value, causal: bool = True, swapped: bool = False) -> Value:
        q, k, v = (self.emit("reshape", self.linear(x, n), shape=(*X.shape[:2], 2, D // 2)) for n in "qkv")
        y = self.emit("attention", *((k, v, q) if swapped else (q, k, v)), scale=0.5, causal=causal)
        return self.linear(self.emit("reshape", y, shape=X.shape), "o")

    def mlp(self, x: Value) -> Value:
        return self.linear(self.emit("silu", self.linear(x, "up")), "down")

    def program(self, *outputs: Value) -> Program:
        graph = self.b.finish(outputs, [f"y{i}" for i in range(len(outputs))])
        return canonical(Program({"main": graph}, ("main",), self.weights, {"batch": Range(1, 8), "seq": Range()}))


Layer = Callable[[Model, Value, int], Value]


def pre_norm(m: Model, x: Value, i: int) -> Value:
    m.at = f"layers.{i}"
    h = m.emit("add", x, m.attention(m.norm(x, "norm1")))
    return m.emit("add", h, m.mlp(m.norm(h, "norm2")))


def post_norm(m: Model, x: Value, i: int) -> Value:
    m.at = f"layers.{i}"
    h = m.norm(m.emit("add", x, m.attention(x)), "norm1")
    return m.norm(m.emit("add", h, m.mlp(h)), "norm2")


def stack(layer: Layer, count: int, head: str = "norm") -> Program:
    m = Model()
    x = m.emit("tanh", m.b.input("x", X))
    if layer is post_norm:
        x = m.norm(m.emit("add", x, m.weight("position", D)), "embeddings.norm")
    for i in range(count):
        x = layer(m, x, i)
    m.at = ""
    return m.program(m.norm(x, head) if layer is pre_norm and head else m.emit("tanh", x))


def calls(program: Program) -> list[Node]:
    return [n for n in program.entry.nodes if n.op.name == "call"]


def counted(program: Program) -> dict[str, int]:
    return dict(Counter(n.attrs["function"] for n in calls(program)))


def check(program: Program) -> Program:
    """Folds, and holds what must hold for every fold."""
    folded = verify(fold(program))
    assert same(unfold(folded), canonical(program))
    assert [(w, n.op.name) for w, n in walk(folded) if n.op.name != "weight"] == [
        (n.where, n.op.name) for n in canonical(program).entry.nodes if n.op.name != "weight"
    ]
    x = {"x": np.random.default_rng(1).standard_normal((2, 3, D)).astype(np.float32)}
    before, after = evaluate(program, x), evaluate(folded, x)
    assert all(before[k].tobytes() == after[k].tobytes() for k in before)
    return folded


@pytest.mark.parametrize("layer", [pre_norm, post_norm])
@pytest.mark.parametrize("count", [2, 3, 12])
def test_equal_layers_are_one_function(layer: Layer, count: int) -> None:
    folded = check(stack(layer, count))
    assert counted(folded) == {"layers": count}
    assert [n.attrs["index"] for n in calls(folded)] == list(range(count))
    assert list(folded.functions) == ["layers", "main"]


def ops(graph: Graph) -> list[str]:
    return [n.op.name for n in graph.nodes]


def test_a_pre_norm_body_begins_after_the_norm_and_ends_with_the_next() -> None:
    body = check(stack(pre_norm, 4)).functions["layers"]
    assert body.nodes[0].op.name == "transpose"  # of the query's weight
    assert ops(body)[-9:] == ["add", "constant", "pow", "mean", "constant", "add", "rsqrt", "mul", "mul"]
    assert len(body.outputs) == 2
    assert body.nodes[-1].where == Where("model.py", 1, "layers.{i+1}.norm1")


def test_the_last_call_holds_the_final_norm_at_its_own_place() -> None:
    folded = check(stack(pre_norm, 3))
    last = calls(folded)[-1]
    assert last.attrs["elsewhere"] == ("model.py:1 layers.{i+1}.norm1", "model.py:1 norm")
    assert all(n.attrs["elsewhere"] == () for n in calls(folded)[:-1])
    norm = folded.functions["layers"].nodes[-1]
    assert resolve(norm.where, last) == Where("model.py", 1, "norm")
    assert resolve(norm.where, calls(folded)[0]) == Where("model.py", 1, "layers.1.norm1")


def test_a_pre_norm_stack_without_a_final_norm_begins_with_the_norm() -> None:
    folded = check(stack(pre_norm, 3, head=""))
    assert counted(folded) == {"layers": 3}
    assert len(folded.functions["layers"].outputs) == 1


def test_a_post_norm_body_ends_with_its_norm_and_passes_one_value() -> None:
    body = check(stack(post_norm, 3)).functions["layers"]
    assert ops(body)[-2:] == ["mul", "mul"]
    assert len(body.outputs) == 1
    assert body.nodes[-1].where == Where("model.py", 1, "layers.{i}.norm2")


def test_inputs_are_values_first_and_weights_by_their_name_in_the_layer() -> None:
    names = [v.name for v in check(stack(post_norm, 2)).functions["layers"].inputs]
    assert names == ["x", "q", "k", "v", "o", "norm1.weight", "up", "down", "norm2.weight"]


def test_names_decide_nothing() -> None:
    """The layers of this model are numbered nowhere, and every node has a place of its own."""

    def layer(m: Model, x: Value, i: int) -> Value:
        m.line = 100 * i + 7
        y = pre_norm(m, x, 0)
        m.at = f"part_{'abc'[i]}"
        m.made.clear()  # each layer makes its own weight nodes, all of one table entry
        return y

    folded = check(stack(layer, 3))
    assert counted(folded) == {"layer": 3}
    assert [n.attrs["index"] for n in calls(folded)] == [-1, -1, -1]
    assert calls(folded)[2].attrs["elsewhere"]


def test_layers_that_share_their_weights_fold() -> None:
    def layer(m: Model, x: Value, i: int) -> Value:
        return post_norm(m, x, 0)

    folded = check(stack(layer, 3))
    assert counted(folded) == {"layer": 3}
    assert len({n.inputs[1:] for n in calls(folded)}) == 1


def test_alternating_layers_fold_as_pairs() -> None:
    def layer(m: Model, x: Value, i: int) -> Value:
        m.at = f"layers.{i}"
        h = m.emit("add", x, m.attention(m.norm(x, "norm1"), causal=i % 2 == 0))
        return m.emit("add", h, m.mlp(m.norm(h, "norm2")))

    folded = check(stack(layer, 6))
    assert counted(folded) == {"layers": 3}
    assert [n.attrs["index"] for n in calls(folded)] == [0, 2, 4]
    places = {n.where.module.split(".")[1] for n in folded.functions["layers"].nodes}
    assert places == {"{i}", "{i+1}"}


def test_periods_of_three_have_a_place_in_the_template_too() -> None:
    def layer(m: Model, x: Value, i: int) -> Value:
        m.at = f"layers.{i}"
        x = post_norm(m, x, i)
        return m.emit("relu", x) if i % 3 == 2 else x

    folded = check(stack(layer, 9))
    assert [(n.attrs["index"], n.attrs["elsewhere"]) for n in calls(folded)] == [(0, ()), (3, ()), (6, ())]


def test_two_groups_become_two_functions() -> None:
    m = Model()
    x = m.emit("tanh", m.b.input("x", X))
    for i in range(3):
        m.at = f"encoder.layers.{i}"
        h = m.emit("add", x, m.attention(m.emit("layer_norm", x, m.weight("n", D), m.weight("nb", D), eps=1e-5), False))
        x = m.emit("add", h, m.mlp(h))
    m.at, memory = "bridge", x
    y = m.emit("relu", x)
    for i in range(4):
        m.at = f"decoder.layers.{i}"
        h = m.emit("add", y, m.attention(m.norm(y, "n1")))
        y = m.emit("add", h, m.mlp(m.emit("mul", m.norm(h, "n2"), memory)))
    m.at = ""
    folded = check(m.program(y))
    assert counted(folded) == {"layers": 3, "decoder_layers": 4}
    assert all(n.inputs.count(calls(folded)[2].outputs[0]) == 1 for n in calls(folded)[4:])


def test_every_layers_output_may_be_wanted() -> None:
    m = Model()
    x = m.emit("tanh", m.b.input("x", X))
    states = []
    for i in range(4):
        x = post_norm(m, x, i)
        states.append(x)
    m.at = ""
    folded = check(m.program(*states))
    assert counted(folded) == {"layers": 4}
    assert list(folded.entry.outputs) == [n.outputs[0] for n in calls(folded)]


def test_a_value_of_an_early_layer_may_be_used_by_all_later_ones() -> None:
    m = Model()
    x = first = m.emit("tanh", m.b.input("x", X))
    for i in range(5):
        x = post_norm(m, m.emit("mul", x, first), i)
        first = x if i == 1 else first
    m.at = ""
    check(m.program(m.emit("tanh", x)))


def test_a_layer_wired_otherwise_is_not_taken_for_the_same() -> None:
    """Same ops and types in the same order; layer 2 is wired otherwise in two places, so that no cut hides it."""

    def layer(m: Model, x: Value, i: int) -> Value:
        m.at = f"layers.{i}"
        h = m.norm(m.emit("add", x, m.attention(x, swapped=i == 2)), "norm1")
        return m.norm(m.emit("add", h, m.mlp(x if i == 2 else h)), "norm2")

    folded = check(stack(layer, 7))
    assert counted(folded) == {"layers": 6}  # two stretches of one kind, one function
    assert [n.attrs["index"] for n in calls(folded)] == [0, 1, 3, 4, 5, 6]
    assert any(n.where.module.startswith("layers.2") for n in folded.entry.nodes if n.op.name == "attention")


def test_another_attribute_or_type_is_another_layer() -> None:
    def layer(m: Model, x: Value, i: int) -> Value:
        x = post_norm(m, x, i)
        return m.emit("mul", x, m.emit("constant", value=1.0 + (i == 3), dtype=f32))

    assert counted(check(stack(layer, 4))) == {"layers": 3}


def test_repeated_phrases_are_not_layers() -> None:
    """What reads fewer than two matrices, or is short, stays as it is: rotary embeddings, projections, activations."""
    m = Model()
    x = m.b.input("x", X)
    for _ in range(6):  # 9 nodes that read no weight
        y = x
        for op in ("neg", "sin", "cos", "tanh", "abs", "sigmoid", "relu", "gelu"):
            y = m.emit(op, y)
        x = m.emit("add", x, y)
    for i in range(6):  # 3 nodes with a matrix
        x = m.emit("silu", m.linear(x, f"w{i}"))
    program = m.program(x)
    assert same(check(program), program)


def test_layers_win_over_what_repeats_inside_them() -> None:
    def layer(m: Model, x: Value, i: int) -> Value:
        m.at = f"layers.{i}"
        total = x
        for e in range(6):
            m.at = f"layers.{i}.experts.{e}"
            total = m.emit("add", total, m.mlp(m.mlp(m.emit("tanh", total))))
            m.made.clear()
        m.at = f"layers.{i}"
        return m.norm(total, "norm")

    folded = check(stack(layer, 3))
    assert counted(folded) == {"layers": 3}


def test_nodes_of_one_template_may_go_to_different_places() -> None:
    """The final norm stands at two lines, the layers' norms at one."""
    m = Model()
    x = m.emit("tanh", m.b.input("x", X))
    for i in range(3):
        x = pre_norm(m, x, i)
    m.at, m.line = "final", 50
    square = m.emit("pow", x, m.emit("constant", value=2.0, dtype=f32))
    m.line = 51
    mean = m.emit("mean", square, axes=(2,), keepdims=True)
    scale = m.emit("rsqrt", m.emit("add", mean, m.emit("constant", value=1e-6, dtype=f32)))
    y = m.emit("mul", m.weight("weight", D), m.emit("mul", x, scale))
    folded = check(m.program(y))
    assert counted(folded) == {"layers": 3}


@pytest.mark.parametrize("file", ["dir with space/model.py", 'say "so".py', "a:5", "é.py"])
def test_odd_file_names_survive(file: str) -> None:
    program = stack(pre_norm, 3)
    nodes = tuple(
        Node(n.op, n.inputs, n.attrs, n.outputs, Where(file, n.where.line, n.where.module)) for n in program.entry.nodes
    )
    graph = Graph(program.entry.inputs, nodes, program.entry.outputs, program.entry.output_names)
    assert counted(check(program.replace(functions={"main": graph}))) == {"layers": 3}


def test_folding_twice_changes_nothing_and_is_the_same_every_time() -> None:
    program = stack(pre_norm, 5)
    folded = fold(program)
    assert same(fold(folded), folded)
    assert to_text(fold(program)) == to_text(folded)


def test_canonical_orders_weights_by_first_use_and_numbers_the_rest() -> None:
    m = Model()
    x = m.b.input("x", X)
    unused, late, early = m.weight("unused", D), m.weight("late", D), m.weight("early", D)
    y = m.emit("add", m.emit("add", x, early), late)
    flat = Program({"main": m.b.finish([y])}, ("main",), m.weights, {"batch": Range(), "seq": Range()})
    names = [v.name for n in canonical(flat).entry.nodes for v in n.outputs]
    assert names == ["early", "late", "unused", "0", "1"]
    assert canonical(canonical(flat)) is canonical(canonical(flat)) or same(canonical(canonical(flat)), canonical(flat))
    assert unused.name == "unused"


def test_unfold_inlines_calls_within_calls_and_fused_ones() -> None:
    from tundish.ir.text import from_text

    program = verify(from_text(NESTED))
    flat = unfold(program)
    assert list(flat.functions) == ["main"]
    assert [(n.op.name, str(n.where)) for n in flat.entry.nodes] == [
        ("neg", "a.py:1 blocks.3.layers.0"), ("tanh", "a.py:2 blocks.3.layers.0"), ("neg", "a.py:1 blocks.3.layers.1"),
        ("tanh", "a.py:2 other"),
    ]  # fmt: skip
    x = np.array([0.1, -2.0, 3.0], np.float32)
    assert evaluate(flat, {"x": x})["output_0"].tobytes() == evaluate(program, {"x": x})["output_0"].tobytes()


NESTED = """\
symbol n: 1..

function kernel(%x: f32[n]) {
  %0: f32[n] = neg(%x)   # a.py:1 blocks.3.layers.{i}
  %1: f32[n] = tanh(%0)   # a.py:2 blocks.3.layers.{i}
  return %1
}

function pair(%x: f32[n]) {
  %0: f32[n] = fused(%x, function="kernel", index=0, anchor="neg", epilogue=["tanh"])   # a.py:3 blocks.3
  %1: f32[n] = fused(%0, function="kernel", index=1, elsewhere=["a.py:2 blocks.3.layers.{i}", "a.py:2 other"], \
anchor="neg", epilogue=["tanh"])   # a.py:3 blocks.3
  return %1
}

entry main(%x: f32[n]) {
  %0: f32[n] = call(%x, function="pair", index=3)   # a.py:9 blocks.3
  return %0
}
"""
