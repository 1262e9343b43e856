"""What compiling costs: the stages add up, and a limit that is not held is seen."""

from __future__ import annotations

import pytest

from tundish.profiler.compile_bench import bench, markdown, most_bytes, stages, within

ROW = {"cold_s": 50.0, "most_cold_s": 60.0, "warm_s": 9.0, "most_warm_s": None, "beyond_bytes": 3,
       "most_beyond_bytes": 4, "run_bytes": most_bytes(10), "most_run_bytes": most_bytes(10)}  # fmt: skip


def test_stages_add_up():
    marks = [("a", 1.0), ("b", 2.5), ("a", 4.0), ("c", 4.0)]
    found = stages(marks, 7.0)
    assert sum(found.values()) == 6.0 and found == {"a": 1.5, "b": 1.5, "c": 3.0}


@pytest.mark.parametrize("figure, over", [("cold_s", 60.1), ("beyond_bytes", 5), ("run_bytes", most_bytes(10) + 1)])
def test_a_limit_that_is_not_held_is_seen(figure: str, over: float):
    assert within(ROW) and within({**ROW, "warm_s": 1e9})  # which has no limit
    assert not within({**ROW, figure: over})


def test_what_a_run_may_hold():
    assert most_bytes(0) == 300 << 20 and most_bytes(1000) - most_bytes(0) == 1100


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_model_that_is_compiled_twice():
    """The second time no kernel is compiled; a small bundle holds little beside its weights."""
    row = bench("bert-tiny", "tvm")
    assert row["beyond_bytes"] < row["most_beyond_bytes"] and row["run_bytes"] < row["most_run_bytes"]
    compiling = "writing the bundle of tvm: compiling kernels"
    assert row["cold_stages_s"][compiling] > 0 and compiling not in row["warm_stages_s"]
    assert sum(row["warm_stages_s"].values()) == pytest.approx(row["warm_s"])
    assert "bert-tiny" in markdown([row], "tvm")
