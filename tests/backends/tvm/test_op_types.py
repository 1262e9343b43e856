"""The table of ops by element type, which ONNX Runtime is held to as well, on the TVM backend: one library of them all.

What the backend computes in is f32; the ops that move, compare and reduce take 16 bits too, by way of f32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tundish.backends import registry
from tundish.backends.base import Runner
from tundish.backends.bundle_write import build_files
from tundish.compiler.hardware.machine import this_machine
from tundish.compiler.plan import Guard, Plan, Variant
from tundish.ir.dims import Range
from tundish.ir.evaluate import Evaluator
from tundish.ir.graph import Program

from ...parity.test_ops import GRID, SIZES, Case, check, made
from .test_ops import OTHERS

ABLE = registry.get("tvm").capabilities(this_machine())
TAKEN = [(f"e{i}", c, t) for i, (c, t) in enumerate(GRID) if c.op in {*ABLE.ops, *ABLE.decomposed} - OTHERS]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, tuple[Program, Any]], Runner]]:
    cases = {name: made(case, dtype) for name, case, dtype in TAKEN}
    functions = {name: program.functions["main"] for name, (program, _) in cases.items()}
    together = Program(functions, tuple(functions), {}, {s: Range(1, 64) for s in SIZES})
    plan = Plan(together, {n: (Variant(Guard(), n),) for n in functions}, "tvm", "cpu")
    engine = registry.get("tvm")
    runner = engine.open(build_files(plan, engine, tmp_path_factory.mktemp("types")), threads=2)
    yield cases, runner
    runner.close()


@pytest.mark.parametrize(("name", "case", "dtype"), TAKEN, ids=[f"{n}-{c.op}-{t}" for n, c, t in TAKEN])
def test_an_op_means_the_same(library, name: str, case: Case, dtype: str) -> None:
    (program, inputs), runner = library[0][name], library[1]
    with np.errstate(all="ignore"):
        check(runner.run(name, inputs), Evaluator(program).run(inputs))
