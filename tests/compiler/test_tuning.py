"""Choices are asked for with one call, answered by the table or by the default, and the passes obey."""

from __future__ import annotations

from dataclasses import replace

import pytest
from compiler_kit import BATCH, MACHINE, SEQ, Draft, fusions, ops, run, same_numbers, task, texts

from tundish.compiler.driver import compile_program
from tundish.compiler.passes.choose import KERNELS, RUN
from tundish.compiler.passes.fuse_epilogues import fuse_epilogues
from tundish.compiler.passes.fuse_projections import fuse_projections
from tundish.compiler.tuning import WHOLE, Answer, Choice, Pick, Site, Table, model_key, shape_class
from tundish.ir.diagnostics import Where
from tundish.ir.dims import Range

WAYS = Choice("way", ("usual", "other"))
PLACE = ("matmul", "8x8", "f32")
SITE = Site("way", *PLACE)


def test_without_an_answer_the_first_option_is_taken():
    pick = Table().pick(WAYS, *PLACE)
    assert (pick.site, pick.option, pick.usual, pick.why) == (SITE, "usual", True, "")


def test_an_answer_is_taken_and_said():
    pick = Table({SITE: Answer("other", 0.75)}).pick(WAYS, *PLACE)
    assert pick.option == "other" and not pick.usual
    assert "25.0% less time than usual" in pick.why
    assert "other measured no faster" in Table({SITE: Answer("usual")}).pick(WAYS, *PLACE).why


def test_an_option_that_is_no_longer_offered_is_no_answer():
    assert Table({SITE: Answer("gone", 0.5)}).pick(WAYS, *PLACE) == Pick(WAYS, SITE, "usual")


@pytest.mark.parametrize("field", ["choice", "pattern", "shape", "dtype"])
def test_an_answer_holds_for_its_own_place_only(field):
    table = Table({replace(SITE, **{field: "else"}): Answer("other")})
    assert table.pick(WAYS, *PLACE).usual


def test_the_digest_tells_answers_apart_and_nothing_else():
    other = replace(SITE, shape="4x4")
    one = Table({SITE: Answer("other", 0.5), other: Answer("usual")})
    assert one.digest == Table({other: Answer("usual", 0.9), SITE: Answer("other", 0.7)}).digest
    assert one.digest != Table({SITE: Answer("usual"), other: Answer("usual")}).digest != Table().digest


# -- keys ----------------------------------------------------------------------------------------------


def two_layers(width: int = 16, line: int = 7, name: str = "up", high: int = 64):
    d = Draft()
    with d.at(Where("model.py", line)):
        x = d.emit("linear", d.x(BATCH, SEQ, 8), d.weight(name, 8, width), None)
    symbols = {"batch": Range(1, 8), "seq": Range(1, high)}
    return d.program(d.emit("gelu", x, approximate="none")).replace(symbols=symbols)


def test_the_key_of_a_model_is_of_what_it_computes():
    assert model_key(two_layers()) == model_key(two_layers(line=8, name="w", high=32))
    assert model_key(two_layers()) != model_key(two_layers(width=32))


def test_shape_classes_hold_what_the_model_fixes():
    d = Draft()
    x = d.x(BATCH, SEQ, 8)
    heads = [d.emit("reshape", d.emit("linear", x, d.weight(n, 8, 4 * g), None), shape=(BATCH, SEQ, g, 4))
             for n, g in (("q", 4), ("k", 2), ("v", 2))]  # fmt: skip
    program = d.program(d.emit("silu", d.emit("attention", *heads, scale=0.5, causal=True)))
    classes = {n.op.name: shape_class(n) for n in program.entry.nodes}
    assert classes["linear"] == "8x8" and classes["attention"] == "4x2x4 self causal" and classes["silu"] == "4"


# -- the passes obey -----------------------------------------------------------------------------------


def gelu_after_linear():
    d = Draft()
    y = d.emit("linear", d.x(BATCH, SEQ, 8), d.weight("w", 8, 16), d.weight("b", 16))
    return d.program(d.emit("gelu", y, approximate="none"))


FUSE = Site("fuse", "linear + gelu", "8x16", "f32")


