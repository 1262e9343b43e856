"""Fused kernels: what the backend names, longest first, with inner values that others need, and never a cycle."""

from __future__ import annotations

from compiler_kit import BATCH, SEQ, Draft, fusions, only, ops, run, same_numbers, task, texts

from tundish.compiler.passes.fuse_epilogues import fuse_epilogues
from tundish.ir.dtypes import f32


def fuse(program, *chains):
    done = run(fuse_epilogues, program, task(fusions=fusions(*chains)))
    same_numbers(program, done.program)
    return done


def body(done, index=0):
    node = [n for n in done.program.entry.nodes if n.op.name == "fused"][index]
    return done.program.functions[node.attrs["function"]], node


def test_linear_and_activation():
    d = Draft()
    y = d.emit("linear", d.x(BATCH, SEQ, 8), d.weight("w", 8, 4), d.weight("b", 4))
    done = fuse(d.program(d.emit("gelu", y, approximate="tanh")), "linear gelu")
    assert ops(done.program) == ["fused"]
    graph, node = body(done)
    assert ops(graph) == ["linear", "gelu"] and graph.nodes[-1].attrs["approximate"] == "tanh"
    assert (node.attrs["anchor"], node.attrs["epilogue"]) == ("linear", ("gelu",))
    assert texts(done) == ["linear + gelu is one kernel"]


def test_nothing_is_fused_that_the_backend_does_not_name():
    d = Draft()
    y = d.emit("silu", d.emit("linear", d.x(3, 8), d.weight("w", 8, 4)))
    assert ops(fuse(d.program(y), "linear gelu").program) == ["linear", "silu"]


def test_equal_bodies_are_one_function_and_others_are_not():
    d = Draft()
    x = d.x(3, 8)
    for i, approximate in enumerate(("none", "none", "tanh")):
        x = d.emit("gelu", d.emit("linear", x, d.weight(f"w{i}", 8, 8)), approximate=approximate)
    done = fuse(d.program(x), "linear gelu")
    assert list(done.program.functions) == ["fused_linear_gelu", "fused_linear_gelu_1", "main"]


def test_the_sum_before_a_norm_is_a_second_result_where_others_need_it():
    d = Draft()
    x = d.x(BATCH, SEQ, 8)
    total = d.emit("add", d.x(BATCH, SEQ, 8, name="y"), x)
    normed = d.emit("rms_norm", total, d.weight("n", 8), eps=1e-6)
    done = fuse(d.program(d.emit("add", total, d.emit("exp", normed))), "add rms_norm")
    assert ops(done.program) == ["fused", "exp", "add"]
    graph, node = body(done)
    assert len(node.outputs) == 2 and graph.outputs[0] is graph.nodes[-1].output


def test_the_sum_is_no_second_result_where_nobody_needs_it():
    d = Draft()
    total = d.emit("add", d.x(BATCH, SEQ, 8), d.x(BATCH, SEQ, 8, name="y"))
    program = d.program(d.emit("layer_norm", total, d.weight("n", 8), eps=1e-6))
    assert len(body(fuse(program, "add layer_norm"))[1].outputs) == 1


def test_the_longest_epilogue_wins_and_the_flowing_value_stands_first():
    d = Draft()
    y = d.emit("linear", d.x(BATCH, SEQ, 8), d.weight("w", 8, 8))
    total = d.emit("add", d.x(BATCH, SEQ, 8, name="skip"), y)
    program = d.program(d.emit("rms_norm", total, d.weight("n", 8), eps=1e-6), total)
    done = fuse(program, "add rms_norm", "linear add rms_norm", "linear add")
    assert ops(done.program) == ["fused"]
    graph, node = body(done)
    assert node.attrs["epilogue"] == ("add", "rms_norm")
    assert graph.nodes[1].inputs[0] is graph.nodes[0].output


def test_a_user_of_the_sum_that_stood_before_the_norm_comes_after_the_kernel():
    d = Draft()
    total = d.emit("add", d.x(BATCH, SEQ, 8), d.x(BATCH, SEQ, 8, name="y"))
    early = d.emit("exp", total)
    normed = d.emit("rms_norm", total, d.weight("n", 8), eps=1e-6)
    done = fuse(d.program(d.emit("mul", early, normed)), "add rms_norm")
    assert ops(done.program) == ["fused", "exp", "mul"]


def test_a_norm_whose_weight_depends_on_the_sum_is_never_fused():
    d = Draft()
    total = d.emit("add", d.x(3, 8), d.x(3, 8, name="y"))
    weight = d.emit("max", total, axes=(0,), keepdims=False)
    program = d.program(d.emit("rms_norm", total, weight, eps=1e-6))
    assert "fused" not in ops(fuse(program, "add rms_norm").program)


def test_it_declines_an_inner_value_that_others_need():
    d = Draft()
    y = d.emit("linear", d.x(3, 8), d.weight("w", 8, 4))
    done = fuse(d.program(d.emit("silu", y), y), "linear silu")
    assert ops(done.program) == ["linear", "silu"]
    assert only(texts(done), "linear + silu declined: the result of linear is used elsewhere")


def test_it_declines_the_wrong_side_of_a_subtraction():
    d = Draft()
    y = d.emit("linear", d.x(3, 8), d.weight("w", 8, 4))
    done = fuse(d.program(d.emit("sub", d.x(3, 4, name="z"), y)), "linear sub")
    assert only(texts(done), "it is not the first input of sub")


def test_scalars_go_into_the_kernel():
    d = Draft()
    y = d.emit("linear", d.x(3, 8), d.weight("w", 8, 4))
    done = fuse(d.program(d.emit("mul", y, d.constant(0.5, f32))), "linear mul")
    graph, node = body(done)
    assert len(node.inputs) == 2 and [n.op.name for n in graph.nodes] == ["linear", "constant", "mul"]


def test_a_second_run_changes_nothing():
    d = Draft()
    y = d.emit("gelu", d.emit("linear", d.x(3, 8), d.weight("w", 8, 4)), approximate="none")
    once = fuse(d.program(y), "linear gelu")
    assert not fuse(once.program, "linear gelu").notes
