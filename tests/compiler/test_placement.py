"""Experts to devices: the bound is one, the split is the most even there is, and placements come near the bound."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from eplb import eplb
from eplb import level as eplb_level
from hypothesis import given, settings
from hypothesis import strategies as st
from parity.placement_table import KINDS, SHAPES, windows

from tundish.compiler.experts.bound import lower_bound
from tundish.compiler.experts.drawn import choices, loads_of, popularity, touched
from tundish.compiler.experts.placement import Fleet, matched, place, puts_of
from tundish.compiler.experts.split import copies_of, excess, split
from tundish.compiler.experts.swaps import mended
from tundish.compiler.experts.wrap import wrapped
from tundish.ir.diagnostics import TundishError

pytest.importorskip("scipy")


def drawn(seed: int, experts: int, devices: int, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Loads, and an assignment of every expert to some device, none twice on one."""
    draw = np.random.default_rng(seed)
    loads = np.exp(draw.normal(0, 1.5, experts)) * (draw.random(experts) > 0.1)
    loads[0] += 1
    return loads, place(np.exp(draw.normal(0, 1, experts)), Fleet(devices, devices * each)).assignment


def fullest_by_lp(assignment: np.ndarray, loads: np.ndarray) -> float:
    """The least fullest level, by linear programming."""
    from scipy.optimize import linprog

    devices, each = assignment.shape
    slots = assignment.size
    equal, above = np.zeros((len(loads), slots + 1)), np.zeros((devices, slots + 1))
    equal[assignment.ravel(), np.arange(slots)] = 1
    above[np.repeat(np.arange(devices), each), np.arange(slots)] = 1
    above[:, -1] = -1
    goal = np.zeros(slots + 1)
    goal[-1] = 1
    return float(linprog(goal, above, np.zeros(devices), equal, loads).fun)


def best_of_all(loads: np.ndarray, devices: int, each: int) -> float:
    """The least fullest level of all assignments there are."""
    rows = list(itertools.combinations(range(len(loads)), each))
    found = np.inf
    for chosen in itertools.combinations_with_replacement(rows, devices):
        assignment = np.array(chosen)
        if len(np.unique(assignment)) == len(loads):
            found = min(found, split(assignment, loads).fullest)
    return float(found)


@pytest.mark.parametrize(("experts", "devices", "each"), [(4, 2, 2), (4, 2, 3), (5, 3, 2), (3, 3, 2), (6, 3, 2)])
def test_no_placement_at_all_is_below_the_bound(experts, devices, each):
    for seed in range(4):
        loads = np.exp(np.random.default_rng(seed).normal(0, 1.5, experts))
        bound, best = lower_bound(loads, devices, devices * each), best_of_all(loads, devices, each)
        assert bound <= best * (1 + 1e-6)
        assert place(loads, Fleet(devices, devices * each)).level.max() <= 1.05 * best


def test_the_bound_says_what_forces_it():
    even = np.ones(8)
    assert lower_bound(even, 4, 8) == 2.0
    assert lower_bound(np.array([8.0, 1, 1, 1]), 2, 4) == 9.0  # one copy, and one other expert must lie beside it
    assert lower_bound(np.array([8.0, 1, 1, 1]), 2, 6) == 5.5  # two copies: the mean
    assert lower_bound(np.array([8.0, 8, 1, 1, 1, 1]), 3, 6) == 9.0  # two hot ones on two devices


