"""Caches on a GPU, and attention over what they hold, by simulation: the kinds of the kernels for CPUs."""

from __future__ import annotations

import numpy as np
import pytest

from tundish.backends.base import Runner
from tundish.ir.evaluate import evaluate
from tundish.ir.graph import Program

from ..kit import opened, program_of
from ..test_cached_attention import KINDS, NAMES, steps, turn
from .device import Simulating
from .simulate import MIXED, needs_compiler

pytestmark = [needs_compiler, pytest.mark.slow]


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, Runner]:
    backend = Simulating(order=MIXED)
    runner = opened(KINDS, tmp_path_factory.mktemp("tvm"), backend=backend, target=backend.target)
    return program_of(KINDS), runner


@pytest.mark.parametrize("kind", KINDS)
def test_it_says_what_numpy_says_and_writes_nothing_else(ready: tuple[Program, Runner], kind: str) -> None:
    program, runner = ready
    outputs = program.functions[kind].output_names
    for b, s, position in steps(kind):
        given = turn(kind, b, s, position)
        want = evaluate(program, given, kind)
        on_host = {n: given[n].copy() for n in NAMES}
        on_device = {n: runner.zeros(given[n].shape, given[n].dtype) for n in NAMES}  # type: ignore[attr-defined]
        for held in (on_host, on_device):
            for name in NAMES:
                held[name][...] = given[name]
            got = runner.bind(kind, held).run(given)
            np.testing.assert_allclose(got[outputs[0]], want[outputs[0]], atol=4e-6, rtol=4e-6)
            for name, at in NAMES.items():
                np.testing.assert_array_equal(held[name], want[outputs[at]])
