"""ONNX's attention, rotary positions and caches as one op of ours each, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

from tundish.ir.diagnostics import CaptureError

from .onnx_kit import check, graph_model, imported, model, ops, ours

B, S, T, H, D = 2, 3, 5, 4, 8


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def qkv(t: int = S, groups: int = H) -> dict[str, np.ndarray]:
    return {"q": floats(B, H, S, D), "k": floats(B, groups, t, D, seed=1), "v": floats(B, groups, t, D, seed=2)}


def only_moves_beside(program: Any, name: str) -> dict[str, Any]:
    """The attributes of the one node that computes."""
    (node,) = [n for n in program.functions["forward"].nodes if not n.op.pure_move]
    assert node.op.name == name
    return dict(node.attrs)


@pytest.mark.parametrize("groups", [H, 2, 1])
def test_attention_is_one_op(groups: int):
    arrays = qkv(groups=groups)
    proto = model("Attention", list(arrays), arrays, opset=23, is_causal=1, softcap=3.0, scale=0.2)
    check(proto, arrays)
    attrs = only_moves_beside(imported(proto), "attention")
    assert (attrs["causal"], attrs["softcap"], attrs["scale"]) == (True, 3.0, pytest.approx(0.2))


def test_heads_within_the_features():
    arrays = {"q": floats(B, S, H * D), "k": floats(B, T, 2 * D), "v": floats(B, T, 2 * D, seed=1)}
    proto = model("Attention", list(arrays), arrays, opset=23, q_num_heads=H, kv_num_heads=2)
    check(proto, arrays)
    assert ops(imported(proto)) == ["reshape"] * 3 + ["attention", "reshape"]


@pytest.mark.parametrize("shape", [(S, T), (1, T), (B, 1, S, T), (B, H, 1, T)])
@pytest.mark.parametrize("kind", [bool, np.float32])
def test_masks_and_biases(shape: tuple[int, ...], kind: Any):
    mask = floats(*shape) > -1 if kind is bool else floats(*shape)
    arrays = qkv(T) | {"m": mask}
    proto = model("Attention", list(arrays), arrays, opset=23)
    (wanted, *_) = ReferenceEvaluator(proto).run(None, arrays)  # ONNX Runtime does not broadcast over queries
    np.testing.assert_allclose(ours(proto, arrays)[0], wanted, rtol=1e-4, atol=1e-5)
    (node,) = [n for n in imported(proto).functions["forward"].nodes if n.op.name == "attention"]
    assert [i for i in (3, 4) if i < len(node.inputs) and node.inputs[i] is not None] == [3 if kind is bool else 4]


def test_a_causal_block_counts_from_the_first_key():
    """Without a past query i sees keys up to i, however many keys there are: not what `causal` of ours means."""
    arrays = qkv(T)
    proto = model("Attention", list(arrays), arrays, opset=23, is_causal=1)
    (wanted, *_) = ReferenceEvaluator(proto).run(None, arrays)
    np.testing.assert_allclose(ours(proto, arrays)[0], wanted, rtol=1e-4, atol=1e-5)


def test_a_past_is_put_in_front():
    arrays = qkv() | {"pk": floats(B, H, 4, D, seed=3), "pv": floats(B, H, 4, D, seed=4)}
    proto = model("Attention", ["q", "k", "v", "", "pk", "pv"], arrays, ("y", "nk", "nv"), opset=23, is_causal=1)
    check(proto, arrays)
    assert only_moves_beside(imported(proto), "attention")["causal"]


@pytest.mark.parametrize(
    "attrs", [{"left_window_size": 1, "is_causal": 1}, {"left_window_size": 2, "right_window_size": 2}]
)
def test_windows_are_attributes(attrs: dict[str, int]):
    arrays = qkv()
    proto = model("Attention", list(arrays), arrays, opset=25, **attrs)
    (wanted, *_) = ReferenceEvaluator(proto).run(None, arrays)
    np.testing.assert_allclose(ours(proto, arrays)[0], wanted, rtol=1e-4, atol=1e-5)
    assert only_moves_beside(imported(proto), "attention")["window"] == attrs["left_window_size"] + 1


def test_half_a_past_is_refused():
    arrays = qkv() | {"pk": floats(B, H, 4, D)}
    with pytest.raises(CaptureError, match="past_key and past_value come together"):
        imported(model("Attention", ["q", "k", "v", "", "pk"], arrays, opset=23))


def test_heads_that_do_not_divide_are_refused():
    arrays = {n: floats(B, S, 10) for n in "qkv"}
    with pytest.raises(CaptureError, match="q_num_heads = 4 does not divide the features"):
        imported(model("Attention", list(arrays), arrays, opset=23, q_num_heads=4, kv_num_heads=4))


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("half", [4, 2])
def test_rotary_is_one_op(interleaved: int, half: int):
    arrays = {
        "x": floats(B, H, S, D), "cos": floats(9, half), "sin": floats(9, half, seed=1),
        "at": np.array([[0, 1, 2], [3, 4, 5]], np.int64),
    }  # fmt: skip
    proto = model("RotaryEmbedding", list(arrays), arrays, opset=23, interleaved=interleaved,
                  rotary_embedding_dim=2 * half if half * 2 < D else 0)  # fmt: skip
    check(proto, arrays)
    assert only_moves_beside(imported(proto), "rotary")["interleaved"] == bool(interleaved)


@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_cache_writes(mode: str):
    arrays = {"c": floats(B, H, T, D), "u": floats(B, H, 2, D, seed=1), "i": np.array([1, 3 + (mode == "circular")])}
    proto = model("TensorScatter", list(arrays), arrays, opset=24, mode=mode)
    (wanted,) = ReferenceEvaluator(proto).run(None, arrays)
    np.testing.assert_array_equal(ours(proto, arrays)[0], wanted)
    assert ("cache_write" in ops(imported(proto))) == (mode == "linear")


def test_a_cache_that_is_read_again_is_not_overwritten():
    """`cache_write` takes its cache's place, so that nothing may read the old one: here something does."""
    arrays = {"c": floats(B, T, D), "u": floats(B, 2, D, seed=1), "i": np.array([1, 3])}
    write = helper.make_node("TensorScatter", ["c", "u", "i"], ["n"])
    again = helper.make_node("Sub", ["n", "c"], ["y"])
    proto = graph_model([write, again], arrays, ["y"], opset=24)
    (wanted,) = ReferenceEvaluator(proto).run(None, arrays)
    np.testing.assert_array_equal(ours(proto, arrays)[0], wanted)
    alone = graph_model([helper.make_node("TensorScatter", ["c", "u", "i"], ["y"])], arrays, ["y"], opset=24)
    assert ops(imported(alone)) == ["cache_write"]
