"""On a real GPU: whole models compiled for it answer as the originals did, and go on with a text as on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tundish
from tundish.backends.base import Runner
from tundish.backends.registry import get
from tundish.compiler.hardware.gpus import GPUS
from tundish.ir.diagnostics import LoadError
from tundish.ir.evaluate import evaluate

from ..kit import opened, program_of
from ..test_attention import CASES
from ..test_cached_attention import KINDS, NAMES, steps, turn


def _target() -> tuple[str, str]:
    """The target of this machine's GPU, and why there is none."""
    from tundish.backends.tvm.cuda.driver import driver

    try:
        compute = driver().compute
    except LoadError as error:
        return "", error.problem
    names = [name for name, gpu in GPUS.items() if gpu.runs_on(compute)]
    return (f"cuda-{names[-1]}", "") if names else ("", f"no code is made for compute capability {compute}")


TARGET, WHY = _target()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not TARGET, reason=WHY or "there is a GPU")]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["bert-tiny", "llama-tiny", "minilm-random", "bert-base", "smollm2-random"])
def test_a_named_model_verifies(name: str, precision: str, tmp_path: Path) -> None:
    bundle = tundish.compile(name, tmp_path / "b", backend="tvm", target=TARGET, precision=precision)
    assert tundish.verify(bundle).passed


@pytest.mark.parametrize("name", ["llama-tiny", "smollm2-random"])
def test_a_text_goes_on_as_on_the_cpu(name: str, tmp_path: Path) -> None:
    ours = tundish.compile(name, tmp_path / "gpu", backend="tvm", target=TARGET)
    wanted = tundish.compile(name, tmp_path / "cpu", backend="tvm")
    prompts = [[3, 1, 4, 1, 5], [9, 2, 6]]
    given = {"max_new_tokens": 8}
    assert [g.tokens for g in ours.generate(prompts, **given)] == [g.tokens for g in wanted.generate(prompts, **given)]


def library(cases: Any, folder: Path) -> Runner:
    return opened(cases, folder, backend=get("tvm"), target=TARGET)


def test_attention(tmp_path: Path) -> None:
    program, runner = program_of(CASES), library(CASES, tmp_path)
    for name, case in CASES.items():
        for inputs in (case.inputs, *case.others):
            (want,), (got,) = evaluate(program, inputs, name).values(), runner.run(name, inputs).values()
            np.testing.assert_allclose(got, want, atol=4e-6, rtol=4e-6, err_msg=name)


def test_caches(tmp_path: Path) -> None:
    program, runner = program_of(KINDS), library(KINDS, tmp_path)
    for kind in KINDS:
        outputs = program.functions[kind].output_names
        for b, s, position in steps(kind):
            given = turn(kind, b, s, position)
            want = evaluate(program, given, kind)
            held = {n: runner.zeros(given[n].shape, given[n].dtype) for n in NAMES}  # type: ignore[attr-defined]
            for name in NAMES:
                held[name][...] = given[name]
            got = runner.bind(kind, held).run(given)
            np.testing.assert_allclose(got[outputs[0]], want[outputs[0]], atol=4e-6, rtol=4e-6, err_msg=kind)
            for name, at in NAMES.items():
                np.testing.assert_array_equal(held[name], want[outputs[at]])
