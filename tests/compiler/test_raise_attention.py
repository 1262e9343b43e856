"""Attention written out: every order of scale, cap, bias and mask; rows that see nothing; grouped heads; causality."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from compiler_kit import BATCH, SEQ, Draft, arrays, only, ops, run, same_numbers, texts

from tundish.compiler.passes.clean import clean
from tundish.compiler.passes.raise_attention import raise_attention
from tundish.ir.dtypes import boolean, f32, i64
from tundish.ir.evaluate import evaluate

HEADS = (0, 2, 1, 3)
INF = math.inf
FILLS = [-INF, -1e9, float(np.finfo(np.float32).min)]


def qkv(d, heads=3, size=4):
    """q, k, v as [batch, heads, seq, size], from [batch, seq, heads, size] inputs."""
    return [d.emit("transpose", d.x(BATCH, SEQ, heads, size, name=n), perm=HEADS) for n in "qkv"]


def scores(d, q, k):
    return d.emit("matmul", q, d.emit("transpose", k, perm=(0, 1, 3, 2)))


def finish(d, s, v):
    return d.program(d.emit("transpose", d.emit("matmul", d.emit("softmax", s, axis=-1), v), perm=HEADS))


def blocked(d, s, mask, fill):
    return d.emit("where", mask, s, d.constant(fill, f32))


def raised(program, *given, left=("attention",), tolerance=1e-9):
    """The attention node after raising and cleaning, with the numbers held."""
    done = run(raise_attention, program)
    after = run(clean, done.program).program
    if left is not None:
        assert ops(after) == list(left)
    same_numbers(program, after, *given, tolerance=tolerance)
    return next(n for n in after.entry.nodes if n.op.name == "attention")


@pytest.mark.parametrize("scale", ["mul", "div", None])
def test_the_bare_form(scale):
    d = Draft()
    q, k, v = qkv(d)
    s = scores(d, q, k)
    if scale:
        s = d.emit(scale, s, d.constant(0.25, f32))
    node = raised(finish(d, s, v))
    assert node.attrs["scale"] == {"mul": 0.25, "div": 4.0, None: 1.0}[scale]


def test_large_scores_stay_finite():
    d = Draft()
    q, k, v = qkv(d)
    program = finish(d, scores(d, q, k), v)
    given = arrays(program, size=300.0)
    raised(program, given)
    after = run(raise_attention, program).program
    assert np.isfinite(evaluate(after, given)["output_0"]).all()


def test_softcap():
    d = Draft()
    q, k, v = qkv(d)
    s = d.emit("mul", scores(d, q, k), d.constant(0.5, f32))
    s = d.emit("mul", d.emit("tanh", d.emit("div", s, d.constant(30, f32))), d.constant(30, f32))
    assert raised(finish(d, s, v)).attrs["softcap"] == 30.0


def test_two_different_caps_are_no_softcap():
    d = Draft()
    q, k, v = qkv(d)
    s = d.emit("mul", d.emit("tanh", d.emit("div", scores(d, q, k), d.constant(30, f32))), d.constant(20, f32))
    done = run(raise_attention, finish(d, s, v))
    assert "attention" not in ops(done.program)


MASKS = [(BATCH, 1, SEQ, SEQ), (BATCH, 1, 1, SEQ), (SEQ, SEQ), (1, 3, SEQ, SEQ)]


def open_rows(program, value=True):
    """Inputs whose mask lets every row see at least its first key; with one row closed where `value` is False."""
    given = arrays(program)
    given["mask"][..., 0] = True
    if not value:
        given["mask"][..., 0, :] = False
    return given


@pytest.mark.parametrize(("fill", "shape", "swapped"), list(itertools.product(FILLS, MASKS, [False, True])))
def test_a_mask_whatever_it_fills_with(fill, shape, swapped):
    d = Draft()
    q, k, v = qkv(d)
    s, mask = scores(d, q, k), d.x(*shape, name="mask", dtype=boolean)
    s = d.emit("where", d.emit("not", mask), d.constant(fill, f32), s) if swapped else blocked(d, s, mask, fill)
    program = finish(d, s, v)
    node = raised(program, open_rows(program), left=None)
    assert node.inputs[3] is not None


@pytest.mark.parametrize("fill", FILLS[1:])
@pytest.mark.parametrize("shape", MASKS)
def test_a_row_that_sees_nothing_looks_everywhere_when_the_fill_is_finite(fill, shape):
    d = Draft()
    q, k, v = qkv(d)
    program = finish(d, blocked(d, scores(d, q, k), d.x(*shape, name="mask", dtype=boolean), fill), v)
    raised(program, open_rows(program, False), left=None)


def test_a_row_that_sees_nothing_gives_0_when_the_fill_is_infinite():
    d = Draft()
    q, k, v = qkv(d)
    program = finish(d, blocked(d, scores(d, q, k), d.x(BATCH, 1, SEQ, SEQ, name="mask", dtype=boolean), -INF), v)
    given = open_rows(program, False)
    after = run(raise_attention, program).program
    before, now = evaluate(program, given)["output_0"], evaluate(after, given)["output_0"]
    assert np.isnan(before[:, 0]).all() and (now[:, 0] == 0).all()
    np.testing.assert_allclose(now[:, 1:], before[:, 1:], rtol=1e-5, atol=1e-6)


def test_a_weak_fill_declines():
    d = Draft()
    q, k, v = qkv(d)
    program = finish(d, blocked(d, scores(d, q, k), d.x(SEQ, SEQ, name="mask", dtype=boolean), -100.0), v)
    done = run(raise_attention, program)
    assert only(texts(done), "masked scores are filled with -100.0, which still gives them weight; fill with -inf")
    assert "attention" not in ops(done.program)


@pytest.mark.parametrize("shape", [(BATCH, 1, 1, SEQ), (1, 3, SEQ, SEQ), (SEQ, SEQ), (3, 1, 1)])
def test_an_additive_bias_of_any_shape(shape):
    d = Draft()
    q, k, v = qkv(d)
    program = finish(d, d.emit("add", scores(d, q, k), d.x(*shape, name="bias")), v)
    node = raised(program, left=None)
    assert node.inputs[4] is not None and node.inputs[3] is None


def test_berts_soft_mask_stays_a_bias():
    d = Draft()
    q, k, v = qkv(d)
    mask = d.emit("cast", d.x(BATCH, 1, 1, SEQ, name="mask", dtype=i64), dtype=f32)
    bias = d.emit("mul", d.emit("sub", d.constant(1, f32), mask), d.constant(-10000, f32))
    program = finish(d, d.emit("add", scores(d, q, k), bias), v)
    given = arrays(program)
    given["mask"] = given["mask"] % 2
    closed = {**given, "mask": given["mask"] * 0}
    assert raised(program, given, closed, left=None).inputs[4] is not None


@pytest.mark.parametrize("late", [False, True])
def test_bias_and_mask_in_either_order(late):
    d = Draft()
    q, k, v = qkv(d)
    bias, mask = d.x(1, 3, SEQ, SEQ, name="bias"), d.x(BATCH, 1, 1, SEQ, name="mask", dtype=boolean)
    s = scores(d, q, k)
    s = blocked(d, s, mask, -INF) if late else d.emit("add", s, bias)
    s = d.emit("add", s, bias) if late else blocked(d, s, mask, -INF)
    program = finish(d, s, v)
    node = raised(program, open_rows(program))
    assert node.inputs[3] is not None and node.inputs[4] is not None


LATE = "a bias is added after masked scores were filled with"
BLIND = {"none": (), "one row": (2,), "every row": slice(None)}
BIASES = [(1, 3, SEQ, SEQ), (BATCH, 1, 1, SEQ), (SEQ,)]


def biased(d, s, bias, mask, fill, late):
    s = blocked(d, s, mask, fill) if late else d.emit("add", s, bias)
    return d.emit("add", s, bias) if late else blocked(d, s, mask, fill)


def same_in_f32(before, after, given):
    """In the program's own precision, where a fill swallows the small things that are added to it."""
    want, got = (evaluate(p, given)["output_0"] for p in (before, after))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", BIASES)
