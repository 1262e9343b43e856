"""Every op that the TVM backend takes, on the examples of every op, at sizes below and above a vector's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tundish.backends.base import Runner
from tundish.backends.registry import get
from tundish.compiler.hardware.machine import this_machine
from tundish.ir.build import Builder
from tundish.ir.diagnostics import RunError, Where
from tundish.ir.dims import symbol
from tundish.ir.dtypes import DTYPES, f32
from tundish.ir.evaluate import evaluate
from tundish.ir.graph import Program, Value
from tundish.ir.op import OPS
from tundish.ir.tensor import TensorType

from ...ir.ops.cases import CASES, STRUCTURE
from ...ir.ops.cases import Case as Example
from .kit import Case, case, check, one, opened, program_of

SMALL, LARGE = {"b": 2, "s": 3, "t": 5, "n": 4}, {"b": 3, "s": 19, "t": 37, "n": 18}
TOLERANCE = 2e-6  # of the largest number, or of 1
OTHERS = {  # have tests of their own
    "attention", "cached_attention", "cache_write", "rotary", "quad_linear", "quad_gather", "quantized_matmul",
    "quantized_gather", "dequantize", "quantized_moe", "quad_moe",
}  # fmt: skip
NARROW = {"i4", "u4"}  # of quantised weights


def taken(example: Example) -> bool:
    able = get("tvm").capabilities(this_machine())
    types = [t for t in example.types if t is not None]
    here = example.name in {*able.ops, *able.decomposed} - OTHERS - STRUCTURE
    return here and not any(t.dtype.name in NARROW for t in types)


def of(example: Example) -> Case:
    """The example's op alone, at two sets of sizes."""
    b = Builder(Where("case.py", 1))
    values = [None if t is None else b.input(f"i{i}", t) for i, t in enumerate(example.types)]
    for size in SMALL:  # every symbol stands in some input
        b.input(f"size_{size}", TensorType(f32, (symbol(size),)))
    graph = b.finish(b.emit_node(example.name, values, example.attrs).outputs)
    given = []
    for sizes in (SMALL, LARGE):
        given.append({f"i{i}": a for i, a in enumerate(example.arrays(sizes)) if a is not None})
        given[-1] |= {f"size_{n}": np.zeros(size, np.float32) for n, size in sizes.items()}
    fixed = example.name == "slice" and str(example.types[0]).startswith("f32[9")  # its bound is a number
    return Case(graph, given[0], () if fixed else (given[1],))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Program, dict[str, Case], Runner]]:
    cases = {f"c{i}": of(e) for i, e in enumerate(CASES) if taken(e)}
    runner = opened(cases, tmp_path_factory.mktemp("ops"), threads=2)
    yield program_of(cases), cases, runner
    runner.close()


GRID = [(f"c{i}", e) for i, e in enumerate(CASES) if taken(e)]


@pytest.mark.parametrize(("name", "example"), GRID, ids=[f"{n}-{e.name}" for n, e in GRID])
def test_an_op_means_the_same(library, name: str, example: Example) -> None:
    program, cases, runner = library
    for inputs in (cases[name].inputs, *cases[name].others):
        wanted, got = evaluate(program, inputs, name), runner.run(name, inputs)
        for output, array in wanted.items():
            have = got[output]
            assert (have.dtype, have.shape) == (array.dtype, array.shape)
            if array.dtype.kind in "iub":
                np.testing.assert_array_equal(have, array)
                continue
            whole = array.astype(np.float64)
            limit = TOLERANCE * max(1.0, float(np.abs(whole[np.isfinite(whole)]).max(initial=0)))
            np.testing.assert_allclose(have.astype(np.float64), whole, rtol=0, atol=limit, err_msg=str(example))


def test_every_op_is_taken_or_declined_with_a_reason() -> None:
    able = get("tvm").capabilities(this_machine())
    assert {*able.ops, *able.decomposed, *able.declined} == set(OPS)
    assert not {*able.ops, *able.decomposed} & set(able.declined)
    assert all(reason and reason != "no kernel is written for it yet" for reason in able.declined.values())


def odd() -> np.ndarray:
    """Numbers that compares, bounds and exponentials must not lose."""
    few = [np.nan, np.inf, -np.inf, 0.0, -0.0, 88.5, 89.5, -87.0, -110.0, 1e-38, 3e38]
    return np.array(few * 2, np.float32)  # more than a vector, and a rest


def best(b: Builder, x: Value) -> tuple[Value, ...]:
    return b.emit_node("topk", [x], {"k": 4}).outputs