def test_a_fusion_is_left_apart_where_that_was_faster():
    able = task(fusions=fusions("linear gelu"))
    usual = run(fuse_epilogues, gelu_after_linear(), able)
    assert "fused" in ops(usual.program)
    assert [(p.site, p.option) for p in usual.picks] == [(FUSE, "fused")]
    done = run(fuse_epilogues, gelu_after_linear(), replace(able, tuning=Table({FUSE: Answer("apart", 0.9)})))
    assert "fused" not in ops(done.program)
    assert any("runs as single kernels (tuned: 10.0% less time than fused" in t for t in texts(done))
    same_numbers(gelu_after_linear(), done.program)


def test_a_rare_fusion_is_taken_only_where_it_was_faster():
    rare = frozenset(replace(f, usual=False) for f in fusions("linear gelu"))
    able = task(fusions=rare)
    assert "fused" not in ops(run(fuse_epilogues, gelu_after_linear(), able).program)
    done = run(fuse_epilogues, gelu_after_linear(), replace(able, tuning=Table({FUSE: Answer("fused", 0.9)})))
    assert "fused" in ops(done.program)


def test_one_left_apart_leaves_its_ops_to_shorter_fusions():
    d = Draft()
    x, skip = d.x(BATCH, SEQ, 8), d.x(BATCH, SEQ, 8, name="skip")
    total = d.emit("add", d.emit("linear", x, d.weight("w", 8, 8), None), skip)
    program = d.program(d.emit("rms_norm", total, d.weight("g", 8), eps=1e-5))
    able = task(fusions=fusions("linear add rms_norm", "add rms_norm"))
    longer = next(p.site for p in run(fuse_epilogues, program, able).picks if "linear" in p.site.pattern)
    done = run(fuse_epilogues, program, replace(able, tuning=Table({longer: Answer("apart", 0.9)})))
    (fused,) = [n for n in done.program.entry.nodes if n.op.name == "fused"]
    assert fused.attrs["anchor"] == "add"
    assert {p.site.pattern for p in done.picks} == {"linear + add + rms_norm", "add + rms_norm"}


def gate_and_up():
    d = Draft()
    x = d.x(BATCH, SEQ, 8)
    gate, up = (d.emit("linear", x, d.weight(n, 8, 16)) for n in ("gate", "up"))
    return d.program(d.emit("mul", d.emit("silu", gate), up))


@pytest.mark.parametrize("joins, usual, other", [((), "apart", "joined"), (("gate_up",), "joined", "apart")])
def test_projections_are_joined_where_that_was_faster(joins, usual, other):
    able = task(joins=frozenset(joins))
    (pick,) = run(fuse_projections, gate_and_up(), able).picks
    assert pick.site == Site("join", "gate_up", "8x16+16", "f32") and pick.option == usual
    done = run(fuse_projections, gate_and_up(), replace(able, tuning=Table({pick.site: Answer(other, 0.8)})))
    assert ops(done.program).count("linear") == (1 if other == "joined" else 2)
    assert any("(tuned: 20.0% less time" in t for t in texts(done))
    same_numbers(gate_and_up(), done.program)


OFFERS = {"kernels": {"silu": ("usual", "slow")}, "runs": (Choice("threads", ("4", "2"), at_run=True),)}


def test_kernels_and_run_options_are_decisions_that_differ_from_the_usual():
    able = replace(task(**OFFERS), model="abc")
    plan = compile_program(gate_and_up(), able)
    assert KERNELS not in plan.decisions and RUN not in plan.decisions
    sites = {p.site.choice: p.site for p in plan.picks}
    assert sites["kernel"] == Site("kernel", "silu", "16", "f32")
    assert sites["threads"] == Site("threads", WHOLE, "abc", "f32")
    table = Table({sites["kernel"]: Answer("slow", 0.9), sites["threads"]: Answer("2", 0.5)})
    tuned = compile_program(gate_and_up(), replace(able, tuning=table))
    silu = next(n for n in tuned.program.entry.nodes if n.op.name == "silu")
    assert tuned.decisions[KERNELS] == {("main", silu.output.name): "slow"}
    assert tuned.decisions[RUN] == {"threads": "2"}
    said = [n.text for n in tuned.notes if n.pass_name == "choose"]
    assert len(said) == 2 and "silu runs as slow" in said[0] and "threads is 2" in said[1]


def test_without_optimisation_nothing_is_chosen_in_the_program():
    plan = compile_program(gate_and_up(), replace(task(fuse=False, **OFFERS), model="abc"))
    assert [p.site.choice for p in plan.picks] == ["threads"]
    assert MACHINE == task().machine
