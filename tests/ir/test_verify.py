"""Each rule of the verifier refuses a program that breaks it, naming the user's line."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tundish.ir.build import Builder
from tundish.ir.diagnostics import VerifyError, Where
from tundish.ir.dims import Range, symbol
from tundish.ir.dtypes import f32, i64
from tundish.ir.graph import Graph, Node, Program, Value
from tundish.ir.op import Attrs, get
from tundish.ir.tensor import TensorType
from tundish.ir.text import from_text
from tundish.ir.verify import LIMIT, verify
from tundish.ir.weights import Held, Recipe, Weight

GOOD = """\
symbol batch: 1..
symbol seq: 1..

weight w: f32[4, 4] = held

function layer(%x: f32[batch, 4], %w: f32[4, 4]) {
  %0: f32[batch, 4] = linear(%x, %w, _)   # m.py:5 layers.{i}
  %1: f32[batch, 4] = tanh(%0)   # m.py:6 layers.{i}
  return %1
}

entry main(%x: f32[batch, 4]) {
  %w: f32[4, 4] = weight(name="w")   # m.py:1
  %0: f32[batch, 4] = call(%x, %w, function="layer", index=0)   # m.py:2 layers.0
  %1: f32[batch, 4] = call(%0, %w, function="layer", index=1)   # m.py:3 layers.1
  return y=%1
}
"""


def test_a_good_program_is_given_back() -> None:
    program = from_text(GOOD)
    assert verify(program) is program


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("%1: f32[batch, 4] = tanh", "%1: f32[batch, 5] = tanh",
         r"m.py:6 \(in layers.{i}\): layer: %1: f32\[batch, 5\] = tanh\(%0\): its inputs give f32\[batch, 4\]"),
        ("%w: f32[4, 4]) {", "%w: f32[5, 4]) {", r"m.py:5 .*needs equal inner sizes, got \(4,\) and \(5,\)"),
        ("weight w: f32[4, 4]", "weight w: f32[4, 2]", r"m.py:1: main: .*weight 'w' is f32\[4, 2\]"),
        ("weight w: f32[4, 4]", "weight v: f32[4, 4]", r"m.py:1: main: .*there is no weight 'w'"),
        ('function="layer", index=1', 'function="leyer", index=1', r"m.py:3 .*there is no function 'leyer'"),
        ('function="layer", index=1', 'function="main", index=1', r"m.py:3 .*'main' does not stand before its caller"),
        ("call(%0, %w, f", "call(%0, f", r"m.py:3 .*'layer' takes 2 values, not 1"),
        ("call(%0, %w, f", "call(%w, %w, f", r"m.py:3 .*takes f32\[batch, 4\] as number 0, not f32\[4, 4\]"),
        ("%1: f32[batch, 4] = call", "%1: f32[batch, 3] = call", r"m.py:3 .*'layer' gives f32\[batch, 4\] as number 0"),
        ("symbol batch: 1..\n", "", r"'batch', which is no symbol of the program"),
        ("entry main(%x: f32[batch, 4])", "entry main(%x: f32[2*batch, 4])", r"no input has 'batch' as a size"),
        ("weight w: f32[4, 4] = held", "weight w: f32[4, 4] = transpose(held: f32[4, 3], perm=[1, 0])",
         r"weight 'w': its recipe gives f32\[3, 4\], the table says f32\[4, 4\]"),
        ("weight w: f32[4, 4]", "weight w: f32[batch, 4]", r"weight 'w': its shape is not of numbers"),
        ("return y=%1", "return y=%1, y=%0", r"an output name stands twice: y, y"),
        ("linear(%x, %w, _)", "linear(%x)", r"m.py:5 .*linear: takes inputs"),
        ("linear(%x, %w, _)", "linear(%x, _, _)", r"m.py:5 .*input 'weight' must be given"),
        ("tanh(%0)   # m.py:6 layers.{i}", 'tanh(%0)   # "":0 "layers"', r"has no place in the user's model"),
        ("entry main", "function main", r"the program has no entry"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_named(old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(VerifyError, match=message):
        verify(from_text(GOOD.replace(old, new, 1)))


HERE = Where("m.py", 1)
SCALAR = TensorType(f32)


def node(op: str, *inputs: Value | None, name: str = "y", type: TensorType = SCALAR, **attrs: object) -> Node:
    return Node(get(op), inputs, Attrs(attrs), (Value(name, type),), HERE)


def program(graph: Graph, **fields: object) -> Program:
    return Program({"main": graph}, ("main",), **fields)  # type: ignore[arg-type]


def fails(graph: Graph, message: str) -> None:
    with pytest.raises(VerifyError, match=message):
        verify(program(graph))


def test_values_are_made_before_they_are_used() -> None:
    x = Value("x", SCALAR)
    first = node("neg", x)
    second = node("neg", first.output, name="z")
    fails(Graph((x,), (second, first), second.outputs), "%y is not made before .*z")
    fails(Graph((), (first,), first.outputs), "%x is not made before")
    fails(Graph((x,), (first,), (Value("y", SCALAR),)), "%y is not made before the end of the graph")


def test_names_and_values_are_made_once() -> None:
    x = Value("x", SCALAR)
    one, other = node("neg", x), node("neg", x)
    fails(Graph((x,), (one, other), one.outputs), "the name %y stands for two values")
    fails(Graph((x,), (one, replace(other, outputs=one.outputs)), one.outputs), "%y is made twice")


def test_attributes_are_the_ops() -> None:
    x = Value("x", SCALAR)
    unknown = node("neg", x, speed=1)
    fails(Graph((x,), (unknown,), unknown.outputs), "neg: has no attribute speed")
    wide = Value("w", TensorType(f32, (2,)))
    lacking = Node(get("softmax"), (wide,), Attrs(), (Value("y", wide.type),), HERE)
    fails(Graph((wide,), (lacking,), lacking.outputs), "lacks attributes that have a default")
    wrong = node("softmax", wide, type=wide.type, axis=1.5)
    fails(Graph((wide,), (wrong,), wrong.outputs), "attribute 'axis' is a int, got 1.5")


def test_a_node_without_a_place() -> None:
    x = Value("x", SCALAR)
    lost = replace(node("neg", x), where=None)
    fails(Graph((x,), (lost,), lost.outputs), "has no place in the user's model")


def test_output_names_are_as_many_as_outputs() -> None:
    x = Value("x", SCALAR)
    y = node("neg", x)
    fails(Graph((x,), (y,), y.outputs, ("a", "b")), "1 outputs have 2 names")


def test_symbols_of_attributes_are_declared() -> None:
    count = node("dim_value", type=TensorType(i64), dim=symbol("seq"))
    fails(Graph((), (count,), count.outputs), "'seq', which is no symbol")
    with pytest.raises(VerifyError, match=r"m.py:1: entry 'main': no input has 'seq' as a size of its own"):
        verify(program(Graph((), (count,), count.outputs), symbols={"seq": Range()}))


def test_a_symbol_of_a_callee_is_bound_too() -> None:
    text = GOOD.replace("tanh(%0) ", "tanh(%0) ").replace(
        "  return %1\n}\n\nentry", "  %2: i64[seq] = iota(length=seq)   # m.py:7\n  return %1\n}\n\nentry"
    )
    with pytest.raises(VerifyError, match="no input has 'seq' as a size of its own"):
        verify(from_text(text))


CACHE = """\
function step(%cache: f32[2, 8, 4], %new: f32[2, 1, 4], %at: i64[]) {
  %0: f32[2, 8, 4] = cache_write(%cache, %new, %at)   # m.py:1
  return %0
}

