"""Drawings: holes, both ways round, constants, casts, alternatives, and what stops a match."""

from __future__ import annotations

import pytest
from compiler_kit import Draft, applied, ops, same_numbers

from tundish.compiler.pattern import rule, scalar
from tundish.ir.diagnostics import GraphError
from tundish.ir.dtypes import bf16, f32
from tundish.ir.graph import producers


def to_neg(drawing, when=None):
    """A rule that marks where a drawing fits with a negation of `x`."""

    def build(b, m):
        """marked"""
        return b.emit("neg", m.x)

    return rule(drawing, when=when)(build)


def fits(drawing, program, when=None) -> bool:
    return "marked" in applied(program, to_neg(drawing, when))[1]


def test_a_hole_drawn_twice_matches_one_value_only():
    square = lambda p, x: p.mul(x, x)  # noqa: E731
    d = Draft()
    x, y = d.x(4), d.x(4, name="y")
    assert fits(square, d.program(d.emit("mul", x, x)))
    assert not fits(square, d.program(d.emit("mul", x, y)))


@pytest.mark.parametrize("turned", [False, True])
def test_ops_that_commute_match_both_ways(turned):
    d = Draft()
    x, y = d.x(4), d.x(4, name="y")
    pair = (d.emit("exp", y), x) if turned else (x, d.emit("exp", y))
    assert fits(lambda p, x, y: p.add(x, p.exp(y)), d.program(d.emit("add", *pair)))
    assert fits(lambda p, x, y: p.sub(x, p.exp(y)), d.program(d.emit("sub", *pair))) is not turned


def test_constants_match_by_number_as_f32_rounds_them_and_fill_holes():
    d = Draft()
    x = d.x(4)
    p1 = d.program(d.emit("mul", x, d.constant(0.7978845834732056, f32)))
    assert fits(lambda p, x: p.mul(x, p.const(0.7978845608028654)), p1)
    assert not fits(lambda p, x: p.mul(x, p.const(0.79789)), p1)
    asked = []
    assert fits(lambda p, x, n: p.mul(x, p.const(n)), p1, when=lambda m: asked.append(m.n))
    assert asked == [0.7978845834732056]


def test_a_constant_is_seen_through_cast_expand_and_reshape_but_a_weight_is_not_one():
    d = Draft()
    three = d.emit("cast", d.constant(3, bf16), dtype=f32)
    wide = d.emit("expand", d.emit("reshape", three, shape=(1, 1)), shape=(2, 2))
    w = d.weight("w", 1)
    program = d.program(wide, d.emit("neg", w))
    made_by = producers(program.entry)
    assert scalar(wide, made_by) == 3.0
    assert scalar(w, made_by) is None


def test_casts_may_be_optional_and_the_hole_is_before_them():
    d = Draft()
    x = d.x(4, dtype=bf16)
    drawing = lambda p, x: p.exp(p.maybe_cast(x))  # noqa: E731
    seen = []
    with_cast = d.program(d.emit("exp", d.emit("cast", x, dtype=f32)))
    # The build must keep the type, so this only looks.
    applied(with_cast, to_neg(drawing, when=lambda m: seen.append(m.x.type.dtype) or "only looking"))
    assert seen == [bf16, f32]
    assert fits(drawing, d.program(d.emit("exp", x)))


def test_optional_inputs_are_none_or_must_be_absent():
    d = Draft()
    x, w, bias = d.x(3, 4), d.weight("w", 4, 4), d.weight("b", 4)
    plain, full = d.program(d.emit("linear", x, w)), d.program(d.emit("linear", x, w, bias))
    seen = []
    maybe = lambda p, x, w, b: p.linear(x, w, p.maybe(b))  # noqa: E731
    assert fits(maybe, plain, when=lambda m: seen.append(m.b))
    assert fits(maybe, full, when=lambda m: seen.append(m.b))
    assert seen[0] is None and seen[1] is not None
    assert fits(lambda p, x, w: p.linear(x, w), plain)
    assert not fits(lambda p, x, w: p.linear(x, w), full)