@pytest.mark.parametrize(("fill", "late", "blind"), list(itertools.product(FILLS[1:], [False, True], BLIND)))
def test_a_bias_beside_a_finite_fill_counts_only_where_the_row_sees(fill, late, blind, shape):
    d = Draft()
    q, k, v = qkv(d)
    bias, mask = d.x(*shape, name="bias"), d.x(BATCH, 1, SEQ, SEQ, name="mask", dtype=boolean)
    program = finish(d, biased(d, scores(d, q, k), bias, mask, fill, late), v)
    given = {**open_rows(program), "bias": arrays(program, size=3.0)["bias"]}
    given["mask"][..., BLIND[blind], :] = False
    done = run(raise_attention, program)
    assert ("attention" in ops(done.program)) is not late
    assert bool(only(texts(done), f"{LATE} {fill}")) is late
    same_numbers(program, done.program, given)
    same_in_f32(program, done.program, given)


@pytest.mark.parametrize("fill", FILLS[1:])
def test_a_late_bias_is_taken_where_every_row_sees_itself(fill):
    d = Draft()
    q, k, v = qkv(d)
    mask = CAUSAL["columns <= rows"](d, *rows_and_columns(d))
    program = finish(d, biased(d, scores(d, q, k), d.x(1, 3, SEQ, SEQ, name="bias"), mask, fill, True), v)
    node = raised(program, arrays(program), left=None)
    assert node.attrs["causal"] and node.inputs[4] is not None


