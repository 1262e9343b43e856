"""Which rounds of a comparison count, and when more of them cannot matter."""

from __future__ import annotations

from tundish.profiler.duel import BASE, OTHER, hopeless, judged
from tundish.profiler.rounds import Round, Slot


def rounds(*rows: tuple[float, float, float]) -> list[Round]:
    """(ms of the base, ms of the other, how disturbed)."""
    return [{BASE: Slot(a, 0.0), OTHER: Slot(b, unrest)} for a, b, unrest in rows]


def test_only_clean_rounds_count_where_there_are_enough():
    held = judged(rounds(*[(10.0, 9.0, 0.5)] * 8, *[(10.0, 90.0, 3.0)] * 5), 8)
    assert held.times.rounds == 8 and held.times.faster and held.dropped == 5 and not held.note


def test_else_those_that_were_disturbed_least_and_it_says_so():
    held = judged(rounds(*[(10.0, 9.0, 0.5)] * 4, *[(10.0, 9.5, 2.0)] * 4, *[(10.0, 90.0, 3.0)] * 4), 8)
    assert held.times.rounds == 8 and held.times.high < 1 and held.dropped == 8
    assert "4 of 12 rounds were clean" in held.note


def test_it_is_hopeless_only_where_it_is_surely_slower():
    assert hopeless(rounds(*[(10.0, 10.1, 0.0)] * 8))
    assert not hopeless(rounds(*[(10.0, 10.1, 0.0)] * 7))
    assert not hopeless(rounds(*[(10.0, 10.1, 0.0)] * 7, (10.0, 9.0, 0.0)))
    assert not hopeless(rounds(*[(10.0, 9.0, 0.0)] * 30)) and not hopeless([])


def test_a_hopeless_one_is_not_faster_and_has_its_times():
    held = judged(rounds(*[(10.0, 12.0, 0.0)] * 8), 15)
    assert held.times.rounds == 8 and not held.times.faster and not held.note
