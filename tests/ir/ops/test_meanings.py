"""Ops that torch has no twin of, FLOPs and bytes against numbers worked by hand, and errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tundish.ir import dims
from tundish.ir.build import Builder
from tundish.ir.diagnostics import GraphError
from tundish.ir.dtypes import bf16, f32, i64
from tundish.ir.evaluate import evaluate
from tundish.ir.graph import Program
from tundish.ir.op import OPS
from tundish.ir.ops.moe import distinct_experts
from tundish.ir.tensor import Work

from .cases import Case, typed, whole

# -- FLOPs and bytes -----------------------------------------------------------------------------------

AT = {"b": 2, "s": 3, "t": 5, "n": 4}


def case(name: str, *inputs: str | None, **attrs: Any) -> Case:
    return Case(name, inputs, attrs)


WORK = [  # flops, read bytes, written bytes at AT
    (case("add", "f32[b, s, 8]", "f32[8]"), (48, 192 + 32, 192)),
    (case("maximum", "f32[b, s]", "f32[b, s]"), (0, 48, 24)),
    (case("lt", "f32[b, s]", "f32[b, s]"), (0, 48, 6)),
    (case("exp", "bf16[b, s]"), (6, 12, 12)),
    (case("relu", "f32[b, s]"), (0, 24, 24)),
    (case("gelu", "f32[10]"), (50, 40, 40)),
    (case("gelu", "f32[10]", approximate="tanh"), (80, 40, 40)),
    (case("silu", "f32[10]"), (20, 40, 40)),
    (case("cast", "f32[10]", dtype=bf16), (0, 40, 20)),
    (case("where", "bool[b, s]", "f32[b, s]", "f32[]"), (0, 6 + 24 + 4, 24)),
    (case("reshape", "f32[b, s]", shape=(dims.parse("b*s"),)), (0, 0, 0)),
    (case("transpose", "f32[b, s]", perm=(1, 0)), (0, 24, 24)),
    (case("expand", "f32[s]", shape=(dims.parse("b"), dims.parse("s"))), (0, 12, 24)),
    (case("slice", "f32[b, 100]", axis=1, start=10, stop=13), (0, 24, 24)),
    (case("split", "f32[b, 6]", axis=1, sizes=(2, 4)), (0, 48, 48)),
    (case("concat", "f32[b, s]", "f32[b, t]", axis=1), (0, 64, 64)),
    (case("pad", "f32[b, 3]", before=(0, 1), after=(0, 2)), (0, 24, 48)),
    (case("gather", "f32[1000, 16]", "i64[b, s]", axis=0), (0, 6 * 64 + 48, 6 * 64)),
    (case("gather_elements", "f32[b, 1000]", "i64[b, s]", axis=1), (0, 24 + 48, 24)),
    (case("sum", "f32[b, s, 8]", axes=(1,)), (48, 192, 64)),
    (case("mean", "f32[b, s, 8]", axes=(-1,), keepdims=True), (48, 192, 24)),
    (case("max", "f32[b, s]", axes=(0,)), (0, 24, 12)),
    (case("cumsum", "f32[b, s]", axis=1), (6, 24, 24)),
    (case("matmul", "f32[b, s, 8]", "f32[b, 8, t]"), (2 * 2 * 3 * 5 * 8, 192 + 320, 120)),
    (case("linear", "f32[b, s, 8]", "f32[8, 16]", "f32[16]"), (2 * 6 * 8 * 16 + 96, 192 + 512 + 64, 384)),
    (case("rms_norm", "f32[b, s, 8]", "f32[8]", eps=1e-6), (4 * 48, 192 + 32, 192)),
    (case("layer_norm", "f32[b, s, 8]", "f32[8]", "f32[8]", eps=1e-5), (7 * 48, 192 + 64, 192)),
    (case("softmax", "f32[b, s, 8]"), (4 * 48, 192, 192)),
    # pairs = 2 · 6 · 3 · 5 = 180; q 2·3·6·4, k 2·5·2·4, v 2·5·2·7, out 2·3·6·7 numbers of 4 bytes
    (case("attention", "f32[b, s, 6, 4]", "f32[b, t, 2, 4]", "f32[b, t, 2, 7]", scale=0.5),
     (2 * 180 * 11 + 4 * 180, 4 * (144 + 80 + 140), 4 * 252)),
    (case("rotary", "f32[b, s, 2, 6]", "f32[1, s, 4]", "f32[1, s, 4]"), (3 * 2 * 3 * 2 * 4, 4 * (72 + 12 + 12), 288)),
    (case("iota", length=dims.parse("s")), (0, 0, 24)),
    (case("topk", "f32[b, 8]", k=2), (0, 64, 16 + 32)),
    (case("cache_write", "f32[b, 1000, 8]", "f32[b, s, 8]", "i64[]"), (0, 192 + 8, 192)),
    # 8 · 4 numbers of 4 bits, and 2 · 4 scales
    (case("dequantize", "i8[8, n]", "f32[2, n]", bits=4, group=4), (32, 16 + 32, 128)),
    (case("dequantize", "u4[8, n]", "f32[2, n]", "u4[2, n]", bits=4, group=4, scheme="asymmetric"),
     (64, 16 + 32 + 4, 128)),
    (case("quantized_matmul", "f32[b, 8]", "i8[n, 8]", "f32[n, 1]", None, "f32[n]", bits=8),
     (2 * 2 * 8 * 4 + 8 + 32, 64 + 32 + 16 + 16, 32)),
    (case("all_reduce", "f32[8]", axis="x", size=4), (6, 32, 32)),
    (case("reduce_scatter", "f32[8]", axis="x", size=4, dim=0), (6, 32, 8)),
    (case("all_gather", "f32[8]", axis="x", size=4, dim=0), (0, 32, 128)),
    (case("call"), (0, 0, 0)),
]  # fmt: skip


@pytest.mark.parametrize(("one", "wanted"), WORK, ids=[str(c) for c, _ in WORK])
def test_work_by_hand(one: Case, wanted: tuple[int, int, int]):
    outs = (typed("f32[]"),) if one.name == "call" else one.outs()
    attrs = one.op.complete_attrs({"function": "f"}) if one.name == "call" else one.full
    assert one.op.work(outs, one.types, attrs).at(AT) == Work(*wanted)


def test_moe_work_by_hand():
    """3 tokens of size 4, 2 of 8 experts each, inner size 6, gated: 6 rows."""
    one = case("moe", "f32[s, 4]", "i64[s, 2]", "f32[s, 2]", "f32[8, 4, 12]", "f32[8, 6, 4]", "f32[8, 12]", "f32[8, 4]")
    work = one.op.work(one.outs(), one.types, one.full).at(AT)
    assert work.flops == 6 * (2 * 4 * 12 + 2 * 6 * 4 + 3 * 6 + 12 + 4 + 2 * 4)
    each = 4 * (4 * 12 + 6 * 4 + 12 + 4)
    given = 4 * 12 + 8 * 6 + 4 * 6
    # Between 2 and 4 tokens the straight line lies a little below 8 · (1 - (3/4)³) = 4.625 experts.
    assert 4.4 * each < work.read_bytes - given <= 4.625 * each
    assert work.written_bytes == 48


@pytest.mark.parametrize(("experts", "k"), [(8, 2), (64, 8), (256, 8), (128, 1), (4, 4)])
def test_expected_experts(experts: int, k: int):
    """Exact at powers of two, from below between them, all of them in the end, and the same with a symbol."""
    each = 10**6
    curve = distinct_experts(dims.symbol("n"), experts, k, each)
    for n in [*range(1, 70), 128, 1000, 10**6]:
        found, exact = dims.evaluate(curve, {"n": n}), each * experts * (1 - (1 - k / experts) ** n)
        assert found == distinct_experts(n, experts, k, each)
        assert exact - 0.04 * each * experts <= found <= exact + each * 0.5 + 64
        if n & (n - 1) == 0:
            assert found == pytest.approx(exact, abs=each * 0.51)
    assert dims.evaluate(curve, {"n": 1}) == each * k and dims.evaluate(curve, {"n": 10**6}) == each * experts


@pytest.mark.parametrize("name", sorted(OPS))
def test_no_op_is_without_work(name: str):
    """Every op says its FLOPs; ours count 0 only by the rule."""
    assert type(OPS[name]).flops is not type(OPS[name]).__mro__[-2].flops


# -- meanings ------------------------------------------------------------------------------------------


def test_constant_and_dim_value():
    assert OPS["constant"].reference(value=2.0, dtype=i64).dtype == np.int64
    assert OPS["dim_value"].reference(dim=7) == 7


def test_cache_write_writes_there_and_nowhere_else():
    cache, new = np.zeros((2, 5, 3), np.float32), np.ones((2, 2, 3), np.float32)
    write = OPS["cache_write"].reference
    out = write(cache, new, np.asarray([0, 3]))
    assert out[0, :, 0].tolist() == [1, 1, 0, 0, 0] and out[1, :, 0].tolist() == [0, 0, 0, 1, 1]
    assert not cache.any(), "the reference copies"
    assert write(cache, new, np.asarray(1))[0, :, 0].tolist() == [0, 1, 1, 0, 0]
    with pytest.raises(GraphError, match="2 rows at 4 do not fit into 5"):
        write(cache, new, np.asarray([0, 4]))
    assert OPS["cache_write"].aliases == {0: 0}


def test_a_large_tensor_is_dequantised_in_slabs_with_the_same_result(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    q = rng.integers(0, 16, (7, 5, 6), np.uint8)
    for axis, shape in ((0, (3, 5, 6)), (1, (7, 2, 6)), (-1, (7, 5, 2))):
        scale, zero = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
        attrs = {"bits": 4, "group": 3, "axis": axis, "scheme": "offset", "dtype": f32}
        whole = OPS["dequantize"].reference(q, scale, zero, **attrs)
        with monkeypatch.context() as m:
            m.setattr("tundish.ir.ops.quantize.CHUNK", 60)
            np.testing.assert_array_equal(OPS["dequantize"].reference(q, scale, zero, **attrs), whole, strict=True)


def test_dequantize_by_hand():
    q = np.array([[1, -2], [3, 4], [-5, 6]], np.int8)
    scale = np.array([[0.5, 1.0], [2.0, 10.0]], np.float32)
    attrs = {"bits": 4, "group": 2, "axis": 0, "scheme": "symmetric", "dtype": f32}
    found = OPS["dequantize"].reference(q, scale, None, **attrs)
    assert found.tolist() == [[0.5, -2], [1.5, 4], [-10, 60]]
    zero = np.array([[1, 0], [0, 2]], np.int8)
    found = OPS["dequantize"].reference(q, scale, zero, **{**attrs, "scheme": "asymmetric"})
    assert found.tolist() == [[0, -2], [1, 4], [-10, 40]]
    found = OPS["dequantize"].reference(q, scale, zero / np.float16(4), **{**attrs, "scheme": "offset"})
    assert found.tolist() == [[0.75, -2], [1.75, 4], [-10, 60.5]]
    x = np.array([[1.0, 2.0, 3.0]], np.float32)
    attrs = {"bits": 4, "group": 2, "scheme": "symmetric", "x_bits": 0}
    product = OPS["quantized_matmul"].reference(x, q.T, scale.T, None, None, **attrs)
    assert product.tolist() == [[0.5 + 3 - 30, -2 + 8 + 180]]
    centred = (q.T + 8).astype(np.uint8)
    product = OPS["quantized_matmul"].reference(x, centred, scale.T, None, None, **{**attrs, "scheme": "centred"})
    assert product.tolist() == [[0.5 + 3 - 30, -2 + 8 + 180]]
    attrs = {"bits": 4, "group": 2, "scheme": "centred", "dtype": f32}
    rows = OPS["quantized_gather"].reference(centred, np.array([[1, 0]]), scale.T, None, **attrs)
    assert rows.tolist() == [[[-2, 4, 60], [0.5, 1.5, -10]]]


def test_x_is_rounded_in_groups():
    """Each group to whole multiples of its largest size / 127."""
    x = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    one = np.eye(8, dtype=np.float32)
    q, scale = (one * 1 + 8).astype(np.uint8), np.ones((8, 2), np.float32)
    attrs = {"bits": 4, "group": 4, "scheme": "centred", "x_bits": 8}
    found = OPS["quantized_matmul"].reference(x, q, scale, None, None, **attrs)
    units = np.repeat(np.abs(x.reshape(3, 2, 4)).max(-1), 4, -1) / 127
    np.testing.assert_allclose(found / units, np.rint(x / units), atol=1e-4)
    assert np.abs(found - x).max() <= units.max() / 2 * (1 + 1e-6)


def _expert(x: np.ndarray, gate_up: np.ndarray, down: np.ndarray, act: str) -> np.ndarray:
    y = x.astype(np.float64) @ gate_up
    gate, up = np.split(y, 2, -1)
    if act == "swiglu_oai":
        gate, up = np.minimum(gate, 7), np.clip(up, -7, 7)
        return ((up + 1) * gate / (1 + np.exp(-1.702 * gate))) @ down
    return (gate / (1 + np.exp(-gate)) * up) @ down


@pytest.mark.parametrize("act", ["swiglu", "swiglu_oai"])
def test_moe_is_the_weighted_sum_of_its_experts(act: str):
    """An expert may be chosen twice by one token, and a weight may be 0."""
    rng = np.random.default_rng(0)
    x, gate_up, down = rng.normal(size=(5, 3)) * 4, rng.normal(size=(4, 3, 8)), rng.normal(size=(4, 4, 3))
    ids, share = rng.integers(0, 4, (5, 3)), rng.random((5, 3))
    ids[0], share[1, 1] = 2, 0.0
    wanted = [sum(w * _expert(row, gate_up[e], down[e], act) for e, w in zip(i, ws, strict=True))
              for row, i, ws in zip(x, ids, share, strict=True)]  # fmt: skip
    found = OPS["moe"].reference(x, ids, share, gate_up, down, activation=act)
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    with pytest.raises(GraphError, match=r"moe: indices 0\.\.4 are outside 0\.\.3"):
        OPS["moe"].reference(x[:1], np.asarray([[0, 4, 1]]), share[:1], gate_up, down, activation=act)


def test_collectives_run_all_ranks():
    parts = [np.arange(6.0).reshape(2, 3) + 10 * r for r in range(3)]
    mesh = {"axis": "tensor", "size": 3}
    total = parts[0] + parts[1] + parts[2]
    for got in OPS["all_reduce"].ranks(parts, **mesh, reduction="sum"):
        np.testing.assert_array_equal(got, total)
    assert OPS["all_reduce"].ranks(parts, **mesh, reduction="max")[0].tolist() == parts[2].tolist()
    gathered = OPS["all_gather"].ranks(parts, **mesh, dim=0)
    np.testing.assert_array_equal(gathered[1], np.concatenate(parts))
    scattered = OPS["reduce_scatter"].ranks(parts, **mesh, dim=1, reduction="sum")
    np.testing.assert_array_equal(np.concatenate(scattered, 1), total)
    turned = OPS["all_to_all"].ranks(parts, **mesh, split_dim=1, concat_dim=0)
    assert turned[1].shape == (6, 1) and turned[1][:, 0].tolist() == [1, 4, 11, 14, 21, 24]
    back = OPS["all_to_all"].ranks(turned, **mesh, split_dim=0, concat_dim=1)
    for got, want in zip(back, parts, strict=True):
        np.testing.assert_array_equal(got, want)


def test_gather_of_scattered_sums_is_all_reduce():
    parts = [np.random.default_rng(r).normal(size=(4, 6)).astype(np.float32) for r in range(2)]
    mesh = {"axis": "data", "size": 2}
    scattered = OPS["reduce_scatter"].ranks(parts, **mesh, dim=-1, reduction="sum")
    both = OPS["all_gather"].ranks(scattered, **mesh, dim=-1)
    for got, want in zip(both, OPS["all_reduce"].ranks(parts, **mesh, reduction="sum"), strict=True):
        np.testing.assert_array_equal(got, want)


def test_attention_decomposed_with_minus_infinity_in_the_bias():
    """A bias of -inf forbids like a mask; a row of nothing else gives 0, not nan."""
    one = case("attention", "f32[2, 3, 2, 4]", "f32[2, 3, 1, 4]", "f32[2, 3, 1, 4]", None, "f32[2, 1, 3, 3]", scale=0.5)
    arrays = one.arrays({})
    bias = arrays[4]
    assert bias is not None
    bias[0, 0, 1, :], bias[1, 0, 0, 2] = -np.inf, -np.inf
    b = Builder()
    values = [None if t is None else b.input(f"x{i}", t) for i, t in enumerate(one.types)]
    graph = b.finish([one.op.decompose(b, *values, **one.full)])
    given = {f"x{i}": a for i, a in enumerate(arrays) if a is not None}
    (found,) = evaluate(Program({"main": graph}, ("main",)), given).values()
    wanted = one.op.reference(*arrays, **one.full)
    assert not wanted[0, 1].any()
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


# -- errors --------------------------------------------------------------------------------------------

ERRORS = [
    (case("add", "f32[b, s]", "f32[b, t]"), "add: axis -1 is s and t, which do not broadcast"),
    (case("add", "f32[b]", "bf16[b]"), "add: needs equal element types, got f32 and bf16"),
    (case("exp", "i64[b]"), "exp: x is one of float, got i64"),
    (case("and", "f32[b]", "f32[b]"), "and: each side is one of bool, got f32"),
    (case("not", "f32[b]"), "not: x is one of bool"),
    (case("gelu", "f32[b]", approximate="fast"), "gelu: approximate is 'none' or 'tanh', got 'fast'"),
    (case("where", "f32[b]", "f32[b]", "f32[b]"), "where: cond is one of bool"),
    (case("reshape", "f32[b, 6]", shape=(dims.parse("b"), 7)),
     "reshape: 6*b elements do not fill ['b', '7'], which holds 7*b"),
    (case("reshape", "f32[6]", shape=(-2, -3)), "reshape: a size is negative"),
    (case("transpose", "f32[b, s]", perm=(0, 0)), "transpose: [0, 0] does not name each axis once"),
    (case("transpose", "f32[b, s]", perm=(0, 2)), "transpose: axis 2 is outside f32[b, s]"),
    (case("expand", "f32[b, 3]", shape=(dims.parse("b"), 4)), "expand: axis -1 is 3 and 4"),
    (case("expand", "f32[b, 3]", shape=(dims.parse("b"), 1)), "expand: f32[b, 3] does not broadcast to ['b', '1']"),
    (case("concat", "f32[b, s]", "f32[s, b]", axis=0), "concat: shapes may differ on axis 0 only"),
    (case("concat", "f32[b, s]", "i64[b, s]", axis=0), "concat: needs equal element types"),
    (case("concat", axis=0), "concat: needs at least one array"),
    (case("slice", "f32[6]", axis=0, start=2, stop=7),
     "slice: stop is after the end of axis 0 of f32[6]: 7 is more than 6"),
    (case("slice", "f32[s]", axis=0, start=0, stop=dims.parse("s+1")), "slice: stop is after the end"),
    (case("slice", "f32[6]", axis=0, start=4, stop=3), "slice: start is after stop"),
    (case("slice", "f32[6]", axis=0, start=-1, stop=3), "slice: start is before the first element"),
    (case("slice", "f32[6]", axis=1, start=0, stop=3), "slice: axis 1 is outside f32[6]"),
    (case("slice", "f32[6]", axis=0, start=0, stop=3, step=0), "slice: step is at least 1, got 0"),
    (case("split", "f32[s]", axis=0, sizes=(2, dims.parse("s"))), "split: sizes ['2', 's'] do not add up to s"),
    (case("pad", "f32[6]", before=(1, 2), after=(0,)), "pad: one size an axis"),
    (case("gather", "f32[6]", "f32[2]", axis=0), "gather: indices is one of int, uint, got f32"),
    (case("gather_elements", "f32[b, 6]", "i64[s, 6]", axis=1), "gather_elements: shapes may differ on axis 1 only"),
    (case("scatter_elements", "f32[6]", "i64[2]", "f32[3]", axis=0), "scatter_elements: one update for each index"),
    (case("topk", "f32[4]", k=5), "topk: k is more than axis 0 of f32[4] holds: 5 is more than 4"),
    (case("sum", "f32[b, s]", axes=(0, -2)), "sum: an axis is named twice in [0, -2]"),
    (case("mean", "i64[b]", axes=(0,)), "mean: x is one of float, got i64"),
    (case("any", "f32[b]", axes=(0,)), "any: x is one of bool"),
    (case("argmax", "f32[b]", axis=1), "argmax: axis 1 is outside f32[b]"),
    (case("matmul", "f32[b, 3]", "f32[4, 5]"), "matmul: needs equal inner sizes, got 3 and 4"),
    (case("linear", "f32[b, 3]", "f32[4, 5]"), "linear: needs equal inner sizes"),
    (case("rms_norm", "f32[b, 3]", "f32[4]", eps=1e-6), "rms_norm: parameters are as long as the last axis"),
    (case("softmax", "f32[b]", axis=1), "softmax: axis 1 is outside f32[b]"),
    (case("attention", "f32[b, s, 5, 4]", "f32[b, t, 2, 4]", "f32[b, t, 2, 4]", scale=1.0), "attention: 5 query heads"),
    (case("attention", "f32[b, s, 4]", "f32[b, t, 4]", "f32[b, t, 4]", scale=1.0), "attention: q, k, v are"),
    (case("attention", *["f32[b, s, 2, 4]"] * 3, "bool[s, b]", scale=1.0), "attention: the mask does not broadcast"),
    (case("rotary", "f32[b, s, 2, 4]", "f32[1, s, 6]", "f32[1, s, 6]"),
     "rotary: turns an even number of features, at most 4"),
    (case("cache_write", "f32[b, 8, 4]", "f32[b, 9, 4]", "i64[]"),
     "cache_write: f32[b, 9, 4] is longer than f32[b, 8, 4]"),
    (case("cache_write", "f32[b, 8, 4]", "f32[b, 1, 4]", "i64[2]"), "cache_write: position is a scalar"),
    (case("dequantize", "i8[8, 4]", "f32[3, 4]", bits=4, group=4), "dequantize: scale is ['2', '4'] for groups of 4"),
    (case("dequantize", "i8[8, 4]", "f32[1, 4]", bits=9), "dequantize: bits are 1..8 of i8"),
    (case("dequantize", "i8[8, 4]", "f32[1, 4]", bits=4, scheme="nf4"),
     "dequantize: scheme is one of symmetric, centred, asymmetric, offset"),
    (case("dequantize", "i8[8, 4]", "f32[1, 4]", bits=4, scheme="asymmetric"), "dequantize: a zero point belongs to"),
    (case("dequantize", "i8[8, 4]", "f32[1, 4]", "i8[1, 4]", bits=4, scheme="offset"),
     "dequantize: zero is one of float, got i8"),
    (case("dequantize", "i8[8, 4]", "f32[1, 4]", bits=4, dtype=i64), "dequantize: dtype is a float type, got i64"),
    (case("moe", "f32[s, 3]", "i64[s, 2]", "f32[s, 2]", "f32[4, 3, 5]", "f32[4, 5, 3]"),
     "moe: the parts do not fit together"),
    (case("moe", "f32[s, 3]", "i64[s, 2]", "f32[s, 2]", "f32[4, 3, 5]", "f32[4, 5, 3]", activation="x"),
     "moe: activation is one"),
    (case("reduce_scatter", "f32[b, 6]", axis="tensor", size=4, dim=1),
     "reduce_scatter: axis 1 of f32[b, 6] is no multiple of 4"),
    (case("all_reduce", "f32[b]", axis="tensor", size=2, reduction="xor"),
     "all_reduce: reduction is one of sum, max, min"),
    (case("scatter_elements", "f32[6]", "i64[2]", "f32[2]", axis=0, reduction="xor"),
     "scatter_elements: reduction is one of none, add, mul, max, min"),
    (case("max", "f32[b, 0]", axes=(1,)), "max: axis 1 has no elements"),
    (case("argmax", "f32[b, 0]", axis=1), "argmax: there is nothing to choose from"),
    (case("bit_and", "f32[b]", "f32[b]"), "bit_and: each side is one of int, uint"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "message"), ERRORS, ids=[m[:60] for _, m in ERRORS])
def test_errors_name_the_op_and_the_sizes(one: Case, message: str):
    b = Builder()
    values = [None if t is None else b.input(f"x{i}", t) for i, t in enumerate(one.types)]
    with pytest.raises(GraphError) as caught:
        b.emit_node(one.op, values, one.attrs)
    assert caught.value.problem.startswith(message)
    assert caught.value.where is not None


RUNTIME = [
    ("gather", (np.ones(3), np.asarray([3])), {"axis": 0}, "gather: indices 3..3 are outside 0..2"),
    ("gather", (np.ones(3), np.asarray([-1])), {"axis": 0}, "gather: indices -1..-1 are outside 0..2"),
    ("slice", (np.ones(3),), {"axis": 0, "start": 1, "stop": 4, "step": 1},
     "slice: 1..4 is outside axis 0, which is 3 long"),
    ("split", (np.ones(3),), {"axis": 0, "sizes": (1, 1)}, r"split: sizes \[1, 1\] do not add up to 3"),
    ("topk", (np.ones(3),), {"k": 4, "axis": 0, "largest": True}, "topk: k is 4, axis 0 holds 3"),
    ("all_reduce", (np.ones(3),), {"axis": "tensor", "size": 2, "reduction": "sum"}, "2 ranks of 'tensor' run in step"),
    ("weight", (), {"name": "w"}, "weight: has no numpy reference"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arrays", "attrs", "message"), RUNTIME, ids=[r[3] for r in RUNTIME])
def test_sizes_that_only_a_run_shows(name: str, arrays: Any, attrs: Any, message: str):
    with pytest.raises(GraphError, match=message):
        OPS[name].reference(*arrays, **attrs)


def test_whole_numbers_are_not_floats():
    assert whole(0, 2)(np.random.default_rng(0), (3,), AT).dtype == np.int64
    assert OPS["add"].infer(typed("f32[b]"), typed("f32[]")).dtype == f32


def test_whole_powers_below_zero_are_quotients():
    a, b = np.array([1, -1, -1, 2, 0, 3]), np.array([-3, -3, -2, -1, -1, 2])
    assert OPS["pow"].reference(a, b).tolist() == [1, -1, 1, 0, 0, 9]


def test_softmax_of_nothing_is_nothing():
    assert OPS["softmax"].reference(np.zeros((2, 0)), axis=1).shape == (2, 0)


def test_what_is_scattered_to_one_place_is_taken_together():
    x, at, new = np.zeros(3, np.float32), np.array([1, 1, 2]), np.array([2, 3, -1], np.float32)
    found = {r: OPS["scatter_elements"].reference(x, at, new, axis=0, reduction=r).tolist() for r in ("add", "max")}
    assert found == {"add": [0, 5, -1], "max": [0, 3, 0]}
