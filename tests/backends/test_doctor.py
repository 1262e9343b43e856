"""What a machine has and lacks is told in rows, and what cannot be compiled is refused before any work."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cli_kit import Command, command, made, refused  # noqa: F401

from tundish.backends.doctor import op_rows, part_rows, target_rows
from tundish.backends.tvm import linker
from tundish.compiler.hardware.baselines import NAMED
from tundish.compiler.hardware.machine import this_machine

NEEDS = "pip install 'tundish[compile]'"


@pytest.fixture
def without_tvm(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the base install: its run-time is there, its compiler is not."""
    monkeypatch.setitem(sys.modules, "tvm", None)


@pytest.fixture
def without_linker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def row(rows: list[dict], **words: object) -> dict:
    (found,) = [r for r in rows if all(r[k] == v for k, v in words.items())]
    return found


def test_here_all_can_be_compiled():
    assert row(target_rows(), target="cpu", backend="tvm")["usable"]
    assert {r["target"] for r in target_rows() if r["backend"] == "tvm"} >= {"cpu", *NAMED}
    assert row(op_rows(), op="linear")["tvm"] == "decomposed" or row(op_rows(), op="linear")["tvm"] == "lowered"
    assert "compiles none" not in row(part_rows(), part="backend tvm")["about"]


def test_without_tvm(without_tvm: None):
    assert {r["tvm"] for r in op_rows()} == {f"needs {NEEDS}"}
    part = row(part_rows(), part="backend tvm")
    assert part["usable"] and "runs bundles, compiles none" in part["about"] and NEEDS in part["about"]
    found = row(target_rows(), target="cpu", backend="tvm")
    assert not found["usable"] and NEEDS in found["about"]


def test_without_a_linker(without_linker: None):
    assert "no linker" in row(target_rows(), target="cpu", backend="tvm")["about"]
    assert row(op_rows(), op="add")["tvm"] == "lowered"
    assert not row(part_rows(), part="linker")["usable"]
    assert linker.linker(this_machine().arch) is None


def test_verbs_without_tvm(without_tvm: None, command: Command, made: Path):
    for verb in ("ops", "targets", "doctor"):
        assert NEEDS in command(verb).out.replace("\n", " ") or NEEDS in str(command(verb, "--json").json)
        assert command(verb, "--json").code == 0
    told = command("compile", made / "bert.tir", "-o", "x", "--backend", "tvm")
    refused(told, "the TVM backend needs TVM to compile", NEEDS)
    assert "optimising" not in told.err
    refused(command("compile", made / "bert.tir", "-o", "x", "--backend", "tvm", "--target", "cpu-neoverse"), NEEDS)
    told = command("compile", made / "bert.tir", "-o", "x", "--backend", "auto", "--json")
    assert told.code == 0 and told.json["backend"] == "onnxruntime"  # type: ignore[index]
    assert "not tried: tvm: the TVM backend needs TVM to compile" in told.json["notes"]  # type: ignore[index]


def test_compiling_without_a_linker(without_linker: None, command: Command, made: Path):
    told = command("compile", made / "bert.tir", "-o", "x", "--backend", "tvm")
    refused(told, "there is no linker", "install gcc, clang or binutils")
    assert "optimising" not in told.err
