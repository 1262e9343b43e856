"""One policy: activations in the compute type, the rest as the model has it, statistics in f32, weights as held."""

from __future__ import annotations

import numpy as np
import pytest
from compiler_kit import BATCH, SEQ, Draft, arrays, ops, run, same_numbers, task

from tundish.compiler.passes.clean import clean
from tundish.compiler.passes.hoist import hoist
from tundish.compiler.passes.precision import precision
from tundish.compiler.task import Precision
from tundish.ir.diagnostics import CompileError
from tundish.ir.dtypes import DTYPES, bf16, f16, f32, f64, i64
from tundish.ir.evaluate import evaluate

HALF = Precision(weights="bf16", compute="bf16")


def dtypes(program, op):
    return {str(v.type.dtype) for n in program.entry.nodes if n.op.name == op for v in n.outputs}


def small(d, features=4):
    """ids -> embedding -> norm -> linear; positions -> sine, added."""
    x = d.emit("gather", d.weight("wte", 8, 6), d.x(BATCH, SEQ, name="ids", dtype=i64), axis=0)
    places = d.emit("cast", d.emit("reshape", d.emit("iota", length=SEQ, dtype=i64), shape=(SEQ, 1)), dtype=f32)
    x = d.emit("add", x, d.emit("sin", d.emit("mul", places, d.weight("freq", 6))))
    return d.emit("linear", d.emit("rms_norm", x, d.weight("n", 6), eps=1e-5), d.weight("w", 6, features))


def test_nothing_happens_in_the_type_that_the_model_has():
    d = Draft()
    program = d.program(small(d))
    done = run(precision, program)
    assert done.program is program and not done.notes


def test_activations_are_narrow_positions_and_statistics_are_not():
    d = Draft()
    program = d.program(small(d))
    done = run(precision, program, task(precision=HALF))
    after = done.program
    assert dtypes(after, "gather") == dtypes(after, "linear") == dtypes(after, "add") == {"bf16"}
    assert dtypes(after, "sin") == dtypes(after, "rms_norm") == {"f32"}
    assert after.entry.outputs[0].type.dtype == f32
    assert [n.text for n in done.notes] == ["computed in bf16, weights held in bf16"]
    same_numbers(program, after)
    given = arrays(program)
    got, want = (evaluate(p, given)["output_0"] for p in (after, program))
    assert 0 < np.abs(got - want).max() < 0.1 * np.abs(want).max()


def test_a_kernel_that_is_wide_inside_gets_no_casts():
    d = Draft()
    given = task(precision=HALF, wide_inside=frozenset({"rms_norm"}))
    assert dtypes(run(precision, d.program(small(d)), given).program, "rms_norm") == {"bf16"}


def test_weights_are_held_in_their_type_after_hoisting():
    d = Draft()
    program = run(clean, run(precision, d.program(small(d)), task(precision=HALF)).program).program
    after = run(hoist, program, task(precision=HALF)).program
    held = {name: str(w.type.dtype) for name, w in run(clean, after).program.weights.items()}
    assert held == {"freq": "f32", "wte.cast": "bf16", "w.cast": "bf16", "n.cast.cast": "f32"}
    same_numbers(program, after, tolerance=1e-2)


def test_weights_may_be_narrower_than_what_is_computed():
    d = Draft()
    given = task(precision=Precision(weights="bf16", compute="f32"))
    program = d.program(small(d, 8192))
    done = run(precision, program, given).program
    after = run(clean, run(hoist, done, given).program).program
    assert after.weights["w.cast"].type.dtype == bf16
    assert dtypes(after, "linear") == {"f32"} and "cast" in ops(after)
    same_numbers(program, done)


def test_a_narrow_model_is_computed_wide_when_asked():
    d = Draft()
    x = d.emit("cast", d.emit("linear", d.x(3, 4, dtype=bf16), d.weight("w", 4, 4, dtype=bf16)), dtype=f32)
    program = d.program(d.emit("cast", d.emit("softmax", x, axis=-1), dtype=bf16))
    after = run(precision, program).program
    assert dtypes(after, "linear") == {"f32"} and after.entry.outputs[0].type.dtype == bf16
    same_numbers(program, after)


def test_a_layer_takes_and_gives_the_compute_type():
    body = Draft()
    x, w = body.x(BATCH, SEQ, 4), body.x(4, 4, name="w")
    graph = body.finish([body.emit("gelu", body.emit("linear", x, w), approximate="none")])
    d = Draft()
    d.functions = {"layer": graph}
    y = d.x(BATCH, SEQ, 4)
    for i in range(2):
        y = d.call("layer", graph, (y, d.weight(f"w{i}", 4, 4)), index=i).output
    program = d.program(y)
    after = run(precision, program, task(precision=Precision("f16", "f16"))).program
    layer = after.functions["layer"]
    assert layer.inputs[0].type.dtype == layer.outputs[0].type.dtype == f16
    assert layer.inputs[1].type.dtype == f32, "a weight is cast where it is used, and hoisted from there"
    same_numbers(program, after)


def test_an_entry_that_gives_back_its_input_keeps_it():
    d = Draft()
    after = run(precision, d.program(d.x(4)), task(precision=HALF)).program
    assert not after.entry.nodes and after.entry.outputs[0].type.dtype == f32


def test_a_type_that_the_backend_has_no_kernels_for_is_refused():
    d = Draft()
    with pytest.raises(CompileError, match="tester does not compute in f64"):
        run(precision, d.program(d.x(4)), task(precision=Precision(compute="f64")))


@pytest.mark.parametrize("policy", [HALF, Precision()], ids=["bf16", "f32"])
def test_bits_are_read_of_the_type_that_the_model_has(policy):
    d = Draft()
    x = d.x(BATCH, SEQ, dtype=f64)
    program = d.program(d.emit("bitcast", d.emit("neg", x), source=f64, target=i64))
    done = run(precision, program, task(precision=policy))
    assert dtypes(done.program, "bitcast") == {"i64"}


@pytest.mark.parametrize("compute", ["f32", "bf16"])
def test_rounding_to_a_code_of_eight_bits_stays(compute):
    """A model that quantises its activations means it: no policy takes that cast away."""
    d = Draft()
    x = d.emit("linear", d.x(BATCH, 4), d.weight("w", 4, 6))
    code = d.emit("cast", x, dtype=DTYPES["f8e4m3"])
    program = d.program(d.emit("linear", d.emit("cast", code, dtype=f32), d.weight("v", 6, 2)))
    after = run(precision, program, task(precision=Precision(weights=compute, compute=compute))).program
    assert "f8e4m3" in dtypes(after, "cast")
    same_numbers(program, after, tolerance=0.2)
