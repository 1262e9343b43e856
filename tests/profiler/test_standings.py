"""What tables of peers come to."""

from __future__ import annotations

from typing import Any

import pytest

from tundish.profiler.benchmarks import Workload, standings, tables
from tundish.profiler.standings import columns, parsed

PEAK, READ = 1e11, 1e10


def result(title: str, phase: str, medians: dict[str, float], fewer: dict[str, int] | None = None) -> dict[str, Any]:
    """A run of 1e9 operations on 4e7 bytes of weights, or on as many as are said of a competitor."""
    rows = [
        {"name": name, "median_ms": ms, "iqr_ms": 0.1, "ratio": ms / medians["tundish"], "ratio_iqr": 0.0,
         "clean_rounds": 3, "dropped_rounds": 0, "max_abs_difference": 1e-6, "same_answer": True, "compile_s": 1.0,
         "compile_peak_bytes": 1, "peak_bytes": 1, "flops": 10**9,
         "weights_bytes": (fewer or {}).get(name, 40_000_000)}
        for name, ms in medians.items()
    ]  # fmt: skip
    return {
        "workload": title, "threads": 2, "shapes": {"input_ids": (1, 8)}, "notes": [], "phase": phase, "backend": "tvm",
        "peak_flops_per_s": PEAK, "read_bytes_per_s": READ, "rows": [*rows, {"name": "aoti", "cannot": "torch is old"}],
    }  # fmt: skip


def test_a_prefill_is_held_against_the_peak() -> None:
    shown = columns(result("bert", "prefill", {"tundish": 20.0, "torch": 40.0}))
    assert shown["tundish"] == {"GFLOP/s": "50", "of peak": "50%", "limit ms": "10"}
    assert shown["torch"]["of peak"] == "25%"


def test_a_decode_is_held_against_the_highest_rate_on_the_same_weights() -> None:
    """The limit is by the fastest that anyone read: 2e7 bytes in 1 ms is twice what memory was measured to give."""
    shown = columns(result("gpt", "decode", {"tundish": 5.0, "torch": 4.0, "tundish-int8": 1.0},
                           {"tundish-int8": 20_000_000}))  # fmt: skip
    assert shown["tundish"] == {"GB/s": "8.0", "of the highest": "80%", "limit ms": "10"}
    assert shown["tundish-int8"]["of the highest"] == shown["torch"]["of the highest"] == "100%"


def test_a_table_is_read_again() -> None:
    (text,) = tables([result("bert", "prefill", {"tundish": 20.0, "torch": 40.0})]).values()
    rows = parsed(text)
    assert set(rows) == {"tundish", "torch"} and rows["torch"]["times ours"] == "2.00"
    assert rows["tundish"]["of peak"] == "50%"


def test_standings_are_of_the_fastest_peer_of_each_workload_and_of_no_bundle_of_ours() -> None:
    found = standings(tables([
        result("a on 1", "prefill", {"tundish": 1.0, "torch": 4.0, "openvino": 2.0, "tundish-ort": 0.5}),
        result("b", "prefill", {"tundish": 1.0, "torch": 0.5}),
    ]))  # fmt: skip
    assert "1.000 times as long as ours (geometric mean of 2)" in found and "more than 3% on b (torch, 0.50)" in found
    assert found.splitlines()[-2].split(" | ")[-2:] == ["openvino", "2.00 |"]


def test_standings_of_a_decode_say_what_fewer_bits_give() -> None:
    medians = {"tundish": 8.0, "torch": 9.0, "tundish-int8": 2.0, "tundish-ort-int8": 3.0, "tundish-int4": 1.0}
    found = standings(tables([result("gpt", "decode", medians)]))
    names, _, row = ([c.strip() for c in line.strip("|").split("|")] for line in found.splitlines()[-3:])
    cells = dict(zip(names, row, strict=True))
    assert cells["int8, times as fast"] == "4.00" and cells["int4, times as fast"] == "8.00"
    assert cells["ORT's int8 over ours"] == "1.50" and not cells["ORT's int4 over ours"]


def test_of_another_backend_nothing_is_said() -> None:
    made = result("a", "prefill", {"tundish": 1.0, "torch": 2.0})
    assert standings(tables([{**made, "backend": "onnxruntime"}])) == ""


@pytest.mark.parametrize(("load", "spoken"), [
    (Workload("gpt2", 1, phase="decode", past=256), "gpt2 1 x 1, decode at 256"), (Workload("vit", 2), "vit, batch 2"),
])  # fmt: skip
def test_a_workload_has_a_name(load: Workload, spoken: str) -> None:
    assert load.spoken == spoken
