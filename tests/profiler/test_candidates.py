"""A candidate is the same whoever builds it: this process, others, a machine that is sent the program's bytes, Ray."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from compiler_kit import BATCH, SEQ, Draft

from tundish.backends.cases import Case, Cases, read_cases, write_cases
from tundish.ir.diagnostics import TundishError
from tundish.ir.evaluate import evaluate
from tundish.ir.graph import Program
from tundish.ir.save import save
from tundish.profiler.candidates import (
    Here,
    Job,
    Outcome,
    OverRay,
    Processes,
    attempt,
    builders,
    check_workers,
    packed,
    there,
)

APART = ("fuse", "linear + gelu", "8x16", "f32", "apart")
HAS_RAY = importlib.util.find_spec("ray") is not None


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A small program and what it answers."""
    folder = tmp_path_factory.mktemp("candidates")
    d = Draft()
    y = d.emit("linear", d.x(BATCH, SEQ, 8), d.weight("w", 8, 16), d.weight("b", 16))
    program: Program = d.program(d.emit("gelu", y, approximate="none"))
    save(program, folder / "program")
    (folder / "program" / "here").touch()
    inputs = {"x": np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32)}
    (folder / "cases").mkdir()
    write_cases(folder / "cases", Cases("numpy", (Case("one", "main", inputs, evaluate(program, inputs)),)))
    return Job(str(folder / "program"), "", str(folder / "cases"), "onnxruntime", "cpu", "f32", "abc", token="here")


def built(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in packed(folder).items()}


def jobs(job: Job, folder: Path) -> list[Job]:
    """The default and one with a fusion left apart."""
    return [replace(job, out=str(folder / "default")), replace(job, out=str(folder / "apart"), options=(APART,))]


@pytest.fixture(scope="module")
def here(job: Job, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("here")
    asked = jobs(job, folder)
    assert Here().build_all(asked) == [Outcome()] * 2
    return [built(Path(j.out)) for j in asked]


def test_an_option_changes_what_is_built(here):
    assert here[0]["onnxruntime/main.onnx"] != here[1]["onnxruntime/main.onnx"]
    assert b"BiasGelu" in here[0]["onnxruntime/main.onnx"] and b"BiasGelu" not in here[1]["onnxruntime/main.onnx"]


def test_other_processes_build_the_same_bytes(job, here, tmp_path):
    asked = jobs(job, tmp_path)
    assert Processes(2).build_all(asked) == [Outcome()] * 2
    assert [built(Path(j.out)) for j in asked] == here


def test_a_machine_without_the_folder_is_sent_the_bytes(job, here, tmp_path):
    away = replace(job, program="/not/there", cases="/not/there/either", out=str(tmp_path / "out"))
    assert there(away) is None
    answer = there(away, packed(Path(job.program)), packed(Path(job.cases)))
    assert answer is not None and answer[0] == Outcome() and answer[1] == here[0]
    assert not (tmp_path / "out").exists()


def test_a_candidate_that_answers_otherwise(job, tmp_path):
    known = read_cases(Path(job.cases))
    (case,) = known.cases
    (tmp_path / "cases").mkdir()
    (name,) = case.outputs
    write_cases(tmp_path / "cases", Cases("numpy", (replace(case, outputs={name: case.outputs[name] + 1e-3}),)))
    outcome = attempt(replace(job, cases=str(tmp_path / "cases"), out=str(tmp_path / "out")))
    assert outcome.wrong and "it differs from the default" in outcome.problem and name in outcome.problem


@pytest.mark.parametrize("builder", [Here(), Processes(1)], ids=["here", "process"])
def test_what_cannot_be_built_says_why(job, builder, tmp_path):
    (outcome,) = builder.build_all([replace(job, program=str(tmp_path / "none"), out=str(tmp_path / "out"))])
    assert "cannot read" in outcome.problem and not outcome.wrong


@pytest.mark.parametrize("text", ["", "-1", "two", "1.5", "9999", "ray://", "ray://host", "raye", "http://host:1"])
def test_workers_that_are_none(text):
    with pytest.raises(TundishError, match="--workers takes"):
        check_workers(text)


def test_workers_by_their_words():
    assert isinstance(builders(0), Here) and builders("3").width == 3
    check_workers("ray")
    check_workers("ray://10.0.0.1:10001")


@pytest.mark.slow
@pytest.mark.skipif(not HAS_RAY, reason="needs Ray: pip install 'tundish[ray]'")
def test_ray_builds_the_same_bytes(job, here, tmp_path, monkeypatch):
    """Both ways: with the program's folder at hand, and sent as to another machine."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    over = OverRay(None)
    try:
        asked = jobs(job, tmp_path)
        assert over.width >= 1 and over.build_all(asked) == [Outcome()] * 2
        assert [built(Path(j.out)) for j in asked] == here
        sent = [replace(j, token="elsewhere", out=f"{j.out}-sent") for j in asked]
        assert over.build_all(sent) == [Outcome()] * 2
        assert [built(Path(j.out)) for j in sent] == here
    finally:
        over.close()


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed")
def test_without_ray_it_says_what_to_install():
    with pytest.raises(TundishError, match="Ray is not installed"):
        builders("ray")
