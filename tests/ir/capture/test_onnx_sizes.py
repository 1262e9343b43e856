"""ONNX ops where sizes vary: captured once, right at all sizes, as onnx's own evaluator says."""

from __future__ import annotations

import numpy as np
import pytest

from tundish.ir.capture.from_onnx import Unsettled, capture
from tundish.ir.diagnostics import CaptureError
from tundish.ir.evaluate import evaluate

from .sized_onnx import captured, drawn, model, same

AT = [{"b": 2, "s": 5, "t": 7, "n": 3}, {"b": 1, "s": 2, "t": 2, "n": 2}, {"b": 3, "s": 9, "t": 4, "n": 6}]
I64 = np.int64
X = {"x": "f32[b, s, 4]"}


def ints(*values: int) -> np.ndarray:
    return np.array(values, I64)


SMALL = {  # what it shows -> nodes, inputs, constants
    "slice from the end": ([("Slice", "x a z i", "y")], X, {"a": ints(-2), "z": ints(2**31 - 1), "i": ints(1)}),
    "slice to before the end": ([("Slice", "x a z i", "y")], X, {"a": ints(0), "z": ints(-1), "i": ints(1)}),
    "slice further than there is": ([("Slice", "x a z i", "y")], X, {"a": ints(-99), "z": ints(6), "i": ints(-2)}),
    "slice with a step": ([("Slice", "x a z i w", "y")], X,
                          {"a": ints(1), "z": ints(99), "i": ints(1), "w": ints(2)}),
    "slice backwards": ([("Slice", "x a z i w", "y")], X,
                        {"a": ints(-1), "z": ints(-(2**63)), "i": ints(1), "w": ints(-1)}),
    "slice backwards in part": ([("Slice", "x a z i w", "y")], X,
                                {"a": ints(99), "z": ints(0), "i": ints(1), "w": ints(-2)}),
    "slice to a size": (
        [("Shape", "x", "d"), ("Gather", "d one", "n"), ("Unsqueeze", "n zero", "z"), ("Slice", "t zero z zero", "y")],
        X, {"one": I64(1), "zero": ints(0), "t": np.arange(64.0, dtype=np.float32)}),
    "halves of a size": (
        [("Shape", "x", "d"), ("Gather", "d one", "n"), ("Div", "n two", "h"), ("Unsqueeze", "h zero", "z"),
         ("Slice", "x zero z axis", "y")], X, {"one": I64(1), "two": I64(2), "zero": ints(0), "axis": ints(1)}),
    "split of two equal parts": ([("Split", "x", "y z", {"axis": 1, "num_outputs": 2})], {"x": "f32[b, 6, s]"}, {}),
    "split in unequal parts": ([("Split", "x", "y z u", {"axis": 1, "num_outputs": 3})], {"x": "f32[b, 7, s]"}, {}),
    "pad by a mirror": ([("Pad", "x p", "y", {"mode": "reflect"})], X, {"p": ints(0, 1, 0, 0, 1, 0)}),
    "pad by a mirror, there and back": ([("Pad", "x p", "y", {"mode": "reflect"})], {"x": "f32[b, 3]"},
                                        {"p": ints(0, 2, 0, 2)}),
    "pad by the edge": ([("Pad", "x p", "y", {"mode": "edge"})], X, {"p": ints(0, 3, 1, 2, 5, 0)}),
    "pad round": ([("Pad", "x p", "y", {"mode": "wrap"})], X, {"p": ints(0, 1, 0, 0, 2, 0)}),
    "pad with a number": ([("Pad", "x p v i", "y")], X, {"p": ints(2, 0), "v": np.float32(-3), "i": ints(1)}),
    "tile by a size": ([("Shape", "x", "d"), ("Tile", "w d", "y")], {"x": "f32[b, s]"},
                       {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}),
    "expand both ways": ([("Expand", "x d", "y")], {"x": "f32[b, 1, s]"}, {"d": ints(2, 1, 4, 1)}),
    "flatten": ([("Flatten", "x", "y", {"axis": 2})], X, {}),
    "triangle above": ([("Trilu", "x k", "y")], {"x": "f32[b, s, t]"}, {"k": I64(1)}),
    "triangle below": ([("Trilu", "x k", "y", {"upper": 0})], {"x": "f32[s, t]"}, {"k": I64(-1)}),
    "a range of a size": ([("Shape", "x", "d"), ("Gather", "d one", "n"), ("Range", "zero n two", "y")], X,
                          {"one": I64(1), "zero": I64(0), "two": I64(2)}),
    "a range down from a size": ([("Shape", "x", "d"), ("Gather", "d one", "n"), ("Range", "n zero m", "y")], X,
                                 {"one": I64(1), "zero": I64(0), "m": I64(-1)}),
    "zeros of a shape": ([("Shape", "x", "d"), ("ConstantOfShape", "d", "y")], X, {}),
    "a diagonal": ([("EyeLike", "x", "y", {"k": 1})], {"x": "f32[s, t]"}, {}),
    "places counted from the end": ([("Gather", "x i", "y", {"axis": 1})], {**X, "i": "i64[n]"}, {}),
    "slices by places": ([("GatherND", "x i", "y")], {"x": "f32[s, t, 4]", "i": "i64[b, n, 2]"}, {}),
    "slices by places of each row": ([("GatherND", "x i", "y", {"batch_dims": 1})],
                                     {"x": "f32[b, s, t]", "i": "i64[b, n, 1]"}, {}),
    "elements put in fewer rows": ([("ScatterElements", "x i u", "y", {"axis": 1, "reduction": "add"})],
                                   {"x": "f32[5, s]", "i": "i64[3, t]", "u": "f32[3, t]"}, {}),
    "slices added at places": ([("ScatterND", "x i u", "y", {"reduction": "add"})],
                               {"x": "f32[s, t, 4]", "i": "i64[n, 2]", "u": "f32[n, 4]"}, {}),
    "the last of the greatest": ([("ArgMax", "x", "y", {"axis": 1, "select_last_index": 1, "keepdims": 0})],
                                 {"x": "i64[b, s]"}, {}),
    "the least": ([("ArgMin", "x", "y", {"axis": 1})], X, {}),
    "a sum of what comes after": ([("CumSum", "x i", "y", {"reverse": 1, "exclusive": 1})], X, {"i": I64(1)}),
    "sequences turned round": ([("ReverseSequence", "x n", "y", {"time_axis": 1, "batch_axis": 0})], X,
                               {"n": None}),
    "one hot": ([("OneHot", "i d v", "y", {"axis": 1})], {"i": "i64[b, s]"}, {"d": I64(3), "v": np.float32([-1, 2])}),
    "compressed": ([("Compress", "x c", "y", {"axis": 2})], X, {"c": np.array([True, False, True, True])}),
    "a mean of sizes": ([("ReduceMean", "x i", "y")], X, {"i": ints(0, 1)}),
    "log of a sum of exponentials": ([("ReduceLogSumExp", "x i", "y", {"keepdims": 0})], X, {"i": ints(1)}),
    "the product": ([("ReduceProd", "x", "y")], X, {}),
    "a convolution": ([("Conv", "x w", "y", {"pads": [1, 1], "strides": [2]})], {"x": "f32[b, 4, t]"},
                      {"w": np.random.default_rng(0).normal(size=(5, 4, 2)).astype(np.float32)}),
    "a transposed convolution": ([("ConvTranspose", "x w", "y", {"strides": [2]})], {"x": "f32[b, 4, t]"},
                                 {"w": np.random.default_rng(0).normal(size=(4, 3, 3)).astype(np.float32)}),
    "the greatest in windows": ([("MaxPool", "x", "y", {"kernel_shape": [2], "strides": [2], "pads": [1, 1]})],
                                {"x": "f32[b, 4, t]"}, {}),
    "the mean in windows": ([("AveragePool", "x", "y", {"kernel_shape": [2], "pads": [1, 0]})],
                            {"x": "f32[b, 4, t]"}, {}),
    "depth to space": ([("DepthToSpace", "x", "y", {"blocksize": 2})], {"x": "f32[b, 8, s, t]"}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_means_the_same_at_all_sizes(name: str) -> None:
    nodes, inputs, constants = SMALL[name]
    lengths = [k for k, v in constants.items() if v is None]
    inputs = {**inputs, **dict.fromkeys(lengths, "i64[b]")}
    held = {k: v for k, v in constants.items() if v is not None}
    outputs = nodes[-1][2].split()
    made = model(nodes, inputs, held, outputs=outputs)
    arrays = [drawn(made, sizes, seed) for seed, sizes in enumerate(AT)]
    for given, sizes in zip(arrays, AT, strict=True):
        given.update({k: np.arange(sizes["b"]) % sizes["s"] + 1 for k in lengths})
    same(made, arrays)


SHAPES = {  # a size on its way through ONNX's tensors -> nodes, inputs, constants, the ops that are left of it
    "cast": ([("Shape", "x", "d"), ("Cast", "d", "c", {"to": 6}), ("Cast", "c", "e", {"to": 7}),
              ("Reshape", "x e", "y")], X, {}, []),
    "cast to a float": ([("Shape", "x", "d"), ("Cast", "d", "c", {"to": 1}), ("Cast", "c", "e", {"to": 7}),
                         ("Reshape", "x e", "y")], X, {}, []),
    "split": ([("Shape", "x", "d"), ("Split", "d", "b s n", {"num_outputs": 3}), ("Mul", "b s", "w"),
               ("Concat", "w n", "e", {"axis": 0}), ("Reshape", "x e", "y")], X, {}, ["reshape"]),
    "scatter": ([("Shape", "x", "d"), ("ScatterND", "d i u", "e"), ("Reshape", "x e", "y")], X,
                {"i": np.array([[2]]), "u": ints(-1)}, []),
    "tile": ([("Shape", "x", "d"), ("Gather", "d one", "s"), ("Tile", "s two", "e"), ("ConstantOfShape", "e", "y")], X,
             {"one": ints(1), "two": ints(2)}, ["constant", "expand"]),
    "compare": ([("Shape", "x", "d"), ("Gather", "d one", "s"), ("Less", "s big", "q"), ("Where", "q s zero", "e"),
                 ("Slice", "x zero e one", "y")], X, {"one": ints(1), "big": ints(1000), "zero": ints(0)}, []),
    "pads": ([("Shape", "x", "d"), ("Gather", "d one", "s"), ("Sub", "most s", "q"),
              ("Concat", "three q", "p", {"axis": 0}), ("Pad", "x p", "y")],
             {"x": "f32[b, s]"}, {"one": ints(1), "most": ints(64), "three": ints(0, 0, 0)},
             ["constant", "expand", "expand", "concat", "expand", "expand", "concat"]),
    "range of a float": ([("Shape", "x", "d"), ("Gather", "d one", "s"), ("Cast", "s", "c", {"to": 1}),
                          ("Range", "zero c step", "y")], X,
                         {"one": I64(1), "zero": np.float32(0), "step": np.float32(1)}, ["iota"]),
    "the rest by -1": ([("Shape", "x", "d"), ("Size", "x", "n"), ("Slice", "d zero one", "b"), ("Div", "n b", "w"),
                        ("Concat", "b w", "e", {"axis": 0}), ("Reshape", "x e", "y")], X,
                       {"zero": ints(0), "one": ints(1)}, ["reshape"]),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_sizes_stay_sizes(name: str) -> None:
    nodes, inputs, constants, left = SHAPES[name]
    made = model(nodes, inputs, constants)
    program = same(made, [drawn(made, sizes) for sizes in AT])
    assert [n.op.name for n in program.entry.nodes] == left


def test_a_negative_pad_cuts() -> None:
    program = captured(model([("Pad", "x p", "y")], X, {"p": ints(0, -1, 0, 2, 0, -2)}))
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    np.testing.assert_array_equal(evaluate(program, {"x": x})["y"], np.pad(x[:, 1:, :2], ((0, 2), (0, 0), (0, 0))))


def test_elements_of_fewer_rows() -> None:
    made = model([("GatherElements", "x i", "y", {"axis": 1})], {"x": "f32[5, s]", "i": "i64[3, t]"})
    given = drawn(made, AT[0])
    wanted = np.take_along_axis(given["x"][:3], given["i"] % 5, 1)
    np.testing.assert_array_equal(evaluate(captured(made), given)["y"], wanted)


def test_a_value_that_decides_a_shape_is_asked_for() -> None:
    made = model([("Reshape", "x d", "y")], {"x": "f32[b, 6]", "d": "i64[2]"})
    with pytest.raises(Unsettled, match="its shape depends on the values of 'd'") as caught:
        captured(made)
    assert caught.value.inputs == ("d",)
    program = captured(made, fixed={"d": ints(-1, 3)})
    assert [v.name for v in program.entry.inputs] == ["x"]
    assert [str(d) for d in program.entry.outputs[0].type.shape] == ["2*b", "3"]


def test_a_padding_value_may_be_an_input() -> None:
    made = model([("Pad", "x p v", "y")], {"x": "f32[b, s]", "v": "f32[]"}, {"p": ints(0, 1, 0, 2)})
    same(made, [drawn(made, sizes) for sizes in AT])


def test_sizes_are_folded_into_a_reshape() -> None:
    """What exporters write for x.view(batch, seq, heads, size): no size is computed at run time."""
    made = model(
        [("Shape", "x", "d"), ("Gather", "d zero", "b"), ("Gather", "d one", "s"), ("Unsqueeze", "b axis", "b1"),
         ("Unsqueeze", "s axis", "s1"), ("Concat", "b1 s1 heads", "to", {"axis": 0}), ("Reshape", "x to", "y")],
        X, {"zero": I64(0), "one": I64(1), "axis": ints(0), "heads": ints(2, -1)},
    )  # fmt: skip
    program = same(made, [drawn(made, sizes) for sizes in AT])
    assert [n.op.name for n in program.entry.nodes] == ["reshape"]


ODD = {  # what is wrong -> node, inputs, constants, the words of the error
    "an axis outside": (("Concat", "x x", "y", {"axis": 3}), "axis 3 is outside a tensor of 3 axes"),
    "a split in more pieces than outputs": (("Split", "x", "y z", {"num_outputs": 2**40}), "109951162.* pieces for 2"),
    "a squeeze of what is not 1": (("Squeeze", "x one", "y"), "axis 1 of f32.* is not of size 1"),
    "a triangle of a vector": (("Trilu", "v", "y"), "Trilu takes matrices"),
    "two bounds for one axis": (("Slice", "x one pair", "y"), "Slice: 1 starts, 2 ends"),
    "a step of 0": (("Slice", "x one one one zero", "y"), "a step is 0"),
    "pads for other axes": (("Pad", "x pair", "y"), "2 amounts for 3 axes"),
    "an unknown way to pad": (("Pad", "x six", "y", {"mode": "odd"}), "mode is constant, edge, reflect, wrap"),
    "alpha 0": (("Celu", "x", "y", {"alpha": 0.0}), "alpha is 0"),
    "random numbers": (("Dropout", "x half true", "y"), "drops at random"),
    "a training mode for each": (("Dropout", "x half flags", "y"), "training_mode is one number"),
    "sizes below 0": (("ConstantOfShape", "six", "y"), "with a negative size"),
    "an endless range": (("Range", "zero0 one0 zero0", "y"), "in steps of 0"),
    "a kernel for other axes": (("MaxPool", "x", "y", {"kernel_shape": [2, 2, 2]}), "a kernel of .* does not fit"),
    "a kernel larger than x": (("AveragePool", "x", "y", {"kernel_shape": [9]}), "does not fit into 4"),
    "axes that are no whole numbers": (("ReduceSum", "x half1", "y"), "axes is f32, not whole numbers"),
    "an axis twice": (("ReduceSum", "x twice", "y"), "an axis is named twice"),
    "an unknown reduction": (("ScatterND", "x i u", "y", {"reduction": "odd"}), "reduction is one of"),
    "places with too many coordinates": (("GatherND", "v pair2", "y"), "do not name places of"),
    "an unsettled k": (("TopK", "x k", "y z"), "its k depends on the values of 'k'"),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd_is_refused_in_one_line(name: str) -> None:
    node, words = ODD[name]
    made = model(
        [node], {**X, "v": "f32[b]", "k": "i64[1]", "i": "i64[b, 1]", "u": "f32[b, s, 4]"},
        {"one": ints(1), "zero": ints(0), "pair": ints(1, 2), "six": ints(-1, 0, 0, 0, 0, 0), "half": np.float32(0.5),
         "true": np.array(True), "flags": np.array([True, True]), "zero0": I64(0), "one0": I64(1),
         "half1": np.float32([0.5]), "twice": ints(1, -2), "pair2": np.zeros((2, 2), I64)}, outputs=node[2].split(),
    )  # fmt: skip
    with pytest.raises(CaptureError, match=words) as caught:
        captured(made)
    assert caught.value.where is not None and "\n" not in caught.value.problem


@pytest.mark.parametrize(("opset", "node", "constants"), [
    (11, ("Squeeze", "x", "y", {"axes": [1]}), {}), (13, ("Squeeze", "x i", "y"), {"i": ints(1)}),
    (11, ("Unsqueeze", "x", "y", {"axes": [-1, 0]}), {}), (13, ("Unsqueeze", "x i", "y"), {"i": ints(-1, 0)}),
    (11, ("ReduceSum", "x", "y", {"axes": [-1], "keepdims": 0}), {}), (13, ("ReduceSum", "x i", "y"), {"i": ints(2)}),
    (11, ("ReduceMax", "x", "y", {"axes": [2]}), {}), (18, ("ReduceMax", "x i", "y"), {"i": ints(2)}),
    (11, ("Split", "x", "y z", {"axis": 2, "split": [1, 3]}), {}), (13, ("Split", "x i", "y z", {"axis": 2}),
     {"i": ints(3, 1)}), (11, ("Clip", "x a", "y"), {"a": np.float32(0.5)}), (11, ("Dropout", "x", "y"), {}),
])  # fmt: skip
def test_what_was_an_attribute_is_an_input_now(opset: int, node, constants) -> None:
    made = model([node], {"x": "f32[b, 1, 4]"}, constants, opset=opset, outputs=node[2].split())
    given = drawn(made, AT[0])
    program = captured(made)
    assert len(program.entry.outputs) == len(node[2].split())
    assert program.entry.outputs[0].type.shape[-1] in (1, 2, 3, 4) and given["x"].shape == (2, 1, 4)
    same(made, [given])


def test_an_opset_before_the_oldest_is_refused_where_it_differs() -> None:
    made = model([("Upsample", "x w", "y")], {"x": "f32[1, 4]"}, {"w": np.float32([1, 2])}, opset=9)
    with pytest.raises(CaptureError, match="opset 9"):
        capture(made)