@given(seed=st.integers(0, 10_000), sizes=st.sampled_from([(8, 4, 3), (12, 6, 3), (16, 8, 2), (9, 3, 5)]))
@settings(max_examples=40, deadline=None)
def test_a_split_is_the_most_even_there_is(seed, sizes):
    loads, assignment = drawn(seed, *sizes)
    found = split(assignment, loads)
    assert (found.parts >= 0).all()
    taken = np.zeros(len(loads))
    np.add.at(taken, assignment, found.parts)
    np.testing.assert_allclose(taken, loads, rtol=1e-9)
    best = fullest_by_lp(assignment, loads)
    assert found.fullest == pytest.approx(best, rel=1e-6)
    assert excess(assignment, loads, best * 1.0001) == pytest.approx(0, abs=1e-6 * loads.sum())
    assert excess(assignment, loads, best * 0.9) > 0
    for group in range(found.group.max() + 1):
        inside = found.level[found.group == group]
        np.testing.assert_allclose(inside, inside[0], rtol=1e-5, atol=1e-6 * loads.sum())


@given(seed=st.integers(0, 10_000), kind=st.sampled_from(["even", "heavy", "one"]),
       sizes=st.sampled_from([(256, 64, 5), (128, 8, 18), (8, 8, 2), (16, 8, 3), (12, 4, 4)]))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_with_a_spare_slot_for_each_device_all_get_the_mean(seed, kind, sizes):
    """The construction's own promise, before anything is exchanged."""
    experts, devices, each = sizes
    draw = np.random.default_rng(seed)
    loads = {"even": draw.random(experts) + 1, "heavy": draw.pareto(0.6, experts) + 0.01,
             "one": np.where(np.arange(experts) == seed % experts, 1e3, 1.0)}[kind]  # fmt: skip
    rows = wrapped(loads, devices, each, devices * each - experts)
    assert all(len(set(r.experts)) == len(r.experts) <= each for r in rows)
    assert {e for r in rows for e in r.experts} == set(range(experts))
    np.testing.assert_allclose([r.load for r in rows], loads.sum() / devices, rtol=1e-9)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_placements_of_drawn_loads_hold_what_docs_say(shape, kind):
    experts, slots, devices, _ = shape
    now, then = windows(shape, kind, 11)
    found = place(now, Fleet(devices, slots))
    assert found.assignment.shape == (devices, slots // devices) and (found.copies > 0).all()
    assert all(len(set(row)) == len(row) for row in found.assignment.tolist())
    assert found.level.max() <= 1.01 * found.bound
    base = eplb(now, devices, slots)
    assert found.level.max() <= eplb_level(base, now).max() * (1 + 1e-9)
    later = found.on(then)
    assert later.puts == 0 and (later.assignment == found.assignment).all()
    if experts >= 128:
        assert later.max_over_mean <= 1.07
    if slots > experts:  # without a copy nothing can be split anew, and the next window's noise is all the same
        assert later.level.max() <= eplb_level(base, then).max()


@pytest.mark.parametrize("drift", [0.0, 0.3])
def test_from_an_earlier_placement_little_is_loaded(drift):
    for shape in ((128, 128, 8, 8), (128, 160, 32, 8), (256, 320, 64, 8)):
        fleet = Fleet(shape[2], shape[1])
        now, then = windows(shape, "lognormal 1", 5, drift)
        before = place(now, fleet).assignment
        fresh, found = place(then, fleet), place(then, fleet, before)
        assert found.puts == puts_of(before, found.assignment)
        assert 5 * found.puts <= puts_of(before, matched(fresh.assignment, before))
        assert found.level.max() <= 1.01 * fresh.level.max()


def test_what_may_be_loaded_is_limited():
    shape = (128, 160, 32, 8)
    now, then = windows(shape, "zipf 1", 3)
    then = then[::-1]  # other experts are the hot ones now
    fleet = Fleet(32, 160)
    before = place(now, fleet).assignment
    levels = []
    for most in (0, 4, 16, 64):
        found = place(then, fleet, before, most)
        assert found.puts <= most
        levels.append(found.level.max())
    assert levels == sorted(levels, reverse=True) and levels[-1] < levels[0]
    assert (place(then, fleet, before, 0).assignment == before).all()


def test_the_same_loads_move_nothing():
    now, _ = windows((256, 320, 64, 8), "lognormal 1", 2)
    before = place(now, Fleet(64, 320)).assignment
    assert (mended(before, now, place(now, Fleet(64, 320)).bound * 1.001) == before).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_stays_within_a_node(kind):
    fleet = Fleet(32, 160, nodes=4, groups=8)
    now, then = windows((128, 160, 32, 8), kind, 1)
    for found in (place(now, fleet), place(then, fleet, place(now, fleet).assignment)):
        homes = found.assignment.reshape(4, -1) // 16
        assert [len(set(home.tolist())) for home in homes] == [2] * 4
        assert sorted(g for home in homes for g in set(home.tolist())) == list(range(8))
        assert (found.copies > 0).all()
        base = eplb_level(eplb(found.loads, 32, 160, 4, 8), found.loads)
        assert found.bound <= found.level.max() <= base.max() * 1.006


def test_decode_balances_different_experts():
    """Placed by how likely a batch reaches an expert, the fullest device reads fewer experts than placed by tokens."""
    experts, slots, devices, k, batch = 256, 320, 64, 8, 32
    fullest: dict[str, list[float]] = {"tokens": [], "experts": []}
    for seed in range(2):
        draw = np.random.default_rng(seed)
        logits = popularity("zipf 1", experts, draw)
        loads = loads_of(choices(logits, 8192, k, draw), experts)
        by = {"tokens": loads, "experts": touched(loads, 8192, batch)}
        found = {name: place(of, Fleet(devices, slots)).assignment for name, of in by.items()}
        for _ in range(20):
            reached = np.bincount(np.unique(choices(logits, batch, k, draw)), minlength=experts)
            for name, assignment in found.items():
                fullest[name].append(np.ceil(split(assignment, reached).fullest - 1e-6))  # whole, as flows can be
    assert np.mean(fullest["experts"]) < 0.95 * np.mean(fullest["tokens"])


def test_touched_is_the_share_of_batches_that_reach_an_expert():
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 1, 16)
    loads = loads_of(choices(logits, 100_000, 2, draw), 16)
    seen = np.mean([np.bincount(np.unique(choices(logits, 8, 2, draw)), minlength=16) for _ in range(3000)], axis=0)
    np.testing.assert_allclose(touched(loads, 100_000, 8), seen, atol=0.04)


