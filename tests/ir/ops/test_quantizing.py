"""Putting a matrix into few bits: as near as the bits allow, and never worse than the plain scale."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tundish.ir.dtypes import f32
from tundish.ir.op import OPS, get
from tundish.ir.packing import pack, unpack
from tundish.ir.tensor import TensorType

get("quantize")  # fills OPS


def there_and_back(w: np.ndarray, bits: int, group: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(scale, q, what q stands for)."""
    scale = OPS["quantize_scale"].reference(w, bits=bits, group=group)
    q = OPS["quantize"].reference(w, scale, bits=bits, group=group)
    back = OPS["dequantize"].reference(q, scale, None, bits=bits, group=group, axis=1, scheme="centred", dtype=f32)
    return scale, q, back


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 3, 4, 8]), st.sampled_from([4, 8, 16]), st.integers(-30, 30))
def test_error_is_at_most_that_of_the_plain_scale(seed: int, bits: int, group: int, power: int) -> None:
    """The plain scale puts the largest number at the end of the range; the search may only do better."""
    w = (np.random.default_rng(seed).standard_normal((5, 16)) * 2.0**power).astype(np.float32)
    _, _, back = there_and_back(w, bits, group)
    x, half = w.reshape(5, -1, group).astype(np.float64), 1 << (bits - 1)
    plain = np.take_along_axis(x, np.abs(x).argmax(-1)[..., None], -1) / -half
    rounded = np.clip(np.rint(x / plain), -half, half - 1) * plain
    found = ((back.reshape(x.shape) - x) ** 2).sum(-1)
    assert (found <= ((rounded - x) ** 2).sum(-1) * (1 + 1e-4) + 1e-12 * (x**2).sum(-1)).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_what_the_bits_hold_comes_back_as_it_was(bits: int) -> None:
    """Whole multiples of a scale, with the end of the range among them, lose nothing: by every sign of the scale."""
    rng = np.random.default_rng(0)
    half = 1 << (bits - 1)
    whole = rng.integers(-half, half, (6, 64))
    whole[:, ::16] = -half
    for unit in (0.25, -0.25, 3.0):
        w = (whole * unit).astype(np.float32)
        scale, q, back = there_and_back(w, bits, 16)
        np.testing.assert_allclose(back, w, rtol=1e-6)
        assert q.astype(int).min() >= 0 and q.astype(int).max() < 2 * half
        np.testing.assert_allclose(np.abs(scale), abs(unit), rtol=1e-6)


def test_zeros_and_infinitely_small_groups_are_zero() -> None:
    w = np.zeros((2, 8), np.float32)
    w[1, 4:] = 1e-45
    scale, q, back = there_and_back(w, 4, 4)
    assert (q.astype(int) == 8).all() and not back.any() and np.isfinite(scale).all()


def test_rows_are_worked_on_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    w = np.random.default_rng(0).standard_normal((7, 32)).astype(np.float32)
    whole = there_and_back(w, 4, 16)
    monkeypatch.setattr("tundish.ir.ops.quantizing.CHUNK", 64)
    for a, b in zip(whole, there_and_back(w, 4, 16), strict=True):
        np.testing.assert_array_equal(a, b)


def test_packed_rows_are_those_of_the_kernels() -> None:
    """Two numbers in a byte, the first in the lower half; rows of an even length begin with a byte of their own."""
    _, q, _ = there_and_back(np.random.default_rng(0).standard_normal((6, 32)).astype(np.float32), 4, 16)
    data, whole = pack(q), q.astype(np.uint8)
    np.testing.assert_array_equal(data.reshape(6, 16), whole[:, 0::2] | whole[:, 1::2] << 4)
    np.testing.assert_array_equal(unpack(data, TensorType(get("quantize").infer(
        TensorType(f32, (6, 32)), TensorType(f32, (6, 2)), bits=4, group=16).dtype, (6, 32))).astype(np.uint8), whole)
