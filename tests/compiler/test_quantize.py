"""Weights of linears in groups of few bits: which, in what groups, held once where they are shared, and why not."""

from __future__ import annotations

import numpy as np
import pytest
from compiler_kit import BATCH, Draft, only, ops, run, task, texts

from tundish.compiler.capabilities import Blocks
from tundish.compiler.passes.quantize import quantize_weights
from tundish.compiler.task import Precision, Task
from tundish.ir.diagnostics import CompileError
from tundish.ir.dtypes import i64
from tundish.ir.evaluate import evaluate
from tundish.ir.graph import Node, Program
from tundish.ir.op import OPS

BITS = {"int8": 8, "int4": 4}


def asking(weights: str, **changes: object) -> Task:
    blocks = frozenset(Blocks(bits, group, "centred") for bits in (4, 8) for group in (32, 64, 128))
    return task(precision=Precision(blocks=weights), **{"blocks": blocks, **changes})


def quantized(program: Program, weights: str = "int4", **changes: object) -> tuple[Program, list[str]]:
    done = run(quantize_weights, program, asking(weights, **changes))
    return done.program, texts(done)


def dequantizers(program: Program) -> list[Node]:
    return [n for n in program.entry.nodes if n.op.name == "dequantize"]


def layer(inner: int, rows: object = BATCH) -> Program:
    d = Draft()
    return d.program(d.emit("linear", d.x(rows, inner), d.weight("w", inner, 6)))


@pytest.mark.parametrize(("inner", "group"), [(256, 128), (192, 64), (96, 32)])
@pytest.mark.parametrize("weights", list(BITS))
def test_the_first_group_that_divides_a_row_is_taken(weights: str, inner: int, group: int) -> None:
    after, said = quantized(layer(inner), weights)
    (node,) = dequantizers(after)
    assert (node.attrs["bits"], node.attrs["group"], node.attrs["scheme"]) == (BITS[weights], group, "centred")
    assert node.inputs[0].type.dtype.name == f"u{BITS[weights]}" and node.inputs[1].type.shape == (6, inner // group)
    assert only(said, f"a linear layer's weight in {weights}, groups of {group}")


@pytest.mark.parametrize("weights", list(BITS))
def test_no_number_is_further_off_than_half_a_step(weights: str) -> None:
    """x = 1 shows the weight: of each group, the largest error against its scale."""
    before = layer(64, rows=64)
    after, _ = quantized(before, weights)
    exact, got = (evaluate(p, {"x": np.eye(64, dtype=np.float32)})[p.entry.output_names[0]] for p in (before, after))
    scale = np.abs(exact).max(0) / ((1 << (BITS[weights] - 1)) - 1)
    assert 0 < np.abs(got - exact).max() and (np.abs(got - exact) <= 0.75 * scale).all()


def test_a_row_that_no_group_divides_keeps_its_numbers_and_says_so() -> None:
    before = layer(40)
    after, said = quantized(before)
    assert ops(after) == ops(before) and only(said, "declined: no group of 128, 64, 32 divides its 40 features")


def test_a_tied_head_and_its_embedding_are_one_array() -> None:
    d = Draft()
    table, ids = d.weight("table", 11, 64), d.x(BATCH, name="ids", dtype=i64)
    rows = d.emit("gather", table, ids, axis=0)
    before = d.program(d.emit("linear", rows, d.emit("transpose", table, perm=(1, 0))))
    after, _ = quantized(before)
    assert len(dequantizers(after)) == 1
    few = [name for name, w in after.weights.items() if w.type.dtype.name == "u4"]
    assert len(few) == 1
    gather = next(n for n in after.entry.nodes if n.op.name == "gather")
    assert gather.inputs[0] is dequantizers(after)[0].output


def test_a_router_keeps_its_numbers_and_says_so() -> None:
    d = Draft()
    scores = d.emit("softmax", d.emit("linear", d.x(BATCH, 64), d.weight("router", 64, 8)), axis=-1)
    values, _ = d.emit_node("topk", (scores,), {"k": 2, "axis": 1}).outputs
    after, said = quantized(d.program(values))
    assert not dequantizers(after) and only(said, "declined: it chooses experts")


def test_what_is_ranked_after_another_weight_is_no_router() -> None:
    d = Draft()
    hidden = d.emit("relu", d.emit("linear", d.x(BATCH, 64), d.weight("up", 64, 32)))
    scores = d.emit("linear", hidden, d.weight("router", 32, 8))
    values, _ = d.emit_node("topk", (scores,), {"k": 2, "axis": 1}).outputs
    after, _ = quantized(d.program(values))
    assert [n.inputs[0].type.shape for n in dequantizers(after)] == [(32, 64)]


def test_a_weight_that_comes_from_the_input_stays() -> None:
    d = Draft()
    before = d.program(d.emit("linear", d.x(BATCH, 64), d.input("w", d.weight("like", 64, 8).type)))
    assert ops(quantized(before)[0]) == ops(before)


def test_nothing_changes_where_nothing_is_asked() -> None:
    before = layer(64)
    assert run(quantize_weights, before).program is before


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (asking("int8", ops=frozenset(OPS) - {"quantized_matmul"}), "tester has no kernels for int8 weights"),
        (task(precision=Precision(compute="f16", blocks="int4"), blocks=frozenset()), "int4 weights in fp32 only"),
        (asking("stored"), "the model has no weights in blocks"),
    ],
    ids=["no kernels", "fp16", "nothing stored"],
)
def test_what_cannot_be_is_refused(asked: Task, said: str) -> None:
    with pytest.raises(CompileError, match=said):
        run(quantize_weights, layer(64), asked)
