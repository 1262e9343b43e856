from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tundish.profiler import rounds
from tundish.profiler.rounds import MOST, Slot, figures, race

CLEAN, BUSY = 0.2, 3.0


def _round(ours: float, theirs: float, at: float = CLEAN, them: float = CLEAN) -> dict[str, Slot]:
    return {"tundish": Slot(ours, at), "peer": Slot(theirs, them)}


def test_unclean_rounds_are_dropped_and_counted() -> None:
    ran = [_round(10, 20), _round(12, 24), _round(500, 20, at=BUSY), _round(10, 900, them=BUSY), _round(11, 22)]
    got = figures(ran, "peer", "tundish", 3)
    assert (got["median_ms"], got["ratio"], got["clean_rounds"], got["dropped_rounds"]) == (22, 2.0, 3, 2)
    assert got["ratio_iqr"] == 0 and got["iqr_ms"] == 2 and not got["note"]


def test_the_ratio_is_of_rounds_so_that_a_drift_of_the_machine_cancels() -> None:
    ran = [_round(drift, 1.5 * drift) for drift in (10, 20, 40, 80)]
    got = figures(ran, "peer", "tundish", 4)
    assert got["ratio"] == pytest.approx(1.5) and got["ratio_iqr"] == pytest.approx(0) and got["iqr_ms"] > 10


def test_ours_against_itself_is_one() -> None:
    got = figures([_round(n, 1) for n in (3, 4, 5)], "tundish", "tundish", 3)
    assert (got["ratio"], got["ratio_iqr"], got["median_ms"]) == (1.0, 0.0, 4)


def test_a_machine_that_is_never_clean_is_told() -> None:
    ran = [_round(10, 10 * n, at=2.0 * n) for n in range(1, 9)]
    got = figures(ran, "peer", "tundish", 3)
    assert got["clean_rounds"] == 0 and got["dropped_rounds"] == 8
    assert "0 of 8 rounds were clean" in got["note"] and "of the 3 that were disturbed least" in got["note"]
    assert got["median_ms"] == 20  # rounds 1 to 3


class Fake:
    """Answers with the next of its loads; its name goes to the log."""

    def __init__(self, name: str, log: list[str], busy: Callable[[int], bool], ends: int = 10**6) -> None:
        self.name, self.log, self.busy, self.ends, self.ran = name, log, busy, ends, 0

    def run(self, limit_s: float) -> dict[str, Any]:
        self.ran += 1
        self.log.append(self.name)
        if self.ran > self.ends:
            return {"error": "it fell over"}
        others = 0.9 if self.busy(self.ran) else 0.0
        return {"ms": 5.0, "load": {"wall_s": 1.0, "others_s": others, "stolen_s": 0.0, "switches": 0}}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(rounds, "wait_for_quiet", lambda cpus, limit_s: True)
    yield


def _race(wanted: int, **fakes: Fake) -> tuple[list[Any], dict[str, str]]:
    return race({n: (f, 0.1) for n, f in fakes.items()}, "tundish", wanted, 1, [0])


def test_the_order_alternates() -> None:
    log: list[str] = []
    _race(2, tundish=Fake("A", log, lambda n: False), peer=Fake("B", log, lambda n: False))
    assert log == ["A", "B", "B", "A"]


def test_it_goes_on_until_enough_rounds_were_clean() -> None:
    log: list[str] = []
    ran, failed = _race(5, tundish=Fake("A", log, lambda n: n % 2 == 0), peer=Fake("B", log, lambda n: False))
    assert len(ran) == 9 and not failed
    assert figures(ran, "peer", "tundish", 5)["clean_rounds"] == 5


def test_it_ends_where_the_machine_is_never_clean() -> None:
    log: list[str] = []
    ran, _ = _race(3, tundish=Fake("A", log, lambda n: True), peer=Fake("B", log, lambda n: True))
    assert len(ran) == 3 * MOST


def test_one_that_ends_is_left_out_and_the_others_go_on() -> None:
    log: list[str] = []
    fakes = {"tundish": Fake("A", log, lambda n: False), "peer": Fake("B", log, lambda n: False, ends=1)}
    ran, failed = _race(4, **fakes, other=Fake("C", log, lambda n: False))
    assert failed == {"peer": "it fell over"} and len(ran) == 4 and all("other" in r for r in ran)
    assert log.count("B") == 2