def test_alternatives_are_tried_again_when_the_rest_does_not_fit():
    d = Draft()
    x, y = d.x(4), d.x(4, name="y")
    # Both branches of `either` fit the product; only the second leaves y for the outer hole.
    product = d.emit("mul", y, x)
    drawing = lambda p, x, y: p.add(p.either(p.mul(x, y), p.mul(y, x)), y)  # noqa: E731
    assert fits(drawing, d.program(d.emit("add", product, y)))


def test_results_of_an_op_with_several_are_told_apart():
    d = Draft()
    parts = d.emit_node("split", (d.x(4),), {"axis": 0, "sizes": (2, 2)}).outputs
    second = lambda p, x: p.exp(p.output(1, p.split(x)))  # noqa: E731
    same = lambda m: "only looking"  # noqa: E731
    assert applied(d.program(d.emit("exp", parts[1])), to_neg(second, same))[1] == ["build declined: only looking"]
    assert applied(d.program(d.emit("exp", parts[0])), to_neg(second, same))[1] == []


def test_axes_are_drawn_from_the_end():
    d = Draft()
    x = d.x(2, 3)
    program = d.program(d.emit("softmax", x, axis=1))
    assert fits(lambda p, x: p.softmax(x, axis=-1), program)
    assert not fits(lambda p, x: p.softmax(x, axis=-2), program)


def test_an_inner_value_used_elsewhere_stops_the_match_with_a_reason():
    d = Draft()
    inner = d.emit("exp", d.x(4))
    program = d.program(d.emit("neg", inner), inner)

    def build(b, m):
        """marked"""
        return b.emit("reciprocal", m.x)

    after, said = applied(program, rule(lambda p, x: p.neg(p.exp(x)))(build))
    assert said == [f"build declined: %{inner.name} (exp) inside is used elsewhere"]
    same_numbers(program, after)


def test_a_move_inside_may_be_shared():
    d = Draft()
    moved = d.emit("transpose", d.x(4, 4), perm=(1, 0))
    program = d.program(d.emit("exp", moved), moved)
    assert fits(lambda p, x: p.exp(p.transpose(x)), program)


def test_the_reason_of_when_is_told_with_the_rule():
    d = Draft()
    program = d.program(d.emit("exp", d.x(4)))
    said = applied(program, to_neg(lambda p, x: p.exp(x), when=lambda m: f"x has {m.x.type.shape[0]} elements"))[1]
    assert said == ["build declined: x has 4 elements"]


def test_the_first_rule_that_fits_wins_and_larger_matches_cover_smaller_ones():
    d = Draft()
    program = d.program(d.emit("neg", d.emit("exp", d.x(4))))

    def large(b, m):
        """large"""
        return b.emit("abs", m.x)

    def small(b, m):
        """small"""
        return b.emit("sign", m.x)

    rules = rule(lambda p, x: p.exp(x))(small), rule(lambda p, x: p.neg(p.exp(x)))(large)
    after, said = applied(program, *rules)
    assert said == ["large"] and ops(after) == ["abs"]


def test_a_drawing_of_an_op_that_is_none_is_refused_with_the_nearest():
    with pytest.raises(GraphError, match="there is no op 'rsqr'"):
        to_neg(lambda p, x: p.rsqr(x))


def test_a_rule_says_what_it_does():
    with pytest.raises(AssertionError, match="says nothing"):
        rule(lambda p, x: p.exp(x))(lambda b, m: m.x)


def test_rules_that_undo_each_other_are_found():
    d = Draft()
    program = d.program(d.emit("exp", d.x(4)))

    def to_log(b, m):
        """to log"""
        return b.emit("log", m.x)

    def to_exp(b, m):
        """to exp"""
        return b.emit("exp", m.x)

    with pytest.raises(AssertionError, match="do not come to rest"):
        applied(program, rule(lambda p, x: p.exp(x))(to_log), rule(lambda p, x: p.log(x))(to_exp))
