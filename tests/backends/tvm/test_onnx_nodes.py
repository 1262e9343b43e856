"""ONNX's own cases, one for each form of each operator, on the TVM backend."""

from __future__ import annotations

import pytest

from ...parity.onnx_nodes import cases, run

SOME = ("test_softmax_", "test_gather_", "test_topk_", "test_conv_", "test_cumsum_", "test_reduce_sum_", "test_where_")


def outcomes(names: list[str]) -> dict[str, list[str]]:
    """What became of the cases that import: passed, refused, and what must not be -> their names and why."""
    found: dict[str, list[str]] = {}
    for row in run(names, ort=True, engine="tvm"):
        found.setdefault(row.ort, []).append(f"{row.name}: {row.ort_reason}")
    return found


def test_some_operators() -> None:
    found = outcomes([n for n in cases() if n.startswith(SOME) and "expanded" not in n])
    assert set(found) <= {"", "passed"}, found
    assert len(found["passed"]) > 20


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_cases_pass_or_are_refused_by_the_name_of_a_type() -> None:
    found = outcomes(list(cases()))
    assert set(found) <= {"", "passed", "refused"}, {k: v for k, v in found.items() if k not in ("", "passed")}
    assert len(found["passed"]) > 1400
    assert all("computes with no" in line or "takes no" in line for line in found["refused"])
