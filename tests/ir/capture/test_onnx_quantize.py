"""ONNX casts and quantised ops, against ONNX Runtime or ONNX's own reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from tundish.ir.capture.onnx_types import NUMBERS
from tundish.ir.diagnostics import CaptureError
from tundish.ir.dtypes import DTYPES

from .onnx_kit import check, imported, model, ops, ours, theirs

RNG = np.random.default_rng(0)
FLOATS = np.array([0, -0.0, 0.3, -1.7, 239, 241, 447, 449, 1e5, -1e5, 1e-4, np.inf, -np.inf, np.nan], np.float32)


@pytest.mark.parametrize("name", ["f8e4m3", "f8e5m2", "f8e4m3fnuz", "f8e5m2fnuz"])
@pytest.mark.parametrize("saturate", [0, 1])
def test_casts_to_eight_bits(name: str, saturate: int):
    from onnx import helper

    from .onnx_kit import graph_model

    nodes = [helper.make_node("Cast", ["x"], ["c"], to=NUMBERS[name], saturate=saturate),
             helper.make_node("Cast", ["c"], ["y"], to=1)]  # fmt: skip
    check(graph_model(nodes, {"x": FLOATS}, ["y"]), {"x": FLOATS}, 0)


@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
@pytest.mark.parametrize("saturate", [0, 1])
def test_casts_to_powers_of_two(mode: str, saturate: int):
    x = np.array([1, 1.5, 1.4999, 1.5001, 3, 2.5e-39, 3e38, 1e-45, 0, np.inf, np.nan, -3], np.float32)
    proto = model("Cast", ["x"], {"x": x}, opset=24, to=NUMBERS["f8e8m0"], saturate=saturate, round_mode=mode)
    (wanted,) = ReferenceEvaluator(proto).run(None, {"x": x})
    np.testing.assert_array_equal(ours(proto, {"x": x})[0].view(np.uint8), np.asarray(wanted).view(np.uint8))


def test_bits_of_another_width_are_refused():
    x = np.zeros(3, np.float32)
    with pytest.raises(CaptureError, match="BitCast: bitcast: f32 and i64 are not of one width"):
        imported(model("BitCast", ["x"], {"x": x}, opset=26, to=7))


SCALES: dict[str, tuple[Any, Any, dict[str, int]]] = {
    "tensor": (np.float32(0.1), np.uint8(7), {}),
    "axis": (np.array([0.1, 0.2, 0.3, 0.05], np.float32), np.array([1, 2, 3, 4], np.uint8), {"axis": 1}),
    "last": (np.array([0.1, 0.2, 0.3], np.float32), np.array([1, 2, 3], np.uint8), {"axis": -1}),
    "blocks": (RNG.random((2, 2, 3)).astype(np.float32), RNG.integers(0, 9, (2, 2, 3)).astype(np.uint8),
               {"axis": 1, "block_size": 2}),
}  # fmt: skip


@pytest.mark.parametrize("form", SCALES)
@pytest.mark.parametrize("zero", [False, True])
def test_there_and_back(form: str, zero: bool):
    scale, point, attrs = SCALES[form]
    x = (5 * RNG.standard_normal((2, 4, 3))).astype(np.float32)
    arrays = {"x": x, "s": np.asarray(scale)} | ({"z": np.asarray(point)} if zero else {})
    quantize = model("QuantizeLinear", list(arrays), arrays, **attrs)
    check(quantize, arrays)
    (q,) = ours(quantize, arrays)
    back = arrays | {"x": q}
    check(model("DequantizeLinear", list(back), back, **attrs), back, 1e-6)


@pytest.mark.parametrize("axis", [0, 1, None])
def test_a_quantised_weight_stays_one(axis: int | None):
    """A scale for each row, each column or all of a matrix is one `dequantize` over the file's own numbers."""
    n = {0: 80, 1: 60, None: 1}[axis]
    arrays = {
        "q": RNG.integers(-128, 127, (80, 60)).astype(np.int8), "s": RNG.random(n).astype(np.float32).reshape(
            () if axis is None else (n,)), "z": RNG.integers(-9, 9, () if axis is None else (n,)).astype(np.int8),
    }  # fmt: skip
    proto = model("DequantizeLinear", ["q", "s", "z"], arrays, held=("q", "s", "z"),
                  **({} if axis is None else {"axis": axis}))  # fmt: skip
    check(proto, arrays, 1e-6)
    program = imported(proto)
    assert ops(program)[-1] == "dequantize"
    assert str(program.weights["q"].type) == "i8[80, 60]"


def test_products_of_bytes():
    a, b = RNG.integers(0, 255, (2, 3, 8)).astype(np.uint8), RNG.integers(-128, 127, (8, 5)).astype(np.int8)
    zeros = {"za": np.uint8(3), "zb": RNG.integers(-5, 5, 5).astype(np.int8)}
    arrays = {"a": a, "b": b} | {n: np.asarray(z) for n, z in zeros.items()}
    check(model("MatMulInteger", list(arrays), arrays), arrays, 0)
    full = {"a": a, "sa": np.float32(0.1), "za": zeros["za"], "b": b, "sb": RNG.random(5).astype(np.float32),
            "zb": zeros["zb"], "sy": np.float32(9), "zy": np.uint8(100)}  # fmt: skip
    full = {n: np.asarray(v) for n, v in full.items()}
    check(model("QLinearMatMul", list(full), full), full, 0)


def test_convolutions_of_bytes():
    x, w = RNG.integers(0, 255, (1, 2, 5, 5)).astype(np.uint8), RNG.integers(0, 255, (3, 2, 3, 3)).astype(np.uint8)
    arrays = {"x": x, "w": w, "zx": np.asarray(np.uint8(9)), "zw": np.asarray(np.uint8(3))}
    check(model("ConvInteger", list(arrays), arrays, pads=[1, 1, 1, 1], strides=[2, 2]), arrays, 0)
    full = {"x": x, "sx": np.float32(0.1), "zx": np.uint8(9), "w": w, "sw": RNG.random(3).astype(np.float32),
            "zw": np.array([1, 2, 3], np.uint8), "sy": np.float32(40), "zy": np.uint8(90),
            "b": RNG.integers(-900, 900, 3).astype(np.int32)}  # fmt: skip
    full = {n: np.asarray(v) for n, v in full.items()}
    proto = model("QLinearConv", list(full), full, held=("w", "zw"))
    assert np.abs(ours(proto, full)[0].astype(int) - theirs(proto, full)[0].astype(int)).max() <= 1


@pytest.mark.parametrize("name", [n for n in NUMBERS if n != "bool"])
def test_every_type_enters_and_leaves(name: str):
    array = np.array([1, 0, 1]).astype(DTYPES[name].numpy)
    if DTYPES[name].bits < 8:
        pytest.skip("protobuf packs it")
    proto = model("Identity", ["x"], {"x": array}, opset=24)
    np.testing.assert_array_equal(ours(proto, {"x": array})[0].view(np.uint8), array.view(np.uint8))
