"""A model on its way into the compiler: the sizes that were wanted, and those that it takes."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_kit import Command, command, refused  # noqa: F401

import tundish

FACTORY = """import torch
class Short(torch.nn.Module):
    def forward(self, x):
        return x * 2 if x.shape[1] > {longest} else x + 1
def short():
    return Short(), {{"x": torch.rand(2, 8, 4)}}
"""


@pytest.fixture
def short(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(FACTORY.format(longest=100))
    return file


def test_sizes_that_tracing_excludes_are_told(command: Command, short: Path) -> None:
    told = command("compile", "mine.py:short", "-o", "out", "--json")
    assert told.code == 0 and told.json["sizes"]["seq"] == "1..100"
    (note,) = told.json["notes"]
    assert note.startswith("seq is 1..100 and not 1..512")
    assert command("compile", "mine.py:short", "-o", "out", "--seq", "1..64", "--json").json["notes"] == []


def test_sizes_that_are_all_excluded_are_refused_before_anything_is_written(
    command: Command, short: Path, tmp_path: Path
) -> None:
    refused(command("compile", "mine.py:short", "-o", "out", "--seq", "200..300"), "the model takes seq 1..100",
            "seq 200..300")  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_condition_on_a_size_is_refused_with_its_line(command: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FACTORY.format(longest="3 and x.shape[1] % 2"))
    told = command("compile", "mine.py:short", "-o", "out")
    refused(told, "mine.py:4: a Python condition goes one way at some sizes", "seq%2")
    assert not (tmp_path / "out").exists()


def test_classifying_by_the_last_token_says_the_lengths_that_it_takes(tmp_path: Path) -> None:
    """Its code looks for one end of text in each row, in a way that a text of two tokens could answer otherwise."""
    bundle = tundish.compile("bart-tiny", tmp_path / "out", task="sequence-classification")
    assert bundle.entries["forward"].symbols["seq"] == (3, 64)
    assert [n for n in bundle.manifest.info["notes"] if n.startswith("seq is 3..64 and not 1..64")]
    with pytest.raises(tundish.TundishError, match=r"the model takes seq 3\.\."):
        tundish.compile("bart-tiny", tmp_path / "other", task="sequence-classification", seq=2)
