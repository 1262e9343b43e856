"""Every op that kernels for GPUs are written for, on the examples of every op, by simulation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tundish.backends.base import Runner
from tundish.compiler.hardware.machine import this_machine
from tundish.ir.diagnostics import RunError
from tundish.ir.evaluate import evaluate
from tundish.ir.graph import Program

from ....ir.ops.cases import CASES, STRUCTURE
from ....ir.ops.cases import Case as Example
from ..kit import Case, check, one, opened, program_of
from ..test_ops import NARROW, TOLERANCE, odd_cases, of, unsigned_cases, whole_cases
from .device import Simulating
from .simulate import MIXED, needs_compiler

pytestmark = [needs_compiler, pytest.mark.slow]
BACKEND = Simulating(order=MIXED)
OTHERS = {"attention", "cached_attention", "cache_write", "rotary", "dequantize"}  # have tests of their own


def taken(example: Example) -> bool:
    able = BACKEND.capabilities(this_machine(BACKEND.target))
    types = [t for t in example.types if t is not None]
    here = example.name in {*able.ops, *able.decomposed} - OTHERS - STRUCTURE
    return here and not any(t.dtype.name in NARROW for t in types)


GRID = [(f"c{i}", e) for i, e in enumerate(CASES) if taken(e)]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Program, dict[str, Case], Runner]]:
    cases = {name: of(e) for name, e in GRID}
    runner = opened(cases, tmp_path_factory.mktemp("ops"), backend=BACKEND, target=BACKEND.target)
    yield program_of(cases), cases, runner
    runner.close()


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


@pytest.mark.parametrize("cases", [odd_cases, whole_cases, unsigned_cases])
def test_numbers_that_are_odd(tmp_path: Path, cases: Callable[[], dict[str, Case]]) -> None:
    with np.errstate(all="ignore"):
        check(cases(), tmp_path, backend=BACKEND, target=BACKEND.target)


@pytest.mark.parametrize("bad", [-1, 5])
def test_an_index_outside_is_an_error(tmp_path: Path, bad: int) -> None:
    right = one("gather", np.ones((5, 40), np.float32), np.array([0, 4], np.int64), axis=0)
    runner = opened({"rows": right}, tmp_path, backend=BACKEND, target=BACKEND.target)
    for _ in range(3):  # the third run is of what was recorded
        runner.run("rows", right.inputs)
    with pytest.raises(RunError, match="outside"):
        runner.run("rows", {**right.inputs, "i1": np.array([0, bad])})
    np.testing.assert_array_equal(runner.run("rows", right.inputs)["output_0"], 1.0)
