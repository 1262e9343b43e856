"""Single products against those of other libraries: what is measured, and how it is written down."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tundish.compiler.hardware.caches import caches
from tundish.profiler import kernel_bench as kb
from tundish.profiler.ceilings import Ceiling

MOST = Ceiling(1e11, 1e10)


def row(m: int, k: int, n: int, ms: float, *ratios: float) -> dict[str, object]:
    names = [name for name in kb.PEERS if name != kb.OURS]
    return {"m": m, "k": k, "n": n, "ms": ms, "clean": 3, "rounds": 4, "ratios": dict(zip(names, ratios, strict=True))}


@given(st.integers(1, 600), st.integers(1, 5000), st.integers(1, 5000))
def test_nothing_is_faster_than_the_limit_of_both_the_chip_and_its_memory(m: int, k: int, n: int) -> None:
    least = MOST.least_s(2 * m * k * n, 4 * k * n)
    assert least >= 2 * m * k * n / 1e11 and least >= 4 * k * n / 1e10
    assert least <= 2 * m * k * n / 1e11 + 4 * k * n / 1e10


def test_weights_lie_beyond_the_last_cache() -> None:
    assert kb.copies(768, 768) * 768 * 768 * 4 > caches()[-1].size_bytes
    assert kb.copies(16384, 16384) == 2


def test_a_row_says_how_near_the_limit_ours_is_and_what_the_fastest_peer_takes() -> None:
    shown = kb.shown(row(100, 1000, 1000, 4.0, 1.5, 0.9, 2.0), MOST)
    assert shown["of the limit"] == "50%"
    assert (shown["GFLOP/s"], shown["of weights GB/s"]) == ("50", "1.0")
    assert (shown["fastest peer"], shown["oneDNN"], shown["clean of rounds"]) == ("0.90", "1.50", "3 of 4")


def test_the_summary_is_of_the_fastest_peers_and_names_what_is_slower() -> None:
    rows = [row(1, 2, 3, 1.0, 4.0, 5.0, 6.0), row(4, 5, 6, 1.0, 9.0, 0.25, 1.0)]
    assert kb.summary(rows) == (
        "Geometric mean against the fastest peer of each product: 1.000 times ours. Ours is slower at 4 x 5 x 6 (0.25)."
    )
    assert kb.summary(rows[:1]).endswith("4.000 times ours. Ours is slower at none.")


@pytest.mark.slow
def test_all_give_the_same_product_and_the_table_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("tvm")
    file = tmp_path / "b.md"
    asked = ["gemm", "--rows", "3", "--sizes", "1024x1050", "--rounds", "1", "--threads", "1", "--write", str(file)]
    monkeypatch.setattr("sys.argv", ["kernel_bench", *asked])
    kb.main()
    text = file.read_text()
    assert "| 3 x 1024 x 1050 |" in text and "Geometric mean" in text
