"""ONNX Runtime's own operators, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tundish.ir.diagnostics import CaptureError

from .onnx_kit import check, imported, model, ops, ours, theirs

MS = "com.microsoft"


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def run(op: str, arrays: dict[str, np.ndarray], *, inputs: str = "", outputs: tuple[str, ...] = ("y",),
        held: tuple[str, ...] = (), tolerance: float = 1e-5, **attrs: Any) -> Any:  # fmt: skip
    """Checks one node; `inputs` are names in order, `_` leaves one out."""
    names = ["" if n == "_" else n for n in inputs.split()] or list(arrays)
    proto = model(op, names, arrays, outputs, domain=MS, held=held, **attrs)
    check(proto, arrays, tolerance)
    return proto


@pytest.mark.parametrize(
    ("op", "bias", "attrs"),
    [("Gelu", False, {}), ("FastGelu", False, {}), ("FastGelu", True, {}), ("BiasGelu", True, {}),
     ("QuickGelu", False, {}), ("QuickGelu", False, {"alpha": 1.0})],
)  # fmt: skip
def test_activations(op: str, bias: bool, attrs: dict[str, float]):
    arrays = {"x": 3 * floats(2, 3, 8)} | ({"b": floats(8)} if bias else {})
    run(op, arrays, **attrs)


def test_halves_of_split_gelu():
    """Only GPUs run it in ONNX Runtime: held against its definition."""
    from math import erf

    x, b = floats(2, 3, 8), floats(8)
    (found,) = ours(model("BiasSplitGelu", ["x", "b"], {"x": x, "b": b}, domain=MS), {"x": x, "b": b})
    left, right = np.split((x + b).astype(np.float64), 2, -1)
    wanted = left * right * (1 + np.vectorize(erf)(right / np.sqrt(2))) / 2
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("skip", [(2, 3, 8), (1, 3, 8), (3, 8)])
@pytest.mark.parametrize("simplified", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_skip_norms(skip: tuple[int, ...], simplified: bool, biased: bool):
    arrays = {"x": floats(2, 3, 8), "s": floats(*skip), "g": floats(8), "b": floats(8, seed=1), "c": floats(8, seed=2)}
    names = ["x", "s", "g"] + ([] if simplified else ["b"]) + (["c"] if biased else [])
    op = "SkipSimplifiedLayerNormalization" if simplified else "SkipLayerNormalization"
    run(op, {n: arrays[n] for n in names}, outputs=("y", "", "", "sum"), epsilon=1e-6)


def test_simplified_norm_of_the_standard_domain():
    arrays = {"x": floats(2, 3, 8), "g": floats(8)}
    proto = model("SimplifiedLayerNormalization", ["x", "g"], arrays, axis=-1, epsilon=1e-5)
    check(proto, arrays)
    assert ops(imported(proto)) == ["rms_norm"]


def test_statistics_of_training_are_refused():
    arrays = {"x": floats(2, 3, 8), "s": floats(2, 3, 8), "g": floats(8)}
    with pytest.raises(CaptureError, match="the statistics that training saves"):
        imported(model("SkipLayerNormalization", ["x", "s", "g"], arrays, ("y", "mean"), domain=MS))


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("positions", [False, True])
def test_embeddings(segments: bool, positions: bool):
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {
        "ids": rng.integers(0, 11, (2, 5)).astype(np.int32), "seg": rng.integers(0, 2, (2, 5)).astype(np.int32),
        "word": floats(11, 8), "pos": floats(7, 8), "kinds": floats(2, 8), "g": floats(8), "b": floats(8, seed=1),
        "at": rng.integers(0, 7, (2, 5)).astype(np.int32), "mask": np.array([[1, 1, 1, 0, 0], [1] * 5], np.int32),
    }  # fmt: skip
    kinds = ("seg", "kinds") if segments else "__"
    names = f"ids {kinds[0]} word pos {kinds[1]} g b mask {'at' if positions else ''}"
    used = {n: a for n, a in arrays.items() if n in names.split()}
    run("EmbedLayerNormalization", used, inputs=names, outputs=("y", "n", "sum"))


@pytest.mark.parametrize("attrs", [{}, {"transA": 1}, {"transB": 1, "alpha": 0.5}])
def test_fused_matmul(attrs: dict[str, Any]):
    a = floats(2, 4, 3) if attrs.get("transA") else floats(2, 3, 4)
    b = floats(2, 5, 4) if attrs.get("transB") else floats(2, 4, 5)
    run("FusedMatMul", {"a": a, "b": b}, **attrs)


@pytest.mark.parametrize("activation", ["Relu", "Sigmoid", "Tanh"])
def test_fused_activations(activation: str):
    run("FusedGemm", {"a": floats(3, 4), "b": floats(4, 5), "c": floats(5)}, activation=activation)
    conv = {"x": floats(1, 2, 5, 5), "w": floats(3, 2, 3, 3), "b": floats(3), "z": floats(1, 3, 3, 3)}
    run("FusedConv", conv, activation=activation)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zeros", ["none", "packed", "float"])
@pytest.mark.parametrize("features", [64, 72])
def test_weights_in_blocks(bits: int, zeros: str, features: int):
    rng = np.random.default_rng(0)
    n, block = 6, 32
    blocks = -(-features // block)
    arrays: dict[str, np.ndarray] = {
        "x": floats(2, 3, features), "w": rng.integers(0, 256, (n, blocks, block * bits // 8)).astype(np.uint8),
        "s": (rng.random((n, blocks)) / 8).astype(np.float32),
    }  # fmt: skip
    if zeros == "packed":
        arrays["z"] = rng.integers(0, 256, (n, -(-blocks * bits // 8))).astype(np.uint8)
    if zeros == "float":
        arrays["z"] = (rng.random((n, blocks)) * 8).astype(np.float32)
    names = tuple(n for n in arrays if n != "x")
    if zeros == "float" and bits == 8:
        pytest.skip("ONNX Runtime has no kernel for it")
    proto = run("MatMulNBits", arrays, held=names, tolerance=2e-4, K=features, N=n, bits=bits, block_size=block)
    program = imported(proto)
    assert ops(program)[-2:] == ["dequantize", "linear"]
    kind = f"{'i' if zeros == 'none' else 'u'}{max(bits, 4)}"
    assert str(program.weights["w"].type) == f"{kind}[{features}, {n}]"


def test_products_of_whole_numbers():
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {
        "a": rng.integers(0, 255, (3, 8)).astype(np.uint8), "b": rng.integers(-128, 127, (8, 5)).astype(np.int8),
        "sa": np.float32(0.02).reshape(()), "sb": rng.random(5).astype(np.float32), "za": np.uint8(7).reshape(()),
        "zb": rng.integers(-9, 9, 5).astype(np.int8), "c": floats(5),
    }  # fmt: skip
    run("MatMulIntegerToFloat", arrays, held=tuple(arrays)[1:])
    rest = {"x": floats(3, 8)} | {n: arrays[n] for n in ("b", "sb", "zb", "c")}
    run("DynamicQuantizeMatMul", rest, held=("b", "sb", "zb", "c"))


# -- attention ---------------------------------------------------------------------------------------------

B, S, H, D = 2, 3, 2, 16
F = H * D
MASKS: dict[str, np.ndarray] = {
    "keys": np.array([[1, 1, 0], [1, 1, 1]], np.int32),
    "lengths": np.array([2, 3], np.int32),
    "queries": np.array([[[1, 0, 0], [1, 1, 0], [1, 0, 1]], [[1, 1, 1], [0, 1, 1], [1, 1, 1]]], np.int32),
}


@pytest.mark.parametrize("mask", [None, *MASKS])
@pytest.mark.parametrize("causal", [0, 1])
def test_attention(mask: str | None, causal: int):
    arrays = {"x": floats(B, S, 5), "w": floats(5, 3 * F), "b": floats(3 * F)}
    names = "x w b"
    if mask is not None:
        arrays, names = arrays | {"m": MASKS[mask]}, names + " m"
    run("Attention", arrays, inputs=names, num_heads=H, unidirectional=causal)


def test_attention_with_a_past_or_a_bias():
    arrays = {"x": floats(B, S, 5), "w": floats(5, 3 * F), "b": floats(3 * F)}
    past, add = {"past": floats(2, B, H, 4, D)}, {"add": floats(B, H, S, S)}
    run("Attention", arrays | past, inputs="x w b _ past", outputs=("y", "present"), num_heads=H, unidirectional=1)
    run("Attention", arrays | add, inputs="x w b _ _ add", num_heads=H)


def test_attention_with_sizes_of_its_own():
    arrays = {"x": floats(B, S, 5), "w": floats(5, 2 * F + 6), "b": floats(2 * F + 6)}
    run("Attention", arrays, num_heads=H, qkv_hidden_sizes=[F, F, 6], scale=0.3)


@pytest.mark.parametrize("mask", [None, *MASKS])
def test_many_heads(mask: str | None):
    arrays = {"q": floats(B, S, F), "k": floats(B, S, F, seed=1), "v": floats(B, S, F, seed=2), "b": floats(3 * F)}
    if mask is not None:
        arrays["m"] = MASKS[mask]
    run("MultiHeadAttention", arrays, num_heads=H)


def test_many_heads_packed():
    """All three in one tensor run on GPUs only in ONNX Runtime: held against the same in three."""
    packed = floats(B, S, H, 3, D)
    apart = {n: packed[:, :, :, i].reshape(B, S, F) for i, n in enumerate("qkv")}
    (found,) = ours(model("MultiHeadAttention", ["p"], {"p": packed}, domain=MS, num_heads=H), {"p": packed})
    (wanted,) = ours(model("MultiHeadAttention", list("qkv"), apart, domain=MS, num_heads=H), apart)
    np.testing.assert_array_equal(found, wanted)
    keys = floats(B, 5, H, 2, D)
    two = {"q": apart["q"], "kv": keys}
    three = {"q": apart["q"], **{n: keys[:, :, :, i].reshape(B, 5, F) for i, n in enumerate("kv")}}
    (found,) = ours(model("MultiHeadAttention", list(two), two, domain=MS, num_heads=H), two)
    (wanted,) = ours(model("MultiHeadAttention", list(three), three, domain=MS, num_heads=H), three)
    np.testing.assert_array_equal(found, wanted)


def test_many_heads_over_ready_keys():
    arrays = {"q": floats(B, S, F), "k": floats(B, H, 5, D), "v": floats(B, H, 5, D, seed=1)}
    run("MultiHeadAttention", arrays, num_heads=H)


def test_many_heads_with_a_past():
    arrays = {
        "q": floats(B, S, F), "k": floats(B, S, F, seed=1), "v": floats(B, S, F, seed=2),
        "add": floats(1, 1, S, 4 + S), "pk": floats(B, H, 4, D), "pv": floats(B, H, 4, D, seed=3),
    }  # fmt: skip
    run("MultiHeadAttention", arrays, inputs="q k v _ _ add pk pv", outputs=("y", "nk", "nv"), num_heads=H,
        unidirectional=1)  # fmt: skip


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("form", ["3d", "4d", "partial"])
@pytest.mark.parametrize("counted", [False, True])
def test_rotary(interleaved: int, form: str, counted: bool):
    x = floats(B, H, S, 8) if form == "4d" else floats(B, S, H * 8)
    half = 2 if form == "partial" else 4
    at = np.array([2], np.int64) if counted else np.array([[0, 1, 2], [4, 5, 6]], np.int64)
    arrays = {"x": x, "at": at, "cos": floats(9, half), "sin": floats(9, half, seed=1)}
    extra = {"rotary_embedding_dim": 4, "num_heads": H} if form == "partial" else {}
    run("RotaryEmbedding", arrays, interleaved=interleaved, **extra)


def grouped(past: int, s: int, lengths: list[int], *, packed: bool = False, rotary: bool = False) -> dict[str, Any]:
    """Inputs for one group of keys; the rows have `lengths` keys in all."""
    b, total = len(lengths), past + s
    arrays = {"q": floats(b, s, F + 2 * D if packed else F)}
    if not packed:
        arrays |= {"k": floats(b, s, D, seed=1), "v": floats(b, s, D, seed=2)}
    if past:
        arrays |= {"pk": floats(b, 1, past, D, seed=3), "pv": floats(b, 1, past, D, seed=4)}
    arrays |= {"n": np.array(lengths, np.int32) - 1, "t": np.array(total, np.int32)}
    if rotary:
        arrays |= {"cos": floats(9, D // 2, seed=5), "sin": floats(9, D // 2, seed=6)}
    return arrays


def grouped_model(arrays: dict[str, Any], **attrs: Any) -> Any:
    names = [n if n in arrays else "" for n in ("q", "k", "v", "pk", "pv", "n", "t", "cos", "sin")]
    return model("GroupQueryAttention", names, arrays, ("y", "nk", "nv"), domain=MS, held=("t",), num_heads=H,
                 kv_num_heads=1, do_rotary=int("cos" in arrays), **attrs)  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize(("past", "s", "rows"), [(0, 3, 2), (4, 1, 2), (4, 3, 1)])
def test_grouped_queries(packed: bool, rotary: bool, past: int, s: int, rows: int):
    arrays = grouped(past, s, [past + s] * rows, packed=packed, rotary=rotary)
    check(grouped_model(arrays), arrays)


@pytest.mark.parametrize(("past", "s", "lengths"), [(4, 1, [5, 3]), (0, 3, [3, 2])])
def test_grouped_queries_of_rows_of_different_lengths(past: int, s: int, lengths: list[int]):
    """What lies behind a row's last key is nobody's: only the answers to its own tokens are compared."""
    arrays = grouped(past, s, lengths, rotary=True)
    proto = grouped_model(arrays)
    found, wanted = ours(proto, arrays)[0], theirs(proto, arrays)[0]
    for row, length in enumerate(lengths):
        real = s if past else length
        np.testing.assert_allclose(found[row, :real], wanted[row, :real], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attrs", [{"local_window_size": 2}, {"softcap": 2.0}, {"scale": 0.7}, {"smooth_softmax": 1}])
@pytest.mark.parametrize("past", [0, 4])
def test_grouped_queries_with(attrs: dict[str, Any], past: int):
    arrays = grouped(past, 3, [past + 3])
    check(grouped_model(arrays, **attrs), arrays)


def test_grouped_queries_with_sinks():
    arrays = grouped(0, 3, [3]) | {"sink": floats(H)}
    names = ["q", "k", "v", "", "", "n", "t", "", "", "", "", "sink"]
    check(model("GroupQueryAttention", names, arrays, ("y", "nk", "nv"), domain=MS, held=("t",), num_heads=H,
                kv_num_heads=1), arrays)  # fmt: skip


@pytest.mark.parametrize(
    ("op", "inputs", "attrs", "reason"),
    [("MultiHeadAttention", "q k v _ _ _ _ _ n", {}, "the input past_sequence_length"),
     ("GroupQueryAttention", "q k v pk pv n t", {"qk_output": 1}, "qk_output = 1"),
     ("RotaryEmbedding", "q n k v", {"is_packed_batching": 1}, "is_packed_batching = 1")],
)  # fmt: skip
def test_other_forms_are_refused(op: str, inputs: str, attrs: dict[str, Any], reason: str):
    arrays = grouped(4, S, [4 + S] * B)
    names = ["" if n == "_" else n for n in inputs.split()]
    extra = {} if op == "RotaryEmbedding" else {"num_heads": H}
    extra |= {"kv_num_heads": 1} if op == "GroupQueryAttention" else {}
    with pytest.raises(CaptureError, match=reason):
        imported(model(op, names, {n: arrays[n] for n in names if n}, domain=MS, **attrs, **extra))
