"""ONNX's 1,884 node cases: none crashes, none is wrong, and no fewer pass than are recorded (docs/onnx.md)."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from parity import onnx_nodes
from parity.onnx_nodes import Row, cases, counts, judged, run

from tundish.ir.diagnostics import CaptureError, RunError

DOC = Path(__file__).parents[2] / "docs" / "onnx.md"


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """All cases, through numpy and through ONNX Runtime; 15 seconds, of which ONNX takes 4 to make them."""
    return run(ort=True)


def _named(rows: list[Row], *outcomes: str) -> list[str]:
    found = [r for r in rows if {r.outcome, r.ort} & {*outcomes}]
    return [f"{r.name}: {r.outcome} {r.reason} {r.ort} {r.ort_reason}" for r in found]


def test_all_cases_are_there(rows):
    assert len(rows) == len({r.name for r in rows}) == 1884
    assert sum(r.wanted for r in rows) == 786


def test_none_crashes_and_none_is_wrong(rows):
    assert not _named(rows, "crashed", "wrong")


def test_every_refusal_has_a_reason(rows):
    assert {r.outcome for r in rows} == {"passed", "passed with fixed inputs", "refused"}
    assert not [r.name for r in rows if r.outcome == "refused" and len(r.reason) < 10]
    assert not [r.name for r in rows if (r.outcome == "passed with fixed inputs") != bool(r.fixed)]


def test_as_many_pass_as_are_recorded(rows):
    n, wanted = counts(rows), counts(r for r in rows if r.wanted)
    assert n["passed"] >= 1408 and n["passed"] + n["passed with fixed inputs"] >= 1700
    assert wanted["passed"] >= 656 and wanted["passed"] + wanted["passed with fixed inputs"] >= 776
    assert n["ort passed"] >= 1581 and wanted["ort passed"] >= 713


def test_the_table_says_what_there_is(rows):
    text = DOC.read_text()
    for name, part in (("all", rows), ("only ops that Transformers need", [r for r in rows if r.wanted])):
        n = counts(part)
        line = f"| {name} | {n['cases']} | {n['passed']} | {n['passed with fixed inputs']} | {n['refused']} | 0 | 0 |"
        assert line in text, "run `make onnx-table`"


# -- that the harness can tell ------------------------------------------------------------------------------


def _raises(error: BaseException) -> tuple[str, str]:
    def fail() -> None:
        raise error

    return judged(fail, refuses=(CaptureError,), untaken=(RunError,))


def test_what_goes_wrong_is_called_by_its_name():
    assert _raises(CaptureError("no op")) == ("refused", "no op")
    assert _raises(RunError("no kernel"))[0] == "not taken"
    assert judged(lambda: _raise(RunError("odd")), refuses=(CaptureError,))[0] == "wrong"
    for error in (ValueError("x"), AssertionError(), KeyError("k"), RecursionError()):
        assert _raises(error)[0] == "crashed"
    assert judged(lambda: None, refuses=())[0] == "passed"


def _raise(error: Exception) -> None:
    raise error


def test_what_takes_too_long_is_a_crash(monkeypatch):
    monkeypatch.setattr(onnx_nodes, "LIMIT_S", 0.05)
    outcome, reason = judged(lambda: time.sleep(5), refuses=())
    assert outcome == "crashed" and "took over" in reason


@pytest.mark.parametrize(("change", "said"), [
    (lambda y: y + np.float32(0.01), "differ"), (lambda y: y.astype(np.float64), "not float64"),
    (lambda y: y[:1], "not float32[1"), (lambda y: np.where(y > 0, np.float32("nan"), y), "differ"),
])  # fmt: skip
def test_another_answer_is_wrong(change, said):
    case = cases()["test_tanh"]
    ((inputs, (y,)),) = case.data_sets
    odd = type(case)(**{**vars(case), "data_sets": [(inputs, [change(y)])]})
    right, wrong = (
        judged(lambda c=c: onnx_nodes.compare(c, {"y": np.tanh(inputs[0])}), refuses=()) for c in (case, odd)
    )
    assert right == ("passed", "") and wrong[0] == "wrong" and said in wrong[1]