@pytest.mark.parametrize(("make", "problem"), [
    (lambda: Fleet(3, 10), "slots are a multiple of devices"),
    (lambda: Fleet(8, 16, nodes=3), "devices are a multiple of nodes"),
    (lambda: Fleet(8, 16, nodes=4, groups=6), "groups are a multiple of nodes"),
    (lambda: Fleet(8, 8).check(9), "9 experts do not fit into 8 slots"),
    (lambda: Fleet(2, 8).check(3), "no device holds two copies"),
    (lambda: Fleet(8, 16, nodes=2, groups=4).check(10), "experts are a multiple of groups"),
    (lambda: place(np.array([1.0, np.nan]), Fleet(1, 2)), "not negative"),
    (lambda: place(np.array([1.0, -1]), Fleet(1, 2)), "not negative"),
    (lambda: place(np.ones((2, 2)), Fleet(1, 2)), "one number for each expert"),
    (lambda: place(np.ones(4), Fleet(2, 4), np.array([[0, 1]])), "other devices"),
    (lambda: place(np.ones(4), Fleet(2, 4), np.array([[0, 1], [2, 2]])), "other experts"),
    (lambda: place(np.ones(3), Fleet(2, 4), np.array([[0, 1], [2, 7]])), "other experts"),
    (lambda: place(np.ones(2), Fleet(2, 4), np.array([[0, 0], [1, 0]])), "two copies"),
])  # fmt: skip
def test_what_cannot_be_is_refused(make, problem):
    with pytest.raises(TundishError, match=problem):
        make()


def test_loads_of_nothing_are_even():
    found = place(np.zeros(8), Fleet(4, 8))
    assert found.max_over_mean == 1.0 and (copies_of(found.assignment, 8) == 1).all()
