"""Progress on a terminal."""

from __future__ import annotations

import os
import pty
import sys

import pytest

from tundish.profiler.report.progress import stages


def test_what_is_printed_after_the_end_goes_to_stdout(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bar that lives takes what is printed, to show it above itself on stderr."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with stages() as progress:
            progress("compiling", 0.5)
            progress("done", 1.0)
            print("a piece", end="", flush=True)
            assert capsys.readouterr().out == "a piece"
    assert b"starting" in os.read(ours, 1 << 16)
    os.close(ours)
