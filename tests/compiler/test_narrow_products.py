"""Products round what they multiply where a backend asks for it, and nothing else is rounded."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from compiler_kit import BATCH, SEQ, Draft, arrays, ops, run, same_numbers, task

from tundish.compiler.passes.clean import clean
from tundish.compiler.passes.pack_panels import pack_panels
from tundish.compiler.passes.precision import check_precision, precision
from tundish.compiler.task import Precision, Task
from tundish.ir.diagnostics import CompileError
from tundish.ir.dtypes import bf16, f32, i64
from tundish.ir.evaluate import evaluate
from tundish.ir.graph import Program

BF16 = Precision(weights="bf16", compute="bf16")


def asked(precision: Precision = BF16, panel: int = 4, unable: Any = None, products: str = "bf16") -> Task:
    able = dataclasses.replace(task().capabilities, dtypes=frozenset({"f32"}), products=frozenset({products}),
                               panel=panel, unable=unable or {})  # fmt: skip
    return dataclasses.replace(task(), capabilities=able, precision=precision)


def tied(d: Draft) -> list[Any]:
    """ids -> embedding -> norm, in another shape and back -> linear, gelu -> linear -> the embedding's own head."""
    wte = d.weight("wte", 10, 6)
    x = d.emit("gather", wte, d.x(BATCH, SEQ, name="ids", dtype=i64), axis=0)
    y = d.emit("reshape", d.emit("rms_norm", x, d.weight("n", 6), eps=1e-5), shape=(BATCH, SEQ, 2, 3))
    y = d.emit("linear", d.emit("reshape", y, shape=(BATCH, SEQ, 6)), d.weight("up", 6, 8), d.weight("bias", 8))
    y = d.emit("add", x, d.emit("linear", d.emit("gelu", y), d.weight("down", 8, 6)))
    return [d.emit("linear", y, d.emit("transpose", wte, perm=(1, 0)))]


def narrowed(program: Program, given: Task | None = None) -> Program:
    given = given or asked()
    return run(pack_panels, run(clean, run(precision, program, given).program, given).program, given).program


def test_both_sides_of_a_product_are_rounded_and_its_sums_are_not() -> None:
    d = Draft()
    program = d.program(*tied(d))
    after = run(precision, program, asked()).program
    for node in after.entry.nodes:
        if node.op.name != "cast":
            assert all(v.type.dtype != bf16 for v in node.outputs) or node.op.name in ("gather", "reshape")
    same_numbers(program, after)
    given = arrays(program)
    got, want = (evaluate(p, given)["output_0"] for p in (after, program))
    assert 0 < np.abs(got - want).max() < 0.1 * np.abs(want).max()


def test_products_get_pairs_and_a_tied_embedding_has_one_copy() -> None:
    d = Draft()
    program = d.program(*tied(d))
    after = narrowed(program)
    panels = {n.inputs[1].type for n in after.entry.nodes if n.op.name == "panel_linear"}
    assert {str(t) for t in panels} == {"bf16[2, 3, 4, 2]", "bf16[2, 4, 4, 2]", "bf16[3, 3, 4, 2]"}
    assert ops(after).count("panel_gather") == 1 and "linear" not in ops(after) and "gather" not in ops(after)
    stored = [w for w in run(clean, after).program.weights.values() if w.type.rank > 1]
    assert len(stored) == 3 and all(w.type.dtype == bf16 for w in stored)
    given = arrays(program)
    wanted, got = (evaluate(p, given)["output_0"] for p in (run(precision, program, asked()).program, after))
    np.testing.assert_allclose(got, wanted, atol=1e-5, rtol=1e-5)


def test_a_rounding_stands_before_changes_of_shape() -> None:
    """Where it can be a part of the kernel that computes the numbers."""
    d = Draft()
    after = run(clean, run(precision, d.program(*tied(d)), asked()).program).program
    (norm,) = (n for n in after.entry.nodes if n.op.name == "rms_norm")
    assert [n.op.name for n in after.entry.nodes if norm.output in n.inputs] == ["cast"]


def test_routers_and_odd_features_and_products_of_activations_stay_wide() -> None:
    d = Draft()
    x = d.x(BATCH, 6)
    scores = d.emit("linear", x, d.weight("router", 6, 4))
    chosen = d.emit_node("topk", (d.emit("softmax", scores, axis=-1),), {"k": 2, "axis": -1}).outputs
    odd = d.emit("linear", d.x(BATCH, 5, name="o"), d.weight("odd", 5, 4))
    other = d.emit("linear", x, d.x(6, 4, name="w"))
    done = run(precision, d.program(chosen[0], odd, other), asked())
    assert all(v.type.dtype != bf16 for n in done.program.entry.nodes for v in n.outputs)
    told = {n.text for n in done.notes}
    assert {"a product stays in f32: it chooses experts", "a product stays in f32: its 5 features are no pairs",
            "a product stays in f32: it is none of activations with a weight"} <= told  # fmt: skip


def test_a_model_that_is_narrow_is_widened_but_for_its_products() -> None:
    d = Draft()
    x = d.emit("gelu", d.emit("linear", d.x(BATCH, 6, dtype=bf16), d.weight("w", 6, 8, dtype=bf16)))
    after = run(clean, run(precision, d.program(x), asked()).program).program
    assert {str(n.output.type.dtype) for n in after.entry.nodes if n.op.name in ("linear", "gelu")} == {"f32"}
    packed = narrowed(d.program(x))
    assert ops(packed).count("panel_linear") == 1
    assert packed.entry.outputs[0].type.dtype == bf16


@pytest.mark.parametrize(("given", "says"), [
    (asked(Precision(compute="f16", weights="f16"), unable={"f16": "no use"}), "does not compute in f16: no use"),
    (asked(BF16, products="f8e4m3"), "does not compute in bf16"),
    (asked(Precision(compute="bf16", weights="f32")), "multiplies in bf16 by weights in bf16"),
])  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(given: Task, says: str) -> None:
    with pytest.raises(CompileError, match=says) as error:
        check_precision(given.capabilities, given.precision)
    assert "\n" not in error.value.problem and "fp32" in error.value.hint or "leave" in error.value.hint


def test_fp32_is_as_ever() -> None:
    d = Draft()
    program = d.program(*tied(d))
    assert run(precision, program, asked(Precision())).program is program
    assert f32.name in asked().capabilities.dtypes
