"""Stored prefixes: which is found, and what goes when there is no room."""

from __future__ import annotations

import numpy as np
from generation_kit import Kept
from hypothesis import given
from hypothesis import strategies as st

from tundish.backends.generation.prefixes import SHORTEST, PrefixStore, common_length


def kept(tokens: range) -> Kept:
    return Kept(tuple(tokens), 100)


def test_the_longest_common_beginning_is_found() -> None:
    store = PrefixStore()
    store.add(range(40), kept(range(40)))
    store.add([*range(30), 99], kept(range(30)))
    found = store.longest([*range(35), 7, 7])
    assert found is not None and (found.common, found.saved.length) == (35, 40)
    found = store.longest([*range(30), 99, 100])
    assert found is not None and (found.common, found.saved.length) == (31, 30)
    assert store.longest([5, *range(40)]) is None
    assert store.longest(range(SHORTEST - 1)) is None


def test_what_was_used_longest_ago_goes_first() -> None:
    store = PrefixStore(limit_bytes=250)
    texts = [range(100 * i, 100 * i + 20) for i in range(3)]
    store.add(texts[0], kept(texts[0]))
    store.add(texts[1], kept(texts[1]))
    assert store.longest(texts[0]) is not None  # used: the other one is older now
    store.add(texts[2], kept(texts[2]))
    assert [store.longest(t) is not None for t in texts] == [True, False, True]
    assert store.bytes == 200 and len(store) == 2
    store.add(range(500, 600), Kept(tuple(range(100)), 251))
    assert len(store) == 2, "what does not fit at all takes no one's place"
    store.add(texts[0], kept(texts[0]))
    assert len(store) == 2, "the same text again is not held twice"


@given(st.lists(st.integers(0, 2), max_size=12), st.lists(st.integers(0, 2), max_size=12))
def test_common_length(one: list[int], two: list[int]) -> None:
    n = common_length(np.array(one, int), np.array(two, int))
    assert one[:n] == two[:n] and (n == min(len(one), len(two)) or one[n] != two[n])
