"""Outputs that someone holds are never written over; those that nobody holds give their memory to the next."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tundish.backends.tvm import results
from tundish.backends.tvm.results import Results

from .kit import one, opened

F32 = np.dtype(np.float32)
WAYS_TO_HOLD = {
    "the array": lambda a: a, "a part of it": lambda a: a[1:, 2:3], "its turn": lambda a: a.T,
    "another type": lambda a: a.view(np.int32), "memory": memoryview,
    "a tensor": lambda a: np.from_dlpack(a), "a number's place": lambda a: a.reshape(-1)[3:4],
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS_TO_HOLD)
def test_what_is_held_keeps_its_numbers(way: str) -> None:
    kept = Results()
    first = kept.array("y", (3, 4), F32)
    first[...] = 7
    held = WAYS_TO_HOLD[way](first)
    del first
    kept.array("y", (3, 4), F32)[...] = 1
    assert (np.asarray(held).view(np.float32) == 7).all()


def test_what_nobody_holds_is_used_again() -> None:
    """`_OURS` counts right: with one reference fewer no block would ever be used again."""
    kept = Results()
    first = kept.array("y", (3, 4), F32)
    place = first.ctypes.data
    del first
    assert kept.array("y", (2, 4), F32).ctypes.data == place
    assert kept.array("z", (2, 4), F32).ctypes.data != place


@given(st.lists(st.integers(0, 5), max_size=3), st.sampled_from(["float32", "bool", "int64"]))
def test_arrays_are_as_asked(shape: list[int], dtype: str) -> None:
    made = Results().array("y", tuple(shape), np.dtype(dtype))
    assert made.shape == tuple(shape) and made.dtype == dtype and made.flags.c_contiguous and made.flags.writeable
    assert made.size == 0 or made.ctypes.data % 64 == 0


def test_a_huge_output_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "MOST_BYTES", 1000)
    kept = Results()
    large = kept.array("y", (300,), F32)
    assert large.base is None and not kept._blocks


def test_a_caller_who_holds_the_last_answer_takes_turns_between_two_blocks() -> None:
    kept, places, last = Results(), [], None
    for _ in range(6):
        last = kept.array("y", (3, 4), F32)
        places.append(last.ctypes.data)
    assert len(set(places)) == results.KEPT and places[:2] == places[2:4] == places[4:]


def test_answers_of_runs_before_stay(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    xs = [rng.standard_normal((n, 5)).astype(np.float32) for n in (4, 4, 9, 4, 1)]
    runner = opened({"double": one("add", xs[0], xs[0], shapes=[("n", None), ("n", None)])}, tmp_path)
    found = [next(iter(runner.run("double", {"i0": x, "i1": x}).values())) for x in xs]
    for x, y in zip(xs, found, strict=True):
        np.testing.assert_array_equal(y, x + x)
