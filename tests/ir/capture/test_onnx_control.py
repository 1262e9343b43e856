"""ONNX's branches, loops and sequences: taken, unrolled, selected, or refused with the way out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tundish.ir.capture import from_onnx
from tundish.ir.capture.from_onnx import Unsettled, capture
from tundish.ir.diagnostics import CaptureError

from .onnx_kit import check, graph_model, imported, number, ops, ours

X = np.array([1.0, -2.0], np.float32)


def info(name: str, kind: int = TensorProto.FLOAT, shape: Sequence[int] | None = (2,)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def branch(op: str, *inputs: str, **attrs: Any) -> onnx.GraphProto:
    name = f"{op}_out"
    return helper.make_graph([helper.make_node(op, inputs, [name], **attrs)], op, [], [info(name, shape=None)])


def choice(condition: np.ndarray, then: onnx.GraphProto, other: onnx.GraphProto, held: bool) -> onnx.ModelProto:
    node = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    return graph_model([node], {"c": condition, "x": X}, ["y"], held=("c",) if held else ())


@pytest.mark.parametrize("truth", [True, False])
@pytest.mark.parametrize("held", [True, False])
def test_if(truth: bool, held: bool):
    """A known condition leaves one branch; one that is an input selects between both."""
    proto = choice(np.array(truth), branch("Relu", "x"), branch("Neg", "x"), held)
    arrays = {"c": np.array(truth), "x": X}
    check(proto, arrays)
    assert ops(imported(proto)) == (["relu"] if truth else ["neg"]) if held else ["relu", "neg", "where"]


def test_branches_of_different_shapes_ask_for_the_condition():
    proto = choice(np.array(True), branch("Relu", "x"), branch("Concat", "x", "x", axis=0), held=False)
    with pytest.raises(Unsettled, match="branch, whose outputs differ in type, depends on the values of 'c'") as error:
        capture(proto)
    assert error.value.inputs == ("c",)
    assert ops(imported(proto, fixed={"c": np.array(False)})) == ["concat"]


def test_an_op_without_counterpart_in_a_branch_is_reported():
    proto = choice(np.array(True), branch("Relu", "x"), branch("Nonsense", "x"), held=False)
    with pytest.raises(CaptureError, match="1 kind of op cannot be captured:\n  .*Nonsense"):
        capture(proto)


def doubling(*, condition: str = "Identity", scan: bool = True) -> onnx.GraphProto:
    """x -> 2 x, which is also gathered; the condition is passed on, or made anew from the counter."""
    nodes = [helper.make_node(condition, ["i", "five"] if condition == "Less" else ["go"], ["on"]),
             helper.make_node("Add", ["v", "v"], ["w"]), helper.make_node("Identity", ["w"], ["rows"])]  # fmt: skip
    ins = [info("i", TensorProto.INT64, ()), info("go", TensorProto.BOOL, ()), info("v")]
    outs = [info("on", TensorProto.BOOL, ()), info("w"), *([info("rows")] if scan else [])]
    return helper.make_graph(nodes, "body", ins, outs)


def loop(trips: int | None, body: onnx.GraphProto, *, held: bool = True, outputs: Sequence[str] = ("y", "r")) -> Any:
    arrays = {"n": np.array(trips or 0), "five": np.array(3), "t": np.array(True), "x": X}
    node = helper.make_node("Loop", ["n" if trips is not None else "", "t", "x"], outputs, body=body)
    proto = graph_model([node], arrays, outputs, held=("n", "five", "t") if held else ("five", "t"))
    return proto, arrays


@pytest.mark.parametrize("trips", [1, 3])
def test_loops_are_unrolled(trips: int):
    proto, arrays = loop(trips, doubling())
    check(proto, arrays)
    assert ops(imported(proto)).count("add") == trips


def test_a_loop_runs_while_its_condition_holds():
    proto, arrays = loop(None, doubling(condition="Less"))
    check(proto, arrays)
    assert ops(imported(proto)).count("add") == 4


def test_a_loop_of_no_turn_gives_empty_rows():
    proto, arrays = loop(0, doubling())
    found = ours(proto, arrays)
    assert [f.shape for f in found] == [(2,), (0, 2)]


def test_an_unknown_trip_count_asks_for_it():
    proto, _ = loop(3, doubling(), held=False)
    with pytest.raises(Unsettled, match="Loop: its trip count depends on the values of 'n'") as error:
        capture(proto)
    assert error.value.inputs == ("n",)


@pytest.mark.parametrize("trips", [2**40, 2**62])
def test_endless_loops_are_refused(trips: int):
    with pytest.raises(CaptureError, match="more than 4096 turns are not unrolled"):
        capture(loop(trips, doubling())[0])


def test_loops_within_loops_are_refused_when_they_come_to_too_much(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(from_onnx, "_MOST", 5000)
    inner = helper.make_node("Loop", ["n", "", "v"], ["w"], body=helper.make_graph(
        [helper.make_node("Identity", ["go2"], ["on2"]), helper.make_node("Neg", ["v2"], ["w2"])], "inner",
        [info("i2", TensorProto.INT64, ()), info("go2", TensorProto.BOOL, ()), info("v2")],
        [info("on2", TensorProto.BOOL, ()), info("w2")]))  # fmt: skip
    outer = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), inner], "outer",
        [info("i", TensorProto.INT64, ()), info("go", TensorProto.BOOL, ()), info("v")],
        [info("on", TensorProto.BOOL, ()), info("w")])  # fmt: skip
    with pytest.raises(CaptureError, match="come to more than 5,000 nodes"):
        capture(loop(4000, outer, outputs=("y",))[0])


def test_functions_that_double_each_other_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(from_onnx, "_MOST", 5000)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    calls = [
        helper.make_function("own", f"f{i}", ["a"], ["b"], [
            helper.make_node(f"f{i + 1}", ["a"], ["t"], domain="own"),
            helper.make_node(f"f{i + 1}", ["t"], ["b"], domain="own")], opsets) for i in range(25)
    ]  # fmt: skip
    calls.append(helper.make_function("own", "f25", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], opsets))
    graph = helper.make_graph([helper.make_node("f0", ["x"], ["y"], domain="own")], "g", [info("x")], [info("y")])
    with pytest.raises(CaptureError, match="come to more than 5,000 nodes"):
        capture(helper.make_model(graph, functions=calls, opset_imports=opsets))


@pytest.mark.parametrize("attrs", [
    {}, {"scan_input_directions": [1]}, {"scan_output_directions": [1]}, {"scan_output_axes": [1]},
    {"scan_input_axes": [1]},
])  # fmt: skip
def test_scan(attrs: dict[str, list[int]]):
    nodes = [helper.make_node("Add", ["s", "e"], ["t"]), helper.make_node("Mul", ["t", "e"], ["m"])]
    body = helper.make_graph(nodes, "body", [info("s"), info("e")], [info("t"), info("m")])
    given = np.arange(6, dtype=np.float32).reshape((2, 3) if "scan_input_axes" in attrs else (3, 2))
    arrays = {"s0": X, "xs": given}
    node = helper.make_node("Scan", ["s0", "xs"], ["y", "r"], body=body, num_scan_inputs=1, **attrs)
    check(graph_model([node], arrays, ["y", "r"]), arrays)


def test_a_scan_over_a_size_that_varies_is_refused():
    body = helper.make_graph([helper.make_node("Add", ["s", "e"], ["t"])], "body", [info("s"), info("e")], [info("t")])
    node = helper.make_node("Scan", ["s0", "xs"], ["y"], body=body, num_scan_inputs=1)
    proto = graph_model([node], {"s0": X, "xs": np.zeros((3, 2), np.float32)}, ["y"])
    with pytest.raises(CaptureError, match="Scan: it runs over seq elements, which must be one number"):
        capture(proto, {"xs": {0: "seq"}})


def test_sequences():
    """Split, insert, erase, at, length and concat, all settled while the file is read."""
    arrays = {"x": np.arange(12, dtype=np.float32).reshape(6, 2), "two": np.array(2), "minus": np.array(-1)}
    nodes = [
        helper.make_node("SplitToSequence", ["x", "two"], ["s"], axis=0),
        helper.make_node("SequenceAt", ["s", "minus"], ["last"]),
        helper.make_node("SequenceInsert", ["s", "last", "minus"], ["more"]),
        helper.make_node("SequenceLength", ["more"], ["n"]),
        helper.make_node("SequenceErase", ["more", "two"], ["less"]),
        helper.make_node("ConcatFromSequence", ["less"], ["y"], axis=1),
    ]
    check(graph_model(nodes, arrays, ["y", "n"], held=("two", "minus")), arrays)


def test_a_sequence_as_an_output_is_refused():
    node = helper.make_node("SequenceConstruct", ["x", "x"], ["y"])
    with pytest.raises(CaptureError, match="takes a sequence, which is not a tensor"):
        capture(graph_model([node], {"x": X}, ["y"]))


def test_a_position_outside_is_refused():
    arrays = {"x": X, "at": np.array(5)}
    nodes = [helper.make_node("SequenceConstruct", ["x", "x"], ["s"]),
             helper.make_node("SequenceAt", ["s", "at"], ["y"])]  # fmt: skip
    with pytest.raises(CaptureError, match=r"position \[5\] is outside a sequence of 2"):
        capture(graph_model(nodes, arrays, ["y"], held=("at",)))


def test_an_empty_optional_is_refused_where_its_value_is_asked_for():
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(number(X), [2]))
    nodes = [helper.make_node("Optional", [], ["o"], type=kind), helper.make_node("OptionalGetElement", ["o"], ["y"])]
    with pytest.raises(CaptureError, match="the optional is empty"):
        capture(graph_model(nodes, {"x": X}, ["y"]))


def test_ops_of_an_older_opset_that_have_changed_are_refused():
    old = graph_model([helper.make_node("Clip", ["x"], ["y"], min=0.0)], {"x": X}, ["y"], opset=10)
    with pytest.raises(CaptureError, match="Clip of opset 10 means something else than today"):
        capture(old)
    same = graph_model([helper.make_node("Relu", ["x"], ["y"])], {"x": X}, ["y"], opset=10)
    np.testing.assert_array_equal(ours(same, {"x": X})[0], [1, 0])


@pytest.mark.parametrize("local", [True, False])
def test_a_name_that_nothing_makes_is_refused(local: bool):
    call = helper.make_node("f" if local else "Relu", ["nothing"], ["y"], domain="own" if local else "")
    proto = graph_model([call], {"x": np.ones(2, np.float32)}, ["y"])
    opsets = [helper.make_opsetid("", 21)]
    proto.functions.append(
        helper.make_function("own", "f", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], opsets)
    )
    with pytest.raises(CaptureError, match="reads 'nothing', which nothing before it makes"):
        capture(proto)
