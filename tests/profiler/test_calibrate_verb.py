"""What `tundish calibrate` refuses before it measures anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from tundish.ir.diagnostics import TundishError
from tundish.measuring import calibrate
from tundish.profiler.calibrate import measure, verb

CASES = {
    "a target that is none": ({"target": "tpu"}, "no target 'tpu' to calibrate"),
    "a folder for the file": ({"output": "there"}, "is a folder"),
    "a file for a folder": ({"output": "there/file/cpu.json"}, "cannot write .*cpu.json"),
    "a plot of no known kind": ({"plot": "there/roof.png"}, "--plot takes .svg or .html, got roof.png"),
    "a plot in no folder": ({"plot": "nowhere/roof.svg"}, "there is no folder nowhere"),
    "threads that are no numbers": ({"threads": "1,many"}, "--threads takes numbers"),
    "no threads": ({"threads": "0"}, "--threads takes numbers from 1"),
}


@pytest.mark.parametrize("name", CASES)
def test_refusals_cost_no_time(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, problem = CASES[name]
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNDISH_CALIBRATION", str(tmp_path / "cpu.json"))
    monkeypatch.setattr(verb, "measure_cpu", lambda *a, **k: pytest.fail("it measured"))
    with pytest.raises(TundishError, match=problem):
        calibrate(**given)  # type: ignore[arg-type]


def test_a_backend_that_runs_nothing_is_refused_before_the_ceilings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "peaks", lambda *a, **k: pytest.fail("it measured"))
    with pytest.raises(TundishError, match="the null backend runs nothing"):
        calibrate(backend="null", output=tmp_path / "cpu.json")
    assert not list(tmp_path.iterdir())