@pytest.mark.parametrize("fill", FILLS[1:])
def test_a_blind_row_with_a_bias_and_heads_folded_into_the_batch(fill):
    d = Draft()
    q, k, v = (d.x(BATCH, SEQ, 4, name=n) for n in "qkv")
    bias, mask = d.x(BATCH, SEQ, SEQ, name="bias"), d.x(SEQ, SEQ, name="mask", dtype=boolean)
    s = biased(d, d.emit("matmul", q, d.emit("transpose", k, perm=(0, 2, 1))), bias, mask, fill, False)
    program = d.program(d.emit("matmul", d.emit("softmax", s, axis=2), v))
    after = run(raise_attention, program).program
    assert "attention" in ops(after)
    same_numbers(program, after, open_rows(program, False))
    same_in_f32(program, after, open_rows(program, False))


@pytest.mark.parametrize("swapped", [False, True])
def test_a_bias_of_0_and_minus_infinity_is_a_mask(swapped):
    d = Draft()
    q, k, v = qkv(d)
    mask = d.x(BATCH, 1, SEQ, SEQ, name="mask", dtype=boolean)
    sides = (d.constant(0, f32), d.constant(-INF, f32))
    bias = d.emit("where", d.emit("not", mask), *sides[::-1]) if swapped else d.emit("where", mask, *sides)
    program = finish(d, d.emit("add", scores(d, q, k), bias), v)
    node = raised(program, open_rows(program), left=None)
    assert node.inputs[3] is not None and len([i for i in node.inputs[3:] if i is not None]) == 1


def rows_and_columns(d):
    places = d.emit("iota", length=SEQ, dtype=i64)
    return d.emit("reshape", places, shape=(SEQ, 1)), d.emit("reshape", places, shape=(1, SEQ))


CAUSAL = {
    "columns <= rows": lambda d, r, c: d.emit("le", c, r),
    "rows >= columns": lambda d, r, c: d.emit("ge", r, c),
    "rows + 1 > columns": lambda d, r, c: d.emit("gt", d.emit("add", r, d.constant(1, i64)), c),
    "columns - 1 < rows": lambda d, r, c: d.emit("lt", d.emit("sub", c, d.constant(1, i64)), r),
}


@pytest.mark.parametrize("written", CAUSAL)
def test_a_causal_mask_is_an_attribute(written):
    d = Draft()
    q, k, v = qkv(d)
    mask = CAUSAL[written](d, *rows_and_columns(d))
    node = raised(finish(d, blocked(d, scores(d, q, k), mask, -INF), v))
    assert node.attrs["causal"] and node.inputs[3] is None


ALMOST = {
    "strictly below": lambda d, r, c: d.emit("lt", c, r),
    "one more": lambda d, r, c: d.emit("le", c, d.emit("add", r, d.constant(1, i64))),
    "the future": lambda d, r, c: d.emit("ge", c, r),
}


@pytest.mark.parametrize("written", ALMOST)
def test_what_is_almost_causal_stays_a_mask(written):
    d = Draft()
    q, k, v = qkv(d)
    mask = ALMOST[written](d, *rows_and_columns(d))
    program = finish(d, blocked(d, scores(d, q, k), mask, -1e9), v)
    assert not raised(program, left=None).attrs["causal"]


def test_causal_and_padding():
    d = Draft()
    q, k, v = qkv(d)
    padding = d.x(BATCH, 1, 1, SEQ, name="mask", dtype=boolean)
    mask = d.emit("and", CAUSAL["columns <= rows"](d, *rows_and_columns(d)), padding)
    program = finish(d, blocked(d, scores(d, q, k), mask, -INF), v)
    node = raised(program, open_rows(program), left=None)
    assert node.attrs["causal"] and node.inputs[3] is not None and node.inputs[3].type.shape == (BATCH, 1, 1, SEQ)


