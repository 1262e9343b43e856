"""`--backend auto` takes a bundle that answers rightly, the faster one, and says why."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from cli_kit import Command, command, made, refused  # noqa: F401

import tundish
from tundish.backends.tvm.runner import TvmRunner
from tundish.choosing import fastest
from tundish.ir.build import Builder
from tundish.ir.dims import Range, symbol
from tundish.ir.dtypes import f32
from tundish.ir.graph import Program
from tundish.ir.tensor import TensorType
from tundish.profiler import duel

CANDIDATES = ("tvm", "onnxruntime")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(duel, "Ring", partial(duel.Ring, most=1, patience_s=0.0, slot_s=0.02))


def test_the_faster_of_both_is_taken_and_the_times_are_said(command: Command, made: Path):
    told = command("compile", made / "bert.tir", "-o", "x", "--backend", "auto", "--json")
    assert told.code == 0
    row = told.json
    (why,) = [n for n in row["notes"] if "was taken" in n]  # type: ignore[index]
    assert row["backend"] in CANDIDATES and why.startswith(f"{row['backend']} was taken, measured here (")  # type: ignore[index]
    assert all(f"{name} " in why for name in CANDIDATES) and why.count(" ms") == 2
    assert tundish.load("x").entries and sorted(p.name for p in Path().iterdir()) == ["x"]
    assert "was taken" in command("compile", made / "bert.tir", "-o", "x", "--backend", "auto").out


def test_one_that_answers_otherwise_is_not_taken(monkeypatch: pytest.MonkeyPatch):
    """A backend of wrong answers is out before anything is timed, and its reason is told."""
    right = TvmRunner.run
    monkeypatch.setattr(TvmRunner, "run", lambda *a, **k: {n: x + 1 for n, x in right(*a, **k).items()})
    bundle = tundish.compile("bert-tiny", backend="auto", batch="1..2", seq="1..8")
    assert bundle.plan_backend == "onnxruntime"
    assert any(n.startswith("not tried: tvm: the bundle differs from torch") for n in bundle.manifest.info["notes"])


@pytest.mark.slow
def test_what_was_held_against_the_original_is_not_held_against_the_other(monkeypatch: pytest.MonkeyPatch):
    """Each may be off the original its own way, and so further from the other than from that."""
    monkeypatch.setattr(duel, "difference", lambda *_: SimpleNamespace(problem="they differ"))
    bundle = tundish.compile("bert-tiny", backend="auto", batch="1..2", seq="1..8")
    (why,) = [n for n in bundle.manifest.info["notes"] if "was taken" in n]
    assert why.count(" ms") == 2 and "they differ" not in why
    program = tundish.capture("bert-tiny", batch="1..2", seq="1..8")
    assert any("they differ" in n for n in tundish.compile(program, backend="auto").manifest.info["notes"])


def test_one_alone_is_taken():
    b = Builder()
    x = b.input("x", TensorType(f32, (symbol("seq"), 4)))
    program = Program({"forward": b.finish([b.emit("neg", x)], ["y"])}, ("forward",), {}, {"seq": Range(1, 8)})
    bundle = tundish.compile(program, backend="onnxruntime")
    name, why = fastest({"onnxruntime": bundle})
    assert name == "onnxruntime" and "nothing else here builds this model" in why


def test_where_nothing_can_the_first_reason_is_told(command: Command, made: Path):
    refused(command("compile", made / "bert.tir", "-o", "x", "--backend", "auto", "--target", "moon"), "moon")
