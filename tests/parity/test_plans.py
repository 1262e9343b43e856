"""The plan of each tiny zoo model, as text: a refactoring shows here as a difference, or as none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tundish.api import capture
from tundish.backends.plan_text import plan_text
from tundish.backends.registry import get
from tundish.compiler.driver import compile_program
from tundish.compiler.hardware.machine import Machine
from tundish.compiler.task import Task

FOLDER = Path(__file__).resolve().parent.parent / "golden" / "plans"
MACHINE = Machine("cpu", "x86_64", "a machine of the tests", 2, frozenset(), 8 << 30)


@pytest.mark.parametrize("name", ["bert-tiny", "gpt2-tiny", "llama-tiny"])
def test_plan(name: str, update_golden: bool) -> None:
    program = capture(name)
    plan = compile_program(
        program, Task(MACHINE, get("onnxruntime").capabilities(MACHINE), ranges=program.symbols), verify_each=True
    )
    got, path = plan_text(plan), FOLDER / f"{name}.txt"
    if update_golden:
        path.parent.mkdir(exist_ok=True)
        path.write_text(got, encoding="utf-8")
    else:
        assert got == path.read_text(encoding="utf-8"), f"read what --update-golden changes in {path.name}"