def test_a_scaled_query_and_key_are_part_of_the_scale():
    d = Draft()
    q, k, v = qkv(d)
    q, k = d.emit("mul", q, d.constant(0.5, f32)), d.emit("div", k, d.constant(4, f32))
    program = d.program(d.emit("matmul", d.emit("softmax", scores(d, q, k), axis=-1), v))
    done = run(raise_attention, program)
    after = run(clean, done.program).program
    assert [o for o in ops(after) if o != "transpose"] == ["attention"]
    assert next(n for n in after.entry.nodes if n.op.name == "attention").attrs["scale"] == 0.125
    same_numbers(program, after)


def repeated(d, x, groups, times, size):
    """transformers' repeat_kv."""
    five = d.emit("reshape", x, shape=(BATCH, groups, 1, SEQ, size))
    wide = d.emit("expand", five, shape=(BATCH, groups, times, SEQ, size))
    return d.emit("reshape", wide, shape=(BATCH, groups * times, SEQ, size))


def test_repeated_keys_and_values_are_grouped_heads():
    d = Draft()
    q = d.emit("transpose", d.x(BATCH, SEQ, 6, 4, name="q"), perm=HEADS)
    k, v = (d.emit("transpose", d.x(BATCH, SEQ, 2, 4, name=n), perm=HEADS) for n in "kv")
    program = finish(d, scores(d, q, repeated(d, k, 2, 3, 4)), repeated(d, v, 2, 3, 4))
    node = raised(program)
    assert node.inputs[1].type.shape[2] == 2


def test_three_axes_are_heads_folded_into_the_batch():
    d = Draft()
    q, k, v = (d.x(BATCH, SEQ, 4, name=n) for n in "qkv")
    mask = d.x(SEQ, SEQ, name="mask", dtype=boolean)
    s = blocked(d, d.emit("matmul", q, d.emit("transpose", k, perm=(0, 2, 1))), mask, -INF)
    program = d.program(d.emit("matmul", d.emit("softmax", s, axis=2), v))
    after = run(raise_attention, program)
    assert "attention" in ops(after.program)
    same_numbers(program, after.program, {**arrays(program), "mask": np.tril(np.ones((5, 5), bool))})


def test_it_declines_weights_that_others_read():
    d = Draft()
    q, k, v = qkv(d)
    weights = d.emit("softmax", scores(d, q, k), axis=-1)
    program = d.program(d.emit("matmul", weights, v), weights)
    assert only(texts(run(raise_attention, program)), "(softmax) inside is used elsewhere")


def test_it_declines_a_mask_larger_than_the_scores():
    d = Draft()
    q, k, v = (d.x(1, 3, SEQ, 4, name=n) for n in "qkv")
    s = d.emit("add", scores(d, q, k), d.x(BATCH, 1, 1, SEQ, name="bias"))
    v = d.emit("expand", v, shape=(BATCH, 3, SEQ, 4))
    done = run(raise_attention, d.program(d.emit("matmul", d.emit("softmax", s, axis=-1), v)))
    assert "attention" not in ops(done.program)
    assert only(texts(done), "attention declined: q, k and v have different leading axes")


def test_a_softmax_over_another_axis_is_no_attention():
    d = Draft()
    q, k, v = qkv(d)
    program = d.program(d.emit("matmul", d.emit("softmax", scores(d, q, k), axis=2), v))
    done = run(raise_attention, program)
    assert "attention" not in ops(done.program)
    assert only(texts(done), "attention") == ["attention declined: its softmax is not over the keys"]


def attended(d, q, k, v, change=lambda s: s):
    """softmax(change(q kᵀ)) v as a program; k is [..., t, d]."""
    axes = tuple(range(k.type.rank - 2))
    s = d.emit("matmul", q, d.emit("transpose", k, perm=(*axes, len(axes) + 1, len(axes))))
    return d.program(d.emit("matmul", d.emit("softmax", change(s), axis=-1), v))


def only_attention(program, *given):
    done = run(raise_attention, program)
    after = run(clean, done.program).program
    same_numbers(program, after, *given)
    assert "softmax" not in ops(after)
    return next(n for n in after.entry.nodes if n.op.name == "attention")


