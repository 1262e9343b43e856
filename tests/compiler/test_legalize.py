"""Only what the backend takes is left, or an error that names every op and the user's lines."""

from __future__ import annotations

import pytest
from compiler_kit import BATCH, SEQ, Draft, fusions, ops, run, same_numbers, task, texts

from tundish.compiler.passes.fuse_epilogues import fuse_epilogues
from tundish.compiler.passes.legalize import legalize
from tundish.ir.diagnostics import CompileError, Where
from tundish.ir.dtypes import f32
from tundish.ir.op import OPS


def without(*names, **changes):
    return task(ops=frozenset(OPS) - set(names), decomposed=frozenset(names), **changes)


DECOMPOSED = {
    "gelu": lambda d, x: d.emit("gelu", x, approximate="none"),
    "silu": lambda d, x: d.emit("silu", x),
    "rms_norm": lambda d, x: d.emit("rms_norm", x, d.weight("w", 8), eps=1e-5),
    "layer_norm": lambda d, x: d.emit("layer_norm", x, d.weight("w", 8), d.weight("b", 8), eps=1e-5),
    "softmax": lambda d, x: d.emit("softmax", x, axis=-1),
    "linear": lambda d, x: d.emit("linear", x, d.weight("w", 8, 3), d.weight("b", 3)),
}


@pytest.mark.parametrize("op", DECOMPOSED)
def test_what_the_backend_takes_in_parts_is_decomposed(op):
    d = Draft()
    program = d.program(DECOMPOSED[op](d, d.x(BATCH, SEQ, 8)))
    done = run(legalize, program, without(op))
    assert op not in ops(done.program)
    assert texts(done) == [f"{op} runs as simpler ops on tester"]
    same_numbers(program, done.program, tolerance=1e-6)


def test_parts_of_parts_are_decomposed_too():
    d = Draft()
    program = d.program(d.emit("silu", d.x(4)))
    done = run(legalize, program, without("silu", "sigmoid"))
    assert not {"silu", "sigmoid"} & set(ops(done.program))
    same_numbers(program, done.program, tolerance=1e-6)


def test_what_is_taken_whole_stays_whole():
    d = Draft()
    program = d.program(d.emit("silu", d.x(4)))
    done = run(legalize, program, task(decomposed=frozenset({"silu"})))
    assert done.program.entry is program.entry and not done.notes


def test_a_kernel_that_is_not_taken_is_inlined():
    d = Draft()
    y = d.emit("linear", d.x(3, 8), d.weight("w", 8, 4))
    program = d.program(d.emit("gelu", d.emit("mul", y, d.constant(0.5, f32)), approximate="tanh"))
    fused = run(fuse_epilogues, program, task(fusions=fusions("linear mul gelu"))).program
    done = run(legalize, fused, task(fusions=fusions("linear gelu")))
    assert ops(done.program) == ["linear", "mul", "gelu"]
    assert texts(done) == ["linear + mul + gelu is not one kernel of tester: its ops run one by one"]
    same_numbers(program, done.program)


def test_every_op_that_is_not_taken_is_named_with_the_users_lines():
    d = Draft()
    with d.at(Where("model.py", 3, "a")):
        x = d.emit("erf", d.x(4))
    for line in range(10, 15):
        with d.at(Where("model.py", line, "b")):
            x = d.emit("sin", x)
    given = task(ops=frozenset(OPS) - {"erf", "sin"}, declined={"sin": "its kernel is wrong for large angles"})
    with pytest.raises(CompileError) as failed:
        run(legalize, d.program(x), given)
    message = str(failed.value)
    assert message.startswith("model.py:3 (in a): tester takes no erf, sin")
    assert "erf: no lowering is known; at model.py:3 (in a)" in message
    assert "sin: its kernel is wrong for large angles; at model.py:10 (in b), model.py:11 (in b)" in message
    assert "and 2 more" in message and "reference" in message


def test_an_op_in_a_layer_is_named_by_its_own_layer():
    body = Draft()
    body.where = Where("model.py", 5, "layers.{i}")
    graph = body.finish([body.emit("sin", body.x(4))])
    d = Draft()
    d.functions = {"layer": graph}
    y = d.x(4)
    for i in range(2):
        y = d.call("layer", graph, (y,), index=i).output
    with pytest.raises(CompileError, match=r"model.py:5 \(in layers.0\), model.py:5 \(in layers.1\)"):
        run(legalize, d.program(y), task(ops=frozenset(OPS) - {"sin"}))
