"""The pairs that attention computes: the formula against counting, and against published closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tundish.ir import dims
from tundish.ir.dtypes import f32
from tundish.ir.op import get
from tundish.ir.ops.attention import attention, twice_allowed_pairs
from tundish.ir.tensor import TensorType

S, T, P = dims.symbol("s"), dims.symbol("t"), dims.symbol("past")


def counted(s: int, t: int, causal: bool, window: int) -> int:
    return int(np.broadcast_to(attention.allowed(s, t, None, causal, window), (1, 1, s, t)).sum())


@settings(max_examples=400, deadline=None)
@given(s=st.integers(1, 24), t=st.integers(1, 24), causal=st.booleans(), window=st.integers(0, 30))
@example(s=9, t=4, causal=True, window=2)
@example(s=1, t=24, causal=True, window=5)
@example(s=1, t=24, causal=False, window=5)
@example(s=24, t=24, causal=False, window=1)
def test_the_formula_is_the_count(s: int, t: int, causal: bool, window: int) -> None:
    """With sizes given, with symbols for both, and with the keys as a past and the new ones."""
    want = 2 * counted(s, t, causal, window)
    assert twice_allowed_pairs(s, t, causal, window) == want
    assert dims.evaluate(twice_allowed_pairs(S, T, causal, window), {"s": s, "t": t}) == want
    if t >= s:
        assert dims.evaluate(twice_allowed_pairs(S, P + S, causal, window), {"s": s, "past": t - s}) == want
    if s == 1:
        assert dims.evaluate(twice_allowed_pairs(1, P + 1, causal, window), {"past": t - 1}) == want


def test_plain_cases_are_plain_polynomials() -> None:
    """So that a formula reads as in a paper: s(s+1)/2 pairs, s·past more against a cache, s·t without a mask."""
    assert twice_allowed_pairs(S, S, True, 0) == S * (S + 1)
    assert twice_allowed_pairs(S, P + S, True, 0) == S * (S + 1) + 2 * S * P
    assert twice_allowed_pairs(1, P + 1, True, 0) == 2 * P + 2
    assert twice_allowed_pairs(S, T, False, 0) == 2 * S * T
    assert twice_allowed_pairs(1, P + 1, True, 8) == 2 * dims.minimum(P + 1, 8)


@pytest.mark.parametrize(("attrs", "pairs"), [
    ({}, 5 * 5), ({"causal": True}, 15), ({"causal": True, "window": 2}, 9), ({"window": 2}, 13),
])  # fmt: skip
def test_flops_by_hand(attrs: dict[str, object], pairs: int) -> None:
    """5 queries at 5 keys, 3 rows, 6 heads of 4 and values of 7: products and softmax of the pairs that are allowed."""
    q, k, v = (TensorType(f32, (3, 5, heads, size)) for heads, size in ((6, 4), (2, 4), (2, 7)))
    op = get("attention")
    work = op.work((q.with_shape(3, 5, 6, 7),), (q, k, v), op.complete_attrs({"scale": 0.5, **attrs}))
    each = 2 * (4 + 7) + 4
    assert work.flops == 3 * 6 * pairs * each
    assert work.hardware_flops == 3 * 6 * 25 * each