entry main(%cache: f32[2, 8, 4], %new: f32[2, 1, 4], %at: i64[]) {
  %0: f32[2, 8, 4] = CALL   # m.py:2
  %1: f32[2, 8, 4] = neg(%0)   # m.py:3
  return %0, %1
}
"""
DIRECT, CALL = "cache_write(%cache, %new, %at)", 'call(%cache, %new, %at, function="step")'


@pytest.mark.parametrize("how", [DIRECT, CALL])
def test_what_was_written_over_is_not_read(how: str) -> None:
    verify(from_text(CACHE.replace("CALL", how)))
    with pytest.raises(VerifyError, match=r"m.py:3: main: %cache is read by .*neg.*, after .*%0.* wrote over it"):
        verify(from_text(CACHE.replace("CALL", how).replace("neg(%0)", "neg(%cache)")))
    with pytest.raises(VerifyError, match=r"%cache is read by the end of the graph"):
        verify(from_text(CACHE.replace("CALL", how).replace("return %0", "return %cache")))


def test_all_problems_are_told_at_once_up_to_a_limit() -> None:
    x = Value("x", SCALAR)
    bad = tuple(node("neg", x, name=f"y{i}", type=TensorType(f32, (2,))) for i in range(LIMIT + 5))
    with pytest.raises(VerifyError) as caught:
        verify(program(Graph((x,), bad, bad[0].outputs)))
    lines = caught.value.message.splitlines()
    assert len(lines) == LIMIT + 1
    assert lines[-1].strip() == "and 5 more"
    assert caught.value.where == HERE


def test_an_op_that_cannot_take_its_inputs_is_a_problem_not_a_crash() -> None:
    x = Value("x", SCALAR)
    odd = node("transpose", x, perm=(0, 1, 2))
    fails(Graph((x,), (odd,), odd.outputs), "transpose")


def test_weights_of_recipes_are_looked_into() -> None:
    inner = Weight(TensorType(f32, (symbol("n"), 2)), Held(np.zeros((2, 2), np.float32)))
    outer = Weight(TensorType(f32, (2, symbol("n"))), Recipe(get("transpose"), Attrs({"perm": (1, 0)}), (inner,)))
    b = Builder(HERE)
    x = b.input("x", SCALAR)
    graph = b.finish([b.emit("neg", x)])
    with pytest.raises(VerifyError, match="its shape is not of numbers"):
        verify(program(graph, weights={"w": outer}))
