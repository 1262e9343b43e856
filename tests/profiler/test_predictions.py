"""How far off predictions are: medians by hand, and the table that is rewritten."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from profile_kit import profile as profiled

from tundish.profiler.predictions import compared, write_predictions


def test_errors_are_medians_over_nodes_and_signed_in_total() -> None:
    given = profiled()
    factors = [0.5, 0.9, 1.0, 1.1, 2.0]
    nodes = tuple(
        replace(n, measured_ms=1.0, predicted_ms=factors[i % 5], predicted_low_ms=0.95, predicted_high_ms=1.05)
        for i, n in enumerate(given.nodes[:40])
    )
    row = compared(replace(given, nodes=nodes, total_ms=50.0, predicted_ms=45.0, unattributed_ms=5.0))
    assert row["total_error"] == pytest.approx(-0.1)
    assert row["median_error"] == pytest.approx(0.1)  # of 0.5, 0.1, 0, 0.1, 1
    assert row["unattributed"] == pytest.approx(0.1) and row["within"] == 1.0
    apart = compared(replace(given, nodes=tuple(replace(n, measured_ms=3.0) for n in nodes)))
    assert apart["within"] == 0.0


def test_large_nodes_are_those_that_make_up_most_of_the_time() -> None:
    given = profiled()
    large = replace(given.nodes[0], measured_ms=97.0, predicted_ms=97.0)
    small = tuple(replace(n, measured_ms=0.1, predicted_ms=0.2) for n in given.nodes[1:31])
    row = compared(replace(given, nodes=(large, *small)))
    assert row["large_error"] == 0.0 and row["median_error"] == pytest.approx(1.0)


def test_a_node_without_prediction_or_time_counts_for_nothing() -> None:
    given = profiled()
    nodes = (replace(given.nodes[0], measured_ms=1.0, predicted_ms=None),
             replace(given.nodes[1], measured_ms=0.0, predicted_ms=1.0))  # fmt: skip
    row = compared(replace(given, nodes=nodes, predicted_ms=None, peak_bytes={"measured": 5, "predicted": None}))
    assert row["median_error"] is None and row["total_error"] is None and row["peak_error"] is None


def test_the_table_is_rewritten_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "benchmarks.md"
    page.write_text("# Benchmarks\n\nkept\n")
    row = compared(profiled())
    for model in ("first", "second"):
        write_predictions(page, [{**row, "model": model}])
    text = page.read_text()
    assert "kept" in text and "| second " in text and "| first " not in text
    lines = [x for x in text.splitlines() if x.startswith("|")]
    assert len({x.count("|") for x in lines}) == 1
