"""Models of every family through the whole way to the TVM backend, held against what eager torch answered."""

from __future__ import annotations

from pathlib import Path

import pytest

import tundish
from tundish.backends import registry
from tundish.backends.bundle_write import build_files
from tundish.compiler.driver import compile_program
from tundish.compiler.hardware.machine import this_machine
from tundish.compiler.task import Task
from tundish.ir.build import Builder
from tundish.ir.diagnostics import CompileError, Where
from tundish.ir.dims import Range
from tundish.ir.dtypes import f32
from tundish.ir.evaluate import Evaluator
from tundish.ir.graph import Program
from tundish.ir.tensor import TensorType
from tundish.models.open import open_model
from tundish.models.zoo import ZOO
from tundish.originals import captured

from ...parity import test_decoders, test_encoders, test_vision
from ...parity.kit import assert_equals_eager

slow = pytest.mark.slow
TINY = [name for name in ZOO if name.endswith("-tiny")]
QUICK = ("bert-tiny", "gpt2-tiny", "vit-tiny", "palm-tiny", "transformer-tiny")
IMAGES = {**test_vision.FAMILIES, **test_vision.MORE}
QUICK_IMAGES = ("ConvNextV2ForImageClassification",)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else slow) for n in TINY])
def test_a_named_model_verifies(name: str, tmp_path: Path) -> None:
    report = tundish.verify(tundish.compile(name, tmp_path / "b.tundish", backend="tvm"))
    assert report.passed and report.cases >= 4 and report.origin.startswith("torch")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK_IMAGES else slow) for n in IMAGES])
def test_a_family_of_image_models_means_the_same(name: str, tmp_path: Path) -> None:
    """Held against the evaluator: with weights this large, eager torch is further from it than the bound."""
    engine, machine, source = registry.get("tvm"), this_machine(), test_vision.source(name)
    program = captured(source, {"batch": Range(1, 8)})
    plan = compile_program(program, Task(machine, engine.capabilities(machine), ranges=program.symbols))
    runner = engine.open(build_files(plan, engine, tmp_path), threads=2)
    for batch in (1, 2, 5):
        given = test_vision.pixels(source, batch)
        test_vision.assert_close(runner.run("forward", given), Evaluator(program).run(given))
    runner.close()


@slow
@pytest.mark.parametrize("what", test_decoders.OTHERS)
def test_decoders_without_a_line_of_their_own_equal_eager(what: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, sizes = test_decoders.OTHERS[what]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)).save_pretrained(tmp_path / "model")
    bundle = tundish.compile(tmp_path / "model", tmp_path / "b.tundish", batch="1..4", seq="1..64", backend="tvm")
    assert_equals_eager(bundle, open_model(tmp_path / "model"))
    assert tundish.verify(bundle).passed


@slow
@pytest.mark.parametrize("family", test_encoders.OTHERS)
def test_encoders_without_a_line_of_their_own_equal_eager(family: str, tmp_path: Path) -> None:
    task, config = test_encoders.OTHERS[family]
    test_encoders._saved(family, task, config, tmp_path / "model")
    bundle = tundish.compile(tmp_path / "model", tmp_path / "b", task=task, seq=Range(1, 64), backend="tvm")
    assert_equals_eager(bundle, open_model(str(tmp_path / "model"), task))


def test_what_is_not_taken_is_named_with_its_reason() -> None:
    b = Builder(Where("model.py", 3))
    x = b.input("x", TensorType(f32, (2, 4)))
    graph = b.finish([b.emit("all_reduce", x, axis="tensor", size=1)])
    program, machine = Program({"main": graph}, ("main",), {}, {}), this_machine()
    with pytest.raises(CompileError, match="tvm takes no all_reduce") as error:
        compile_program(program, Task(machine, registry.get("tvm").capabilities(machine)))
    assert "runs on one" in str(error.value)
