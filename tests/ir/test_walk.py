"""Calls expanded: every node as often as it runs, at the user's own place."""

from __future__ import annotations

import pytest

from tundish.ir import dtypes
from tundish.ir.build import Builder
from tundish.ir.diagnostics import Where
from tundish.ir.graph import Program
from tundish.ir.tensor import TensorType
from tundish.ir.walk import op_counts, parse_where, steps, walk

X = TensorType(dtypes.f32, (2, 3))


def body(*ops: tuple[str, Where]):
    b = Builder()
    x = b.input("x", X)
    for op, where in ops:
        x = b.emit(op, x, where=where)
    return b.finish([x])


def caller(calls, before=()):
    b = Builder(Where("top.py", 1))
    x = b.input("x", X)
    for op in before:
        x = b.emit(op, x)
    for graph, name, attrs in calls:
        x = b.call(name, graph, [x], **attrs).output
    return b.finish([x])


def places(program):
    return [(str(where), node.op.name) for where, node in walk(program)]


def test_a_layer_called_thrice_runs_thrice_at_three_places():
    layer = body(("exp", Where("m.py", 7, "layers.{i}.act")), ("tanh", Where("m.py", 9, "layers.{i+1}.norm")))
    main = caller([(layer, "layer", {"index": i}) for i in (0, 1, 2)], before=["neg"])
    program = Program({"layer": layer, "main": main}, ("main",))
    assert places(program) == [
        ("top.py:1", "neg"),
        ("m.py:7 layers.0.act", "exp"), ("m.py:9 layers.1.norm", "tanh"),
        ("m.py:7 layers.1.act", "exp"), ("m.py:9 layers.2.norm", "tanh"),
        ("m.py:7 layers.2.act", "exp"), ("m.py:9 layers.3.norm", "tanh"),
    ]  # fmt: skip
    assert op_counts(program) == {"exp": 3, "tanh": 3, "neg": 1}


def test_elsewhere_goes_before_the_rule():
    layer = body(("exp", Where("m.py", 7, "layers.{i}.act")), ("tanh", Where("m.py", 9, "layers.{i+1}.norm")))
    told = ("m.py:9 layers.{i+1}.norm", "m.py:30 final_norm")
    main = caller([(layer, "layer", {"index": 0}), (layer, "layer", {"index": 1, "elsewhere": told})])
    program = Program({"layer": layer, "main": main}, ("main",))
    assert places(program)[2:] == [("m.py:7 layers.1.act", "exp"), ("m.py:30 final_norm", "tanh")]


def test_a_fused_body_inside_a_layer_takes_the_layers_index():
    kernel = body(("exp", Where("m.py", 7, "layers.{i}.act")))
    b = Builder()
    x = b.input("x", X)
    attrs = {"function": "kernel", "anchor": "exp", "epilogue": ()}
    node = b.emit_node("fused", [x], attrs, types=[X], where=Where("m.py", 7, "layers.{i}.act"))
    layer = b.finish([node.output])
    main = caller([(layer, "layer", {"index": i}) for i in (4, 5)])
    program = Program({"kernel": kernel, "layer": layer, "main": main}, ("main",))
    assert places(program) == [("m.py:7 layers.4.act", "exp"), ("m.py:7 layers.5.act", "exp")]
    assert op_counts(program) == {"exp": 2}


def test_entries_are_walked_one_at_a_time():
    one, two = body(("exp", Where("a.py", 1))), body(("tanh", Where("b.py", 2)))
    program = Program({"one": one, "two": two}, ("one", "two"))
    assert places(program) == [("a.py:1", "exp")]
    assert [str(w) for w, _ in walk(program, "two")] == ["b.py:2"]
    assert op_counts(program, "two") == {"tanh": 1}


@pytest.mark.parametrize(
    "where",
    [Where("m.py"), Where("m.py", 3), Where("m.py", 0, "a.b"), Where("d/m.py", 12, "layers.{i+1}.x"), Where("<built>")],
)
def test_a_place_is_read_back_from_its_text(where):
    assert parse_where(str(where)) == where


def test_each_step_has_a_key_of_its_own_with_the_path_of_its_calls():
    layer = body(("exp", Where("m.py", 7, "layers.{i}.act")), ("tanh", Where("m.py", 9, "layers.{i}.norm")))
    main = caller([(layer, "layer", {"index": i}) for i in (0, 1)], before=["neg"])
    program = Program({"layer": layer, "main": main}, ("main",))
    found = list(steps(program))
    calls = [n.outputs[0].name for n in main.nodes if n.op.name == "call"]
    inner = [n.outputs[0].name for n in layer.nodes]
    assert [s.key for s in found] == [main.nodes[0].outputs[0].name, *(f"{c}/{i}" for c in calls for i in inner)]
    assert [len(s.calls) for s in found] == [0, 1, 1, 1, 1]
