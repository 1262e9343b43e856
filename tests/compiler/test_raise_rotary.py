"""Rotary written out, in both layouts and with both ways to cut; what is not rotary stays."""

from __future__ import annotations

import pytest
from compiler_kit import BATCH, SEQ, Draft, only, ops, run, same_numbers, texts

from tundish.compiler.passes.clean import clean
from tundish.compiler.passes.raise_rotary import raise_rotary
from tundish.ir.dtypes import f32

HEADS = (0, 2, 1, 3)


def turned(d, x, way, half, size):
    if way == "slice":
        low = d.emit("slice", x, axis=3, start=0, stop=half)
        high = d.emit("slice", x, axis=-1, start=half, stop=size)
    else:
        low, high = d.emit_node("split", (x,), {"axis": 3, "sizes": (half, size - half)}).outputs
    negative = d.emit("neg", high) if way == "slice" else d.emit("mul", high, d.constant(-1, f32))
    return d.emit("concat", negative, low, axis=3)


def paired(d, *shape, name):
    """Angles of which the second half is the first."""
    half = d.x(*shape[:-1], shape[-1] // 2, name=name)
    return d.emit("concat", half, half, axis=-1)


def rotate(d, x, cos, sin, way="slice", half=4, size=8):
    return d.emit("add", d.emit("mul", x, cos), d.emit("mul", turned(d, x, way, half, size), sin))


@pytest.mark.parametrize("way", ["slice", "split"])
@pytest.mark.parametrize("angles", [(BATCH, 1, SEQ, 8), (1, 1, SEQ, 8), (SEQ, 8), (1, SEQ, 8)])
def test_heads_first_as_llama_writes_it(way, angles):
    d = Draft()
    x = d.x(BATCH, 3, SEQ, 8)
    program = d.program(rotate(d, x, paired(d, *angles, name="cos"), paired(d, *angles, name="sin"), way))
    done = run(raise_rotary, program)
    cleaned = [op for op in ops(run(clean, done.program).program) if op not in ("reshape", "concat")]
    assert cleaned == ["transpose", "rotary", "transpose"]
    assert texts(done) == ["x · cos + cat(-x₂, x₁) · sin is one rotary"]
    same_numbers(program, done.program)


def test_heads_after_length_needs_no_transpose():
    d = Draft()
    x, cos, sin = d.x(BATCH, SEQ, 3, 8), *(paired(d, BATCH, SEQ, 1, 8, name=n) for n in ("cos", "sin"))
    program = d.program(rotate(d, x, cos, sin))
    done = run(raise_rotary, program)
    assert "transpose" not in ops(done.program) and "rotary" in ops(done.program)
    same_numbers(program, done.program)


def test_the_transposes_cancel_with_the_models_own():
    d = Draft()
    x = d.emit("transpose", d.x(BATCH, SEQ, 3, 8), perm=HEADS)
    cos, sin = (d.emit("reshape", paired(d, BATCH, SEQ, 8, name=n), shape=(BATCH, 1, SEQ, 8)) for n in ("cos", "sin"))
    program = d.program(d.emit("transpose", rotate(d, x, cos, sin), perm=HEADS))
    after = run(clean, run(raise_rotary, program).program).program
    assert [op for op in ops(after) if op != "concat"] == ["rotary"]
    same_numbers(program, after)


@pytest.mark.parametrize("first", [True, False])
def test_rotary_on_some_features_only(first):
    d = Draft()
    x = d.x(BATCH, 3, SEQ, 12) if first else d.x(BATCH, SEQ, 3, 12)
    angles = (BATCH, 1, SEQ, 8) if first else (BATCH, SEQ, 1, 8)
    cos, sin = paired(d, *angles, name="cos"), paired(d, *angles, name="sin")
    part = rotate(d, d.emit("slice", x, axis=3, start=0, stop=8), cos, sin)
    rest = d.emit("slice", x, axis=3, start=8, stop=12)
    program = d.program(d.emit("concat", part, rest, axis=3))
    after = run(raise_rotary, program).program
    assert ops(after).count("concat") == 2 and ops(after).count("rotary") == 1, "the angles' own concats are left"
    same_numbers(program, after)


def test_it_declines_unequal_halves():
    d = Draft()
    x = d.x(BATCH, 3, SEQ, 8)
    cos, sin = d.x(SEQ, 8, name="cos"), d.x(SEQ, 8, name="sin")
    done = run(raise_rotary, d.program(rotate(d, x, cos, sin, half=3)))
    assert only(texts(done), "rotary declined: it is cut at 3 of 8, not in halves")


def test_it_declines_angles_by_head():
    d = Draft()
    x = d.x(BATCH, 3, SEQ, 8)
    cos, sin = d.x(1, 3, SEQ, 8, name="cos"), d.x(1, 3, SEQ, 8, name="sin")
    said = texts(run(raise_rotary, d.program(rotate(d, x, cos, sin))))
    assert only(said, "which has no axis of length seq or 3 alone")


def test_it_declines_angles_of_two_shapes():
    d = Draft()
    x = d.x(BATCH, 3, SEQ, 8)
    program = d.program(rotate(d, x, d.x(SEQ, 8, name="cos"), d.x(BATCH, 1, SEQ, 8, name="sin")))
    assert only(texts(run(raise_rotary, program)), "rotary declined: cos is f32[seq, 8] and sin f32[batch, 1, seq, 8]")


def test_the_sides_swapped_are_another_function():
    d = Draft()
    x, cos, sin = d.x(BATCH, 3, SEQ, 8), d.x(SEQ, 8, name="cos"), d.x(SEQ, 8, name="sin")
    low, high = (d.emit("slice", x, axis=3, start=a, stop=a + 4) for a in (0, 4))
    other = d.emit("concat", high, d.emit("neg", low), axis=3)
    program = d.program(d.emit("add", d.emit("mul", x, cos), d.emit("mul", other, sin)))
    assert not run(raise_rotary, program).notes


# -- both members of a pair have one angle --------------------------------------------------------------


def test_angles_that_differ_between_the_two_of_a_pair_stay_written_out():
    """The op holds both, but a backend reads one: raising this gave other numbers."""
    d = Draft()
    x, cos = d.x(BATCH, 3, SEQ, 8), paired(d, SEQ, 8, name="cos")
    done = run(raise_rotary, d.program(rotate(d, x, cos, d.x(SEQ, 8, name="sin"))))
    assert only(texts(done), "rotary declined: sin may differ between the two of a pair")
    assert "rotary" not in ops(done.program)


@pytest.mark.parametrize("pairs", [True, False])
def test_a_table_is_looked_at(pairs):
    d = Draft()
    x = d.x(BATCH, 3, SEQ, 8)
    tables = []
    for name in ("cos", "sin"):
        table = d.weight(name, 64, 8)
        if pairs:
            array = d.weights[name].source.array
            array[:, 4:] = array[:, :4]
        tables.append(d.emit("slice", table, axis=0, start=0, stop=SEQ))
    program = d.program(rotate(d, x, *tables))
    done = run(raise_rotary, program)
    assert ("rotary" in ops(done.program)) == pairs
    same_numbers(program, done.program)


@pytest.mark.parametrize("second", [True, False])
def test_every_call_of_a_layer_must_pass_pairs(second):
    layer = Draft()
    x, cos, sin = layer.x(BATCH, 3, SEQ, 8), layer.x(SEQ, 8, name="cos"), layer.x(SEQ, 8, name="sin")
    body = layer.finish([rotate(layer, x, cos, sin)])
    d = Draft()
    d.functions["layer"] = body
    y = d.x(BATCH, 3, SEQ, 8)
    cos, sin = (paired(d, SEQ, 8, name=n) for n in ("cos", "sin"))
    other = sin if second else d.x(SEQ, 8, name="other")
    for angles in ((cos, sin), (cos, other)):
        y = d.emit_node("call", (y, *angles), {"function": "layer"}, types=(y.type,)).output
    program = d.program(y)
    done = run(raise_rotary, program)
    assert ("rotary" in ops(done.program.functions["layer"])) == second
    same_numbers(program, done.program)


# -- the other ways to write it -------------------------------------------------------------------------


def twins(d, *shape, name):
    """Angles that stand twice in a row, as repeat_interleave makes them."""
    half = (*shape[:-1], shape[-1] // 2)
    wide = d.emit("reshape", d.x(*half, name=name), shape=(*half, 1))
    return d.emit("reshape", d.emit("expand", wide, shape=(*half, 2)), shape=shape)


def interleaved(d, x, cos, sin):
    shape = x.type.shape
    low, high = (d.emit("slice", x, axis=3, start=i, stop=shape[3], step=2) for i in (0, 1))
    parts = (d.emit("reshape", v, shape=(*v.type.shape, 1)) for v in (d.emit("neg", high), low))
    turned = d.emit("reshape", d.emit("concat", *parts, axis=4), shape=shape)
    return d.emit("add", d.emit("mul", x, cos), d.emit("mul", turned, sin))


@pytest.mark.parametrize("angles", [twins, paired])
def test_interleaved_as_gptj_writes_it(angles):
    d = Draft()
    x = d.x(BATCH, SEQ, 3, 8)
    cos, sin = (angles(d, 1, SEQ, 1, 8, name=n) for n in ("cos", "sin"))
    program = d.program(interleaved(d, x, cos, sin))
    done = run(raise_rotary, program)
    (node,) = [n for n in done.program.entry.nodes if n.op.name == "rotary"] or [None]
    assert (node is not None and node.attrs["interleaved"]) == (angles is twins)
    same_numbers(program, done.program)


@pytest.mark.parametrize("apart", [True, False])
def test_complex_numbers_as_llama4_writes_them(apart):
    d = Draft()
    x = d.x(BATCH, SEQ, 3, 8) if apart else d.x(BATCH, SEQ, 24)
    cos, sin = (d.x(BATCH, SEQ, 1, 4, name=n) for n in ("cos", "sin"))
    pairs, half = d.emit("reshape", x, shape=(BATCH, SEQ, 3, 4, 2)), (BATCH, SEQ, 3, 4)
    a, b = (d.emit("reshape", d.emit("slice", pairs, axis=4, start=i, stop=i + 1), shape=half) for i in (0, 1))
    real = d.emit("sub", d.emit("mul", a, cos), d.emit("mul", b, sin))
    imag = d.emit("add", d.emit("mul", a, sin), d.emit("mul", b, cos))
    joined = d.emit("concat", *(d.emit("reshape", v, shape=(*half, 1)) for v in (real, imag)), axis=4)
    program = d.program(d.emit("reshape", joined, shape=(BATCH, SEQ, 3, 8)))
    done = run(raise_rotary, program)
    (node,) = [n for n in done.program.entry.nodes if n.op.name == "rotary"]
    assert node.attrs["interleaved"]
    same_numbers(program, done.program)


def cut(d, x, cos, sin, half, size):
    part = d.emit("slice", x, axis=3, start=0, stop=size)
    low, high = (d.emit("slice", x, axis=3, start=a, stop=b) for a, b in ((0, half), (half, size)))
    turned = d.emit("concat", d.emit("neg", high), low, axis=3)
    return d.emit("add", d.emit("mul", part, cos), d.emit("mul", turned, sin))


def test_halves_cut_from_the_whole_as_gpt_neox_leaves_them():
    d = Draft()
    x = d.x(BATCH, 3, SEQ, 12)
    cos, sin = (paired(d, SEQ, 8, name=n) for n in ("cos", "sin"))
    rest = d.emit("slice", x, axis=3, start=8, stop=12)
    program = d.program(d.emit("concat", cut(d, x, cos, sin, 4, 8), rest, axis=3))
    after = run(clean, run(raise_rotary, program).program).program
    assert ops(after).count("rotary") == 1 and "slice" not in ops(after)
    same_numbers(program, after)


def test_parts_that_are_no_halves_of_what_is_turned_stay():
    d = Draft()
    x = d.x(BATCH, 3, SEQ, 12)
    cos, sin = (paired(d, SEQ, 8, name=n) for n in ("cos", "sin"))
    done = run(raise_rotary, d.program(cut(d, x, cos, sin, 3, 8)))
    assert only(texts(done), "0 to 8 is turned by 0 to 3 and 3 to 8") and "rotary" not in ops(done.program)
