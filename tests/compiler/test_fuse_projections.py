"""Projections of one input are joined where the backend gains from it, and only where that is possible."""

from __future__ import annotations

import pytest
from compiler_kit import BATCH, SEQ, Draft, only, ops, run, same_numbers, task, texts

from tundish.compiler.passes.fuse_projections import fuse_projections
from tundish.ir.dtypes import f32, u8

JOINS = task(joins=frozenset({"qkv", "gate_up"}))


def attention(d, x, biases=(True, True, True), weights=None):
    heads = {"q": 4, "k": 2, "v": 2}
    parts = []
    for (name, n), biased in zip(heads.items(), biases, strict=True):
        w = weights[name] if weights else d.weight(f"w{name}", 8, 4 * n)
        bias = d.weight(f"b{name}", 4 * n) if biased else None
        parts.append(d.emit("reshape", d.emit("linear", x, w, bias), shape=(BATCH, SEQ, n, 4)))
    return d.emit("attention", *parts, scale=0.5)


@pytest.mark.parametrize("biased", [True, False])
def test_query_key_and_value(biased):
    d = Draft()
    program = d.program(attention(d, d.x(BATCH, SEQ, 8), (biased,) * 3))
    done = run(fuse_projections, program, JOINS)
    assert ops(done.program).count("linear") == 1
    split = next(n for n in done.program.entry.nodes if n.op.name == "split")
    assert split.attrs["sizes"] == (16, 8, 8)
    assert texts(done) == ["the 3 projections qkv of one input are one product"]
    same_numbers(program, done.program)


@pytest.mark.parametrize("act", ["silu", "gelu"])
def test_gate_and_up(act):
    d = Draft()
    x = d.x(BATCH, SEQ, 8)
    gate, up = (d.emit("linear", x, d.weight(n, 8, 16)) for n in ("gate", "up"))
    hidden = d.emit(act, gate, approximate="none") if act == "gelu" else d.emit(act, gate)
    program = d.program(d.emit("mul", hidden, up))
    done = run(fuse_projections, program, JOINS)
    assert ops(done.program).count("linear") == 1
    same_numbers(program, done.program)


@pytest.mark.parametrize("joins, products", [("joins", 2), ("block_joins", 1)])
def test_quantised_weights_are_joined_where_the_backend_says_so_of_them(joins, products):
    d = Draft()
    x = d.x(BATCH, SEQ, 64)
    forms = {"bits": 8, "group": 32, "scheme": "centred"}
    numbers = [(d.weight(f"{n}q", 16, 64, dtype=u8), d.weight(f"{n}s", 16, 2)) for n in ("gate", "up")]
    gate, up = (d.emit("quantized_matmul", x, q, scale, **forms) for q, scale in numbers)
    program = d.program(d.emit("mul", d.emit("silu", gate), up))
    done = run(fuse_projections, program, task(**{joins: frozenset({"gate_up"})}))
    assert ops(done.program).count("quantized_matmul") == products
    same_numbers(program, done.program)


def test_a_projection_made_late_stands_before_who_needs_it():
    d = Draft()
    x = d.x(BATCH, SEQ, 8)
    one = d.emit("linear", x, d.weight("gate", 8, 16))
    hidden = d.emit("silu", one)
    two = d.emit("linear", x, d.emit("transpose", d.weight("up", 16, 8), perm=(1, 0)))
    program = d.program(d.emit("mul", hidden, two))
    done = run(fuse_projections, program, JOINS)
    same_numbers(program, done.program)


REASONS = {
    "gains nothing from joining qkv": (task(), {}),
    "some have a bias and some have none": (JOINS, {"biases": (True, False, True)}),
}


@pytest.mark.parametrize("reason", REASONS)
def test_it_declines(reason):
    given, changes = REASONS[reason]
    d = Draft()
    done = run(fuse_projections, d.program(attention(d, d.x(BATCH, SEQ, 8), **changes)), given)
    assert only(texts(done), "the 3 projections qkv of one input declined: ") and only(texts(done), reason)
    assert ops(done.program).count("linear") == 3


def test_it_declines_weights_that_depend_on_the_input():
    d = Draft()
    x = d.x(BATCH, SEQ, 8)
    weights = {"q": d.weight("wq", 8, 16), "k": d.x(8, 8, name="k"), "v": d.weight("wv", 8, 8)}
    done = run(fuse_projections, d.program(attention(d, x, (False,) * 3, weights)), JOINS)
    assert only(texts(done), "a weight depends on the input")


def test_projections_of_one_input_that_never_meet_are_left_alone():
    d = Draft()
    x = d.x(BATCH, SEQ, 8)
    a, b = (d.emit("linear", x, d.weight(n, 8, 16)) for n in "ab")
    assert not run(fuse_projections, d.program(d.emit("add", a, d.emit("exp", b))), JOINS).notes


def test_inside_a_function_weights_are_parameters_that_every_call_fills_with_weights():
    body = Draft()
    x, *ws = body.x(BATCH, SEQ, 8), *(body.x(8, 16, name=n) for n in ("gate", "up"))
    gate, up = (body.emit("linear", x, w) for w in ws)
    hidden = body.emit("mul", body.emit("silu", gate), up)
    graph = body.finish([body.emit("linear", hidden, body.x(16, 8, name="down"))])
    d = Draft()
    d.functions = {"mlp": graph}
    y = d.x(BATCH, SEQ, 8)
    for i in range(2):
        weights = d.weight(f"g{i}", 8, 16), d.weight(f"u{i}", 8, 16), d.weight(f"d{i}", 16, 8)
        y = d.call("mlp", graph, (y, *weights)).output
    program = d.program(y)
    done = run(fuse_projections, program, JOINS)
    assert ops(done.program.functions["mlp"]).count("linear") == 2
    assert [n.times for n in done.notes] == [2]
    same_numbers(program, done.program)
    assert f32 == y.type.dtype