def odd_cases() -> dict[str, Case]:
    x = odd()
    one_input = ("exp", "relu", "isnan", "neg", "abs", "sigmoid", "tanh", "sqrt", "log", "floor")
    cases = {n: one(n, x) for n in one_input}
    two_inputs = ("maximum", "minimum", "eq", "ne", "lt", "le", "gt", "ge", "add")
    cases |= {n: one(n, x, x[::-1].copy()) for n in two_inputs}
    rows = np.stack([np.roll(x, i) for i in range(len(x))])
    cases |= {n: one(n, rows, axes=(a,)) for n, a in (("max", 1), ("min", 0))}
    cases |= {"argmax": one("argmax", rows, axis=1), "topk": case(best, {"x": rows[:, :9].copy()})}
    return cases | {"cast": one("cast", x, dtype=DTYPES["bool"])}


@pytest.mark.parametrize("passes", [False, True])
def test_what_is_not_a_number_stays_so(tmp_path: Path, passes: bool) -> None:
    with np.errstate(all="ignore"):
        check(odd_cases(), tmp_path, passes=passes)


def whole_cases() -> dict[str, Case]:
    low = np.iinfo(np.int64).min
    a = np.array([low, low, 7, -7, 7, -7, 0, low + 1], np.int64)
    b = np.array([-1, 1, -2, 2, 3, -3, -1, -1], np.int64)
    cases = {n: one(n, a, b) for n in ("mod", "bit_and", "maximum")} | {"div": one("div", a[2:], b[2:])}
    cases["pow"] = one("pow", np.array([3, -3, 2, -1, 1, 0, -1]), np.array([39, 39, 62, 10**6 + 1, -5, 5, -3]))
    return cases


def test_whole_numbers_do_not_stop_the_machine(tmp_path: Path) -> None:
    check(whole_cases(), tmp_path)


def unsigned_cases() -> dict[str, Case]:
    cases = {}
    for dtype in (np.uint8, np.uint16, np.uint32, np.uint64):
        a, b = np.arange(1, 19).astype(dtype)[::-1].copy(), np.array([1, 2, 3] * 6).astype(dtype)
        a[0] = np.iinfo(dtype).max
        two_inputs = ("add", "sub", "mul", "div", "mod", "maximum", "lt", "bit_xor")
        cases |= {f"{n}_{a.dtype}": one(n, a, b) for n in two_inputs}
        cases[f"pow_{a.dtype}"] = one("pow", b, b)
        cases[f"cast_{a.dtype}"] = one("cast", a[1:], dtype=f32)
    return cases


def test_numbers_without_a_sign(tmp_path: Path) -> None:
    check(unsigned_cases(), tmp_path)


def test_a_power_of_a_known_number_without_a_sign(tmp_path: Path) -> None:
    """As a shift by bits is written."""

    def shift(b: Builder, x: Value, n: Value) -> Value:
        power = b.emit("pow", b.constant(2, DTYPES["u8"]), b.emit("mod", n, b.constant(8, DTYPES["u8"])))
        return b.emit("div", x, power)

    arrays = {"x": np.arange(200, 218, dtype=np.uint8), "n": np.arange(18, dtype=np.uint8)}
    check({"shift": case(shift, arrays)}, tmp_path)


def test_a_division_by_zero_is_zero(tmp_path: Path) -> None:
    zeros = one("div", np.arange(-9, 9), np.zeros(18, np.int64))
    assert not opened({"zeros": zeros}, tmp_path).run("zeros", zeros.inputs)["output_0"].any()


@pytest.mark.parametrize("bad", [-1, 5])
def test_an_index_outside_is_an_error(tmp_path: Path, bad: int) -> None:
    table, ids = np.ones((5, 40), np.float32), np.array([0, 4], np.int64)
    cases = {"rows": one("gather", table, ids, axis=0), "ones": one("gather", table[:, 0].copy(), ids, axis=0)}
    cases |= {"each": one("gather_elements", table, np.zeros((2, 40), np.int32), axis=0)}
    runner = opened(cases, tmp_path)
    for name, right in cases.items():
        wrong = right.inputs["i1"].copy()
        wrong.reshape(-1)[-1] = bad
        with pytest.raises(RunError, match="outside"):
            runner.run(name, {**right.inputs, "i1": wrong})
        with pytest.raises(RunError, match="outside"):
            runner.profile(name, {**right.inputs, "i1": wrong}, warmup=0, repeats=1)
        runner.run(name, right.inputs)


def test_empty_arrays(tmp_path: Path) -> None:
    none, row = np.zeros((0, 5), np.float32), np.ones((1, 5), np.float32)
    shapes = [("n", None)]
    cases = {
        "add": one("add", none, row, shapes=shapes), "sum": one("sum", none, axes=(0,), shapes=shapes),
        "join": one("concat", none, row, axis=0, shapes=shapes), "any": one("any", none > 0, axes=(0,), shapes=shapes),
        "product": one("matmul", none, np.ones((5, 3), np.float32), shapes=shapes),
        "soft": one("softmax", none, shapes=shapes),
    }  # fmt: skip
    check(cases, tmp_path, threads=2)
