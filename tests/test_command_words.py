"""Words of a command line that cannot be read: one line that says which, and where to look."""

from __future__ import annotations

import pytest
from cli_kit import Command, command, refused  # noqa: F401


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("bench x --rounds 0", ["--rounds", "try:   tundish bench --help"]),
        ("profile x --repeats 1.5", ["--repeats", "try:   tundish profile --help"]),
        ("profile x --threads 0", ["--threads"]),
        ("tune x --batch many", ["--batch"]),
        ("account x --seq -3", ["--seq"]),
        ("profile", ["Missing argument"]),
        ("profile a b", ["unexpected"]),
        ("profile a --frob", ["--frob"]),
        ("frob", ["No such command 'frob'", "try:   tundish --help"]),
    ],
)
def test_they_are_told_in_one_line(command: Command, line: str, parts: list[str]) -> None:
    refused(command(*line.split()), *parts)