@pytest.mark.parametrize("mask", [None, (BATCH, 1, 1, 1, SEQ), (1, 2, 1, SEQ, SEQ), (1, 1, 3, 1, SEQ), (SEQ, SEQ)])
def test_five_axes_are_grouped_heads(mask):
    d = Draft()
    q = d.x(BATCH, 2, 3, SEQ, 4, name="q")
    k, v = (d.x(BATCH, 2, 1, SEQ, 4, name=n) for n in "kv")
    seen = None if mask is None else d.x(*mask, name="mask", dtype=boolean)
    program = attended(d, q, k, v, lambda s: s if seen is None else blocked(d, s, seen, -1e9))
    node = only_attention(program)
    assert node.inputs[0].type.shape == (BATCH, SEQ, 6, 4) and node.inputs[1].type.shape == (BATCH, SEQ, 2, 4)


def test_one_key_head_for_all():
    d = Draft()
    q, k, v = (d.x(BATCH, n, SEQ, 4, name=x) for x, n in zip("qkv", (3, 1, 1), strict=True))
    assert only_attention(attended(d, q, k, v)).inputs[1].type.shape == (BATCH, SEQ, 1, 4)


def test_a_batch_of_one_that_others_share_declines():
    d = Draft()
    q, k, v = (d.x(n, 3, SEQ, 4, name=x) for x, n in zip("qkv", (BATCH, 1, 1), strict=True))
    done = run(raise_attention, attended(d, q, k, v))
    assert only(texts(done), "attention") == ["attention declined: q, k and v have different leading axes"]


@pytest.mark.parametrize(("fill", "swapped"), list(itertools.product(FILLS, [False, True])))
def test_two_masks_one_after_the_other(fill, swapped):
    d = Draft()
    q, k, v = (d.x(BATCH, 3, SEQ, 4, name=n) for n in "qkv")
    one, two = d.x(BATCH, 1, 1, SEQ, name="mask", dtype=boolean), d.x(SEQ, SEQ, name="other", dtype=boolean)

    def masked(s):
        s = blocked(d, s, one, fill)
        return d.emit("where", d.emit("not", two), d.constant(fill, f32), s) if swapped else blocked(d, s, two, fill)

    program = attended(d, q, k, v, masked)
    given = open_rows(program)
    given["other"][..., 0] = True
    only_attention(program, given)


def test_two_masks_that_fill_with_different_numbers_decline():
    d = Draft()
    q, k, v = (d.x(BATCH, 3, SEQ, 4, name=n) for n in "qkv")
    one, two = d.x(BATCH, 1, 1, SEQ, name="mask", dtype=boolean), d.x(SEQ, SEQ, name="other", dtype=boolean)
    program = attended(d, q, k, v, lambda s: blocked(d, blocked(d, s, one, -1e9), two, -1e12))
    assert "attention" not in ops(run(raise_attention, program).program)


@pytest.mark.parametrize("shape", [(BATCH, 1, 1, SEQ), (BATCH, 3, SEQ, SEQ), (1, 3, 1, 1), (SEQ, SEQ)])
def test_scores_viewed_apart_for_the_mask(shape):
    d = Draft()
    q, k, v = (d.emit("reshape", d.x(BATCH, 3, SEQ, 4, name=n), shape=(BATCH * 3, SEQ, 4)) for n in "qkv")
    mask = d.x(*shape, name="mask", dtype=boolean)

    def masked(s):
        apart = blocked(d, d.emit("reshape", s, shape=(BATCH, 3, SEQ, SEQ)), mask, -1e9)
        return d.emit("reshape", apart, shape=s.type.shape)

    node = only_attention(attended(d, q, k, v, masked))
    assert node.inputs[0].type.shape == (BATCH, SEQ, 3, 4)


def test_scores_seen_in_another_order_decline():
    d = Draft()
    q, k, v = (d.x(BATCH, 2, SEQ, 4, name=n) for n in "qkv")
    program = attended(d, q, k, v, lambda s: d.emit("reshape", s, shape=s.type.shape))
    assert "attention" in ops(run(raise_attention, program).program)  # a reshape to the same shape changes nothing

    mask = d.x(BATCH, SEQ, 1, SEQ, name="mask", dtype=boolean)

    def turned(s):
        seen = blocked(d, d.emit("reshape", s, shape=(BATCH, SEQ, 2, SEQ)), mask, -1e9)
        return d.emit("reshape", seen, shape=s.type.shape)

    done = run(raise_attention, attended(d, q, k, v, turned))
    assert only(texts(done), "attention") == ["attention declined: the scores are reshaped on their way"]


