"""Which experts stay in memory: each policy does what its name says, and none beats the optimum."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from routing_kit import routed

from tundish.compiler.experts.residency import (
    POLICIES,
    LeastFrequent,
    LookAhead,
    Policy,
    Slots,
    accesses_of,
    counts_of,
    least_reads,
    plan_residency,
    reads,
)
from tundish.ir.diagnostics import TundishError

SEQUENCES = st.lists(st.integers(0, 5), min_size=1, max_size=14)


def least_of_all(accesses: list[int], slots: int) -> int:
    """The fewest reads of any choice of what to give up, by trying all."""

    @cache
    def best(i: int, held: frozenset[int]) -> int:
        if i == len(accesses):
            return 0
        if accesses[i] in held:
            return best(i + 1, held)
        kept = [held] if len(held) < slots else [held - {e} for e in held]
        return 1 + min(best(i + 1, k | {accesses[i]}) for k in kept)

    return best(0, frozenset())


@given(accesses=SEQUENCES, slots=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_the_optimum_is_one(accesses, slots):
    assert least_reads(accesses, slots) == least_of_all(accesses, slots)


@given(accesses=SEQUENCES, slots=st.integers(1, 4), ahead=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_no_policy_reads_less_than_the_optimum_or_more_than_all(accesses, slots, ahead):
    tokens = [i // 2 for i in range(len(accesses))]
    least = least_reads(accesses, slots)
    for policy in (Policy(), LeastFrequent(), LookAhead()):
        assert least <= reads(accesses, Slots(slots, policy), tokens, ahead) <= len(accesses)
    assert reads(accesses, Slots(slots, LookAhead()), tokens, len(accesses)) == least
    assert reads(accesses, Slots(6, Policy())) == len(set(accesses))


@given(accesses=SEQUENCES, slots=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_lru_gives_up_what_was_used_longest_ago(accesses, slots):
    order: list[int] = []
    count = 0
    for expert in accesses:
        if expert in order:
            order.remove(expert)
        else:
            count += 1
            order = order[-(slots - 1) :] if slots > 1 else []
        order.append(expert)
    assert reads(accesses, Slots(slots, Policy())) == count


def test_lfu_keeps_what_is_used_often():
    slots = Slots(2, LeastFrequent())
    reads([1, 1, 1, 2, 3], slots)
    assert set(slots.held) == {1, 3}


def test_pinned_experts_are_read_once_and_never_leave():
    slots = Slots(3, Policy(), pinned=(7, 8))
    assert reads([7, 1, 2, 7, 3, 8, 7, 8], slots) == 2 + 3
    assert {slots.place(e)[0] for e in (7, 8)} == {1, 2} and set(slots.held) == {3}


@given(accesses=SEQUENCES, slots=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_two_experts_never_share_a_slot(accesses, slots):
    held = Slots(slots, LookAhead())
    lying: dict[int, int] = {}
    for expert in accesses:
        slot, missing = held.place(expert)
        assert 0 <= slot < slots and (lying.get(slot) == expert) is not missing
        lying[slot] = expert


def test_the_accesses_are_those_of_the_record_in_order():
    routing = routed(layers=3, experts=8, tokens=5)
    accesses, tokens = accesses_of(routing)
    assert tokens == sorted(tokens) and len(accesses) == 5 * 3 * 2
    for i, layer in enumerate(routing.layers):
        own = [a for a in accesses if a // 8 == i]
        assert own == (layer.choices() + 8 * i).ravel().tolist()


@pytest.mark.parametrize("policy", [None, *POLICIES])
def test_a_plan_predicts_what_its_slots_read(policy):
    routing = routed(layers=2, experts=8, tokens=200)
    accesses, tokens = accesses_of(routing)
    plan = plan_residency(routing, 1000, 6000, policy=policy, ahead=3)
    known = tokens if plan.policy == "look-ahead" else None
    found = reads(accesses, plan.slots_of(counts_of(routing)), known, 3)
    assert plan.bytes_per_token == found * 1000 / 200 >= plan.least_bytes_per_token == least_reads(accesses, 6) * 5
    assert plan.slots == 6 and policy in (None, plan.policy)
    assert plan.bytes_per_token == min(plan.others.values())


def test_more_memory_never_reads_more():
    routing = routed(layers=2, experts=8, tokens=150)
    found = [plan_residency(routing, 10, 10 * n).bytes_per_token for n in (2, 4, 8, 12, 16, 99)]
    assert found == sorted(found, reverse=True)
    assert found[-1] == found[-2] == 10 * len(set(accesses_of(routing)[0])) / 150


@pytest.mark.parametrize(("arguments", "problem"), [
    ({"memory_bytes": 1999}, "at least 2,000 bytes"),
    ({"memory_bytes": 4000, "most_bytes_per_token": 10}, "10 are allowed"),
    ({"memory_bytes": 4000, "policy": "magic"}, "no policy 'magic'"),
])  # fmt: skip
def test_what_cannot_work_is_refused_with_a_number(arguments, problem):
    with pytest.raises(TundishError, match=problem):
        plan_residency(routed(layers=2, experts=8, tokens=50), 1000, **arguments)


def test_without_choices_in_order_nothing_is_predicted():
    with pytest.raises(TundishError, match="no choices in order"):
        plan_residency(routed(layers=2, experts=8, tokens=50, traced=0), 1000, 4000)


def test_a_skewed_router_reads_less_than_an_even_one():
    even, skewed = (routed(layers=2, experts=16, tokens=300, skew=s) for s in (0.0, 2.0))
    assert plan_residency(skewed, 1, 8).bytes_per_token < 0.8 * plan_residency(even, 1, 8).bytes_per_token
    assert np.isfinite(plan_residency(even, 1, 8).least_bytes_per_token)
