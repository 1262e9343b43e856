"""A command line run in this process, and what it is run on."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import tundish
from tundish import cli

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
RANDOM = tuple(word for name in INPUTS for word in ("--input", f"{name}=random"))


@dataclass(frozen=True)
class Told:
    """What a command line gave back."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> object:
        return json.loads(self.out)


Command = Callable[..., Told]


_MADE: list[Path] = []


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `bert.tundish` and the captured graph `bert.tir`, made once; tests copy what they change."""
    if _MADE:  # a fixture that two files import is two to pytest
        return _MADE[0]
    folder = tmp_path_factory.mktemp("made")
    _MADE.append(folder)
    tundish.compile("bert-tiny", folder / "bert.tundish", batch="1..4", seq="1..32").close()
    tundish.capture("bert-tiny", output=folder / "bert.tir")
    return folder


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Told:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main([str(a) for a in arguments])
        said = capsys.readouterr()
        return Told(int(stop.value.code or 0), said.out, said.err)

    return run


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused(told: Told, *parts: str) -> None:
    """Exit 2, nothing on stdout, and on stderr one line that says it (progress aside, hints below it)."""
    assert told.code == 2, told.err
    assert not told.out and "Traceback" not in told.err
    lines = [line for line in told.err.splitlines() if line.startswith("tundish: ")]
    first = [line for line in lines if not line.startswith("tundish: warning: ")]
    assert len(first) == 1 and all(part in told.err for part in parts), told.err


def environment() -> dict[str, str]:
    """Of a child process that finds the package where this one does."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
