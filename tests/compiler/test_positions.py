"""Masks read off positions: what is said of a mask must be what it is, number by number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tundish.compiler.passes.positions import band, is_causal, rows_position, sees_own, window_of
from tundish.ir import dims
from tundish.ir.build import Builder
from tundish.ir.dims import Range, symbol
from tundish.ir.dtypes import DTYPES, f32, i64
from tundish.ir.evaluate import evaluate
from tundish.ir.graph import Program, Value, producers
from tundish.ir.tensor import TensorType

S, T = symbol("s"), symbol("t")
SIZES = ({"s": 5, "t": 8}, {"s": 4, "t": 4}, {"s": 1, "t": 3})


class Draft(Builder):
    """A mask over S queries and T keys."""

    def __init__(self, keys=T) -> None:
        super().__init__()
        self.keys = keys
        for n in ("s", "t"):
            self.input(n, TensorType(f32, (symbol(n),)))

    def query(self, start=0) -> Value:
        return self.emit("reshape", self.emit("iota", length=S, start=start, dtype=i64), shape=(S, 1))

    def key(self, start=0) -> Value:
        row = self.emit("iota", length=self.keys, start=start, dtype=i64)
        return self.emit("reshape", row, shape=(1, self.keys))

    def whole(self, value: int) -> Value:
        return self.constant(value, i64)

    def masks(self, mask: Value) -> tuple[dict, list[np.ndarray]]:
        program = Program({"main": self.finish([mask], ["y"])}, ("main",), symbols={"s": Range(), "t": Range()})
        given = [{n: np.zeros(z, np.float32) for n, z in sizes.items()} for sizes in SIZES]
        return producers(program.entry), [evaluate(program, g)["y"] for g in given]


def meant(low, high, sizes: dict) -> np.ndarray:
    distance = np.arange(sizes["s"])[:, None] - np.arange(sizes["t"])[None, :]
    ends = [None if e is None else e if isinstance(e, int) else dims.evaluate(e, sizes) for e in (low, high)]
    seen = np.ones(distance.shape, bool)
    seen &= True if ends[0] is None else distance >= ends[0]
    return seen & (True if ends[1] is None else distance <= ends[1])


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_band_is_what_the_mask_is(data: st.DataObject):
    def pick(*items):
        return data.draw(st.sampled_from(items))

    d = Draft()
    q, k = d.query(pick(0, 2)), d.key(pick(0, 1))
    if pick(True, False):
        k = d.emit("expand", k, shape=(S, T))
    if pick(True, False):
        q, k = (d.emit("cast", x, dtype=DTYPES["f32"]) for x in (q, k))
    number = d.constant(pick(-2, 0, 1, 3), q.type.dtype)
    zero = d.constant(0, q.type.dtype)
    left, right = {
        "bare": (q, k), "moved": (d.emit("add", q, number), k), "back": (q, d.emit("sub", k, number)),
        "difference": (d.emit("sub", q, k), number), "negative": (d.emit("neg", d.emit("sub", q, k)), zero),
        "sum": (d.emit("add", q, k), number), "twice": (d.emit("add", q, q), k), "alone": (q, number),
    }[pick("bare", "moved", "back", "difference", "negative", "sum", "twice", "alone")]  # fmt: skip
    sides = (left, right) if pick(True, False) else (right, left)
    mask = d.emit(pick("le", "lt", "ge", "gt"), *sides)
    negated = pick(True, False)
    mask = d.emit("not", mask) if negated else mask
    if mask.type.shape == (S, T):
        mask = d.emit("reshape", mask, shape=(1, 1, S, T))
    made_by, arrays = d.masks(mask)
    found = band(mask, made_by)
    for sizes, array in zip(SIZES, arrays, strict=True):
        if found is not None:
            np.testing.assert_array_equal(array[0, 0], meant(*found, sizes))


@pytest.mark.parametrize("written", ["le", "difference", "cast", "longer keys"])
def test_causality_is_seen(written: str):
    d = Draft()
    offset = d.emit("dim_value", dim=T - S)
    mask = {
        "le": lambda: d.emit("le", d.key(), d.emit("add", d.query(), offset)),
        "difference": lambda: d.emit("ge", d.emit("sub", d.emit("add", d.query(), offset), d.key()), d.whole(0)),
        "cast": lambda: d.emit("not", d.emit("gt", *(d.emit("cast", x, dtype=f32) for x in (d.key(), d.query(T - S))))),
        "longer keys": lambda: d.emit("ge", d.query(T - S), d.key()),
    }[written]()
    made_by, _ = d.masks(mask)
    assert is_causal(mask, S, T, made_by) and not is_causal(mask, S, T, made_by, negated=True)
    assert window_of(mask, S, T, made_by) is None


def test_a_window_is_seen():
    d = Draft(keys=S)
    mask = d.emit("lt", d.emit("sub", d.query(), d.key()), d.whole(3))
    made_by, _ = d.masks(mask)
    assert window_of(mask, S, S, made_by) == 3 and sees_own(mask, S, made_by)
    assert not is_causal(mask, S, S, made_by)


@pytest.mark.parametrize("dtype", ["i8", "f16", "u8"])
def test_numbers_that_wrap_around_or_round_are_not_trusted(dtype: str):
    d = Draft()
    q, k = (d.emit("cast", x, dtype=DTYPES[dtype]) for x in (d.query(), d.key()))
    mask = d.emit("ge", q, k)
    made_by, _ = d.masks(mask)
    assert band(mask, made_by) is None


def test_steps_of_two_and_strangers_are_no_positions():
    d = Draft()
    steps = d.emit("reshape", d.emit("iota", length=S, step=2, dtype=i64), shape=(S, 1))
    for left in (steps, d.emit("reshape", d.inputs[0], shape=(S, 1))):
        right = d.key() if left.type.dtype == i64 else d.emit("cast", d.key(), dtype=f32)
        mask = d.emit("ge", left, right)
        assert band(mask, producers(Program({"m": d.finish([mask])}, ("m",)).entry)) is None


ROWS = symbol("rows")


def own(d: Draft, *more: object) -> Value:
    """Each row's position, over a mask's four axes."""
    return d.emit("reshape", d.input("position", TensorType(i64, (ROWS,))), shape=(ROWS, 1, 1, 1, *more))


def masked(draw) -> tuple[Value | None, np.ndarray, np.ndarray]:
    """What is read of a mask, what it is for rows at 0, 2 and 5, and what a causal mask of these positions is."""
    d = Draft()
    mask = d.emit("reshape", draw(d), shape=(ROWS, 1, S, T))
    program = Program({"main": d.finish([mask], ["y"])}, ("main",), symbols={n: Range() for n in ("s", "t", "rows")})
    given = {"s": np.zeros(4, np.float32), "t": np.zeros(9, np.float32), "position": np.array([0, 2, 5])}
    seen = np.arange(9) <= given["position"][:, None, None, None] + np.arange(4)[:, None]
    return rows_position(mask, S, T, producers(program.entry)), evaluate(program, given)["y"], seen


CAUSAL = {
    "distance from 0 on": lambda d: d.emit("ge", d.emit("sub", d.emit("add", own(d), d.query()), d.key()), d.whole(0)),
    "key up to query": lambda d: d.emit("le", d.key(), d.emit("add", d.query(), own(d))),
    "before the next": lambda d: d.emit("lt", d.emit("sub", d.key(), own(d)), d.emit("add", d.query(), d.whole(1))),
    "not beyond": lambda d: d.emit("not", d.emit("gt", d.emit("sub", d.key(), own(d)), d.query())),
    "turned round": lambda d: d.emit("ge", d.emit("neg", d.emit("sub", d.key(), own(d))), d.emit("neg", d.query())),
}
OTHERS = {
    "one more": lambda d: d.emit("le", d.key(), d.emit("add", d.query(1), own(d))),
    "those after": lambda d: d.emit("ge", d.key(), d.emit("add", d.query(), own(d))),
    "subtracted": lambda d: d.emit("le", d.key(), d.emit("sub", d.query(), own(d))),
    "no query": lambda d: d.emit("le", d.key(), d.emit("add", d.emit("expand", d.whole(0), shape=(S, 1)), own(d))),
}  # fmt: skip


@pytest.mark.parametrize("draw", CAUSAL.values(), ids=list(CAUSAL))
def test_a_causal_mask_of_each_rows_position_is_read_off(draw):
    found, mask, seen = masked(draw)
    assert found is not None and found.name == "position" and np.array_equal(mask, seen)


@pytest.mark.parametrize("draw", OTHERS.values(), ids=list(OTHERS))
def test_what_is_no_causal_mask_of_positions_is_not(draw):
    found, mask, seen = masked(draw)
    assert found is None and not np.array_equal(mask, seen)


def test_twice_the_position_is_none():
    def draw(d: Draft) -> Value:
        one = own(d)
        return d.emit("le", d.key(), d.emit("add", d.query(), d.emit("add", one, one)))

    assert masked(draw)[0] is None