@pytest.mark.parametrize("shape", [(3, 1, 1), (BATCH, 3, SEQ, 1), (BATCH, 1, 1, 1)])
def test_a_factor_of_each_head_or_query_goes_to_the_query(shape):
    d = Draft()
    q, k, v = (d.x(BATCH, 3, SEQ, 4, name=n) for n in "qkv")
    factor = d.x(*shape, name="factor")
    only_attention(attended(d, q, k, v, lambda s: d.emit("mul", s, factor)))


def test_a_factor_of_each_key_declines():
    d = Draft()
    q, k, v = (d.x(BATCH, 3, SEQ, 4, name=n) for n in "qkv")
    factor = d.x(BATCH, 1, 1, SEQ, name="factor")
    done = run(raise_attention, attended(d, q, k, v, lambda s: d.emit("mul", s, factor)))
    assert "scaled by" in only(texts(done), "attention")[0]


def test_scores_less_their_greatest():
    d = Draft()
    q, k, v = (d.x(BATCH, 3, SEQ, 4, name=n) for n in "qkv")
    program = attended(d, q, k, v, lambda s: d.emit("sub", s, d.emit("max", s, axes=(-1,), keepdims=True)))
    only_attention(program)


@pytest.mark.parametrize("fill", FILLS)
def test_a_causal_bias_is_an_attribute_whatever_it_holds(fill):
    d = Draft()
    q, k, v = qkv(d)
    mask = CAUSAL["columns <= rows"](d, *rows_and_columns(d))
    bias = d.emit("where", mask, d.constant(0, f32), d.constant(fill, f32))
    node = raised(finish(d, d.emit("add", scores(d, q, k), bias), v))
    assert node.attrs["causal"] and node.inputs[4] is None


@pytest.mark.parametrize("fill", FILLS)
def test_a_causal_window_is_two_attributes(fill):
    d = Draft()
    q, k, v = qkv(d)
    rows, columns = rows_and_columns(d)
    near = d.emit("lt", d.emit("sub", rows, columns), d.constant(3, i64))
    mask = d.emit("and", d.emit("ge", rows, columns), near)
    node = raised(finish(d, blocked(d, scores(d, q, k), mask, fill), v))
    assert (node.attrs["causal"], node.attrs["window"], node.inputs[3]) == (True, 3, None)


def test_a_bias_before_the_scores_are_viewed_apart_as_bloom_writes_it():
    d = Draft()
    q, k, v = (d.emit("reshape", d.x(BATCH, 3, SEQ, 4, name=n), shape=(3 * BATCH, SEQ, 4)) for n in "qkv")
    slopes = d.emit("reshape", d.x(BATCH, 3, SEQ, name="alibi"), shape=(3 * BATCH, 1, SEQ))
    mask = d.x(BATCH, 1, SEQ, SEQ, name="bias")
    s = d.emit("matmul", q, d.emit("transpose", k, perm=(0, 2, 1)))
    s = d.emit("add", d.emit("mul", s, d.constant(0.5, f32)), slopes)
    s = d.emit("add", d.emit("reshape", s, shape=(BATCH, 3, SEQ, SEQ)), mask)
    w = d.emit("reshape", d.emit("softmax", s, axis=-1), shape=(3 * BATCH, SEQ, SEQ))
    program = d.program(d.emit("matmul", w, v))
    after = run(raise_attention, program).program
    (node,) = [n for n in after.entry.nodes if n.op.name == "attention"]
    assert node.attrs["scale"] == 0.5 and node.inputs[4].type.shape == (BATCH, 3, SEQ, SEQ)
    same_numbers(program, after)


def test_a_bias_that_is_scaled_with_the_scores_as_falcon_writes_it():
    d = Draft()
    q, k, v = qkv(d)
    s = d.emit("add", scores(d, q, k), d.x(BATCH, 3, 1, SEQ, name="alibi"))
    s = d.emit("add", d.emit("mul", s, d.constant(0.5, f32)), d.x(BATCH, 1, SEQ, SEQ, name="bias"))
    assert raised(finish(d, s, v), left=None).attrs["scale"] == 0.5


def test_a_bias_under_the_cap_declines():
    d = Draft()
    q, k, v = qkv(d)
    s = d.emit("add", scores(d, q, k), d.x(BATCH, 3, 1, SEQ, name="alibi"))
    s = d.emit("mul", d.emit("tanh", d.emit("div", s, d.constant(30, f32))), d.constant(30, f32))
    done = run(raise_attention, finish(d, s, v))
    assert only(texts(done), "a bias is added before the scores are capped") and "attention" not in ops(done.program)
