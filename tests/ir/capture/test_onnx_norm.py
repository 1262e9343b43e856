"""ONNX's products and normalisations, against ONNX Runtime; each is the op of ours that it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tundish.ir.diagnostics import CaptureError

from .onnx_kit import check, imported, model, ops


def floats(*shape: int, seed: int = 0, kind: Any = np.float32) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(kind)


@pytest.mark.parametrize(
    ("attrs", "c", "names"),
    [({}, (5,), ["linear"]), ({}, (), ["linear", "add"]), ({"transB": 1}, (5,), ["transpose", "linear"]),
     ({"transA": 1, "alpha": 0.5, "beta": 2.0}, (3, 1), None), ({"beta": 0.0}, (5,), ["linear"])],
)  # fmt: skip
def test_gemm(attrs: dict[str, Any], c: tuple[int, ...], names: list[str] | None):
    a = floats(4, 3) if attrs.get("transA") else floats(3, 4)
    arrays = {"a": a, "b": floats(5, 4) if attrs.get("transB") else floats(4, 5), "c": floats(*c)}
    proto = model("Gemm", ["a", "b", "c"], arrays, **attrs)
    check(proto, arrays)
    assert names is None or ops(imported(proto)) == names


@pytest.mark.parametrize("shapes", [((4,), (4,)), ((4,), (2, 4, 3)), ((2, 3, 4), (4,)), ((2, 1, 3, 4), (5, 4, 2))])
def test_matmul_of_any_ranks(shapes: tuple[tuple[int, ...], tuple[int, ...]]):
    arrays = {n: floats(*s) for n, s in zip("ab", shapes, strict=True)}
    check(model("MatMul", ["a", "b"], arrays), arrays)


def test_matmul_of_a_scalar_is_refused():
    with pytest.raises(CaptureError, match="takes vectors and matrices"):
        imported(model("MatMul", ["a", "b"], {"a": floats(), "b": floats(3)}))


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("bias", [False, True])
def test_layer_norm(axis: int, bias: bool):
    shape = (4,) if axis == -1 else (3, 4)
    arrays = {"x": floats(2, 3, 4), "w": floats(*shape)} | ({"b": floats(*shape, seed=1)} if bias else {})
    proto = model("LayerNormalization", list(arrays), arrays, axis=axis)
    check(proto, arrays)
    assert [n for n in ops(imported(proto)) if n != "reshape"] == ["layer_norm"]


def test_layer_norm_of_halves_keeps_its_statistics_wide():
    arrays = {"x": 100 * floats(2, 64, kind=np.float16), "w": floats(64, kind=np.float16)}
    proto = model("LayerNormalization", ["x", "w"], arrays, ("y", "mean", "inv"))
    check(proto, arrays, 2e-3)


def test_a_scale_that_varies_elsewhere_is_refused():
    arrays = {"x": floats(2, 3, 4), "w": floats(2, 1, 4)}
    with pytest.raises(CaptureError, match="goes over the axes that are normalised"):
        imported(model("LayerNormalization", ["x", "w"], arrays))


def test_rms_norm_is_one_op():
    arrays = {"x": floats(2, 3, 4), "w": floats(4)}
    proto = model("RMSNormalization", ["x", "w"], arrays, opset=23)
    check(proto, arrays)
    assert ops(imported(proto)) == ["rms_norm"]


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [None, 0, 2])
@pytest.mark.parametrize("opset", [11, 13])
def test_over_one_axis_or_all_behind_it(op: str, axis: int | None, opset: int):
    """Before opset 13 all axes from `axis` on (1 by default) are taken as one."""
    arrays = {"x": floats(2, 3, 4)}
    proto = model(op, ["x"], arrays, opset=opset, **({} if axis is None else {"axis": axis}))
    proto.ir_version = 7
    check(proto, arrays)


@pytest.mark.parametrize("op", ["InstanceNormalization", "BatchNormalization"])
def test_by_channel(op: str):
    arrays = {"x": floats(2, 3, 4, 5), "s": floats(3), "b": floats(3, seed=1)}
    if op == "BatchNormalization":
        arrays |= {"m": floats(3, seed=2), "v": np.abs(floats(3, seed=3))}
    check(model(op, list(arrays), arrays, opset=15), arrays)


@pytest.mark.parametrize("opset", [18, 21])
def test_group_norm(opset: int):
    n = 4 if opset == 21 else 2
    arrays = {"x": floats(2, 4, 3), "s": floats(n), "b": floats(n, seed=1)}
    check(model("GroupNormalization", list(arrays), arrays, opset=opset, num_groups=2), arrays)


def test_groups_that_do_not_divide_are_refused():
    arrays = {"x": floats(2, 4, 3), "s": floats(4), "b": floats(4)}
    with pytest.raises(CaptureError, match="3 groups do not divide"):
        imported(model("GroupNormalization", list(arrays), arrays, num_groups=3))
