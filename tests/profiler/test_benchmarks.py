"""The tables of docs/benchmarks.md: one model's run rewrites its own and keeps the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tundish.profiler.benchmarks import PEERS, read_part, write_part, write_tables


def result(workload: str, median_ms: float) -> dict[str, Any]:
    row = {
        "name": "tundish", "median_ms": median_ms, "iqr_ms": 0.1, "ratio": 1.0, "ratio_iqr": 0.0, "clean_rounds": 3,
        "dropped_rounds": 0, "max_abs_difference": 1e-6, "same_answer": True, "compile_s": 1.0, "compile_peak_bytes": 1,
        "peak_bytes": 1,
    }  # fmt: skip
    return {"workload": workload, "threads": 2, "shapes": {"input_ids": (1, 8)}, "rows": [row], "notes": []}


def test_a_run_of_one_model_keeps_the_tables_of_others(tmp_path: Path):
    path = tmp_path / "benchmarks.md"
    write_part(path, "something else", "stays")
    write_tables(path, [result("a", 1.25), result("b", 2.25)])
    write_tables(path, [result("b", 3.25)])
    body = read_part(path, PEERS)
    assert [line for line in body.splitlines() if line.startswith("### ")] == [
        "### a, fp32, 2 threads", "### b, fp32, 2 threads",
    ]  # fmt: skip
    assert "1.25" in body and "3.25" in body and "2.25" not in body
    assert read_part(path, "something else").strip() == "stays"


def test_the_same_run_twice_gives_the_same_file(tmp_path: Path):
    path = tmp_path / "benchmarks.md"
    write_tables(path, [result("a", 1.25)])
    once = path.read_bytes()
    write_tables(path, [result("a", 1.25)])
    assert path.read_bytes() == once
