from __future__ import annotations

import time

import pytest

from tundish.profiler import quiet
from tundish.profiler.quiet import Load, Reading, between, cpu_times, disturbance, is_clean, others_share

# cpu0 worked 3 + 1 + 2 ticks for processes and 1 + 1 for interrupts; guests' 2 ticks are part of its first column.
STAT = """cpu  13 1 2 90 5 1 1 7 2 0
cpu0 3 1 2 40 5 1 1 4 2 0
cpu1 10 0 0 50 0 0 0 3 0 0
intr 5 0
"""
TICK = quiet._TICK_S


def test_only_the_named_cpus_count_and_idle_time_does_not() -> None:
    assert cpu_times(STAT, [0]) == pytest.approx((8 * TICK, 4 * TICK))
    assert cpu_times(STAT, [0, 1]) == pytest.approx((18 * TICK, 7 * TICK))
    assert cpu_times(STAT, [7]) == (0.0, 0.0)


def test_old_kernels_without_stolen_time() -> None:
    assert cpu_times("cpu0 3 1 2 40", [0]) == pytest.approx((6 * TICK, 0.0))


def _load(busy: float, own: float, stolen: float = 0.0, switches: int = 0, wall: float = 1.0) -> Load:
    return between(Reading(5.0, 100.0, 1.0, 7.0, 3), Reading(5 + wall, 100 + busy, 1 + stolen, 7 + own, 3 + switches))


def test_a_process_that_had_the_machine_to_itself_is_clean() -> None:
    assert is_clean(_load(busy=2.0, own=2.0), threads=2)
    assert is_clean(_load(busy=2.0, own=1.999, switches=5), threads=2)
    assert _load(busy=1.0, own=1.01).others_s == 0.0  # ticks are coarser than a process's own account


@pytest.mark.parametrize(
    "load",
    [_load(2.0, 1.5), _load(1.6, 1.0), _load(2.0, 2.0, stolen=0.3), _load(2.0, 2.0, switches=1000)],
    ids=["its threads had to share", "others ran where it idled", "the host took the CPU", "it was put aside often"],
)
def test_each_kind_of_company_makes_a_round_unclean(load: Load) -> None:
    assert not is_clean(load, threads=2)


def test_what_is_allowed_grows_with_the_round_and_the_threads() -> None:
    others = 0.09
    assert is_clean(_load(2 + others, 2.0, wall=1.0), threads=2)
    assert not is_clean(_load(2 + others, 2.0, wall=1.0), threads=1)
    assert not is_clean(_load(0.2 + others, 0.2, wall=0.1), threads=2)


def test_a_longer_stay_of_others_disturbs_more() -> None:
    found = [disturbance(_load(2.0 + extra, 2.0), 2) for extra in (0.0, 0.05, 0.1, 0.5)]
    assert found == sorted(found) and found[0] < 1 < found[-1]


def test_counters_that_do_not_see_the_process_itself_say_nothing() -> None:
    load = _load(busy=0.0, own=1.0)
    assert load.others_s is None and not is_clean(load, 1)


def test_the_share_of_others_is_what_is_neither_idle_nor_ours() -> None:
    before, after = Reading(0.0, 10.0, 1.0, 5.0, 0), Reading(2.0, 13.0, 1.5, 6.0, 0)
    assert others_share(between(before, after), 2) == pytest.approx((3.0 - 1.0 + 0.5) / 4)
    assert others_share(_load(busy=0.0, own=1.0), 1) == 0.0


def test_a_process_reads_its_own_work() -> None:
    before = quiet.read([0])
    deadline = time.process_time() + 0.05
    while time.process_time() < deadline:
        pass
    after = quiet.read([0])
    assert after.own_s - before.own_s >= 0.05 and after.wall_s > before.wall_s


def test_waiting_for_quiet_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = iter(range(100))
    monkeypatch.setattr(quiet, "read", lambda cpus: Reading(float(n := next(busy)), 10.0 * n, 0.0, 0.0, 0))
    assert not quiet.wait_for_quiet([0], limit_s=0.0, step_s=0.001)
    monkeypatch.setattr(quiet, "read", lambda cpus: Reading(float(next(busy)), 1.0, 0.0, 0.0, 0))
    assert quiet.wait_for_quiet([0], limit_s=0.0, step_s=0.001)
