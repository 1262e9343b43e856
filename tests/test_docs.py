"""What the documents claim: every block of the README runs, every docstring's example holds."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import tundish

ROOT = Path(tundish.__file__).resolve().parent
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.S | re.M)
BLOCKS = BLOCK.findall((ROOT / "README.md").read_text())


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def test_python_blocks_print_what_they_say(tmp_path: Path) -> None:
    pairs = [(code, after) for (kind, code), (other, after) in zip(BLOCKS, BLOCKS[1:], strict=False)
             if (kind, other) == ("python", "text")]  # fmt: skip
    assert pairs
    for code, said in pairs:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=_environment()
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout == said


COMMANDS = [line for kind, code in BLOCKS if kind == "sh" for line in code.splitlines() if line.startswith("tundish ")]


def test_commands_run(tmp_path: Path) -> None:
    assert len(COMMANDS) >= 10
    for line in COMMANDS:
        done = subprocess.run(
            [sys.executable, "-m", *shlex.split(line)], cwd=tmp_path, capture_output=True, text=True, env=_environment()
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert done.stdout.strip(), f"{line} printed nothing"


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for kind, code in BLOCKS:
        for target in re.findall(r"^make (\w+)", code, re.M) if kind == "sh" else []:
            assert re.search(rf"^{target}:", makefile, re.M), target


def _modules() -> list[str]:
    skip = (".venv", "build", "tests")
    found = [m.name for m in pkgutil.walk_packages([str(ROOT)], "tundish.")]
    found = [n for n in found if not n.split(".")[1].startswith(skip)]
    return [n for n in found if "__main__" not in n]


@pytest.mark.parametrize("name", _modules())
def test_docstring_examples_hold(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_links_of_the_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.name}: {link}"
