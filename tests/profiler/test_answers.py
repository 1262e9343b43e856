from __future__ import annotations

import numpy as np

from tundish.profiler.answers import Reference, difference, reference

ROWS = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
WANTED = Reference("torch", {"hidden": ROWS, "pooled": np.ones((2, 2), np.float32)})
POOLED = WANTED.outputs["pooled"]


def test_equal_answers() -> None:
    assert difference([("pooled", POOLED), ("hidden", ROWS)], WANTED, {}).max_abs == 0.0
    assert not difference([("pooled", POOLED), ("hidden", ROWS)], WANTED, {}).problem


def test_the_largest_difference_of_all_outputs() -> None:
    got = difference([("hidden", ROWS), ("pooled", POOLED + 0.25)], WANTED, {})
    assert got.max_abs == 0.25 and "pooled differs from torch by 0.25" in got.problem


def test_an_output_that_only_one_has_is_left_out() -> None:
    assert difference([("hidden", ROWS), ("more", POOLED)], WANTED, {}) == difference([("hidden", ROWS)], WANTED, {})


def test_outputs_that_have_no_name_go_by_order() -> None:
    assert difference([("a", ROWS), ("b", POOLED + 1)], WANTED, {}).max_abs == 1.0
    nothing = difference([("a", ROWS)], WANTED, {})
    assert nothing.max_abs is None and "no output of torch's" in nothing.problem


def test_another_shape_is_another_answer() -> None:
    assert "pooled is [2], not [2, 2]" in difference([("pooled", POOLED[0])], WANTED, {}).problem


def test_padding_does_not_count() -> None:
    odd = ROWS.copy()
    odd[0, 2] = 99.0
    mask = {"attention_mask": np.array([[1, 1, 0], [1, 1, 1]])}
    assert not difference([("hidden", odd)], WANTED, mask).problem
    assert difference([("hidden", odd)], WANTED, {}).problem


def test_not_a_number_is_another_answer_unless_it_is_the_original_s() -> None:
    odd = ROWS.copy()
    odd[0, 0, 0] = np.nan
    got = difference([("hidden", odd)], WANTED, {})
    assert got.problem and np.isnan(got.max_abs)
    assert not difference([("hidden", odd)], Reference("torch", {"hidden": odd}), {}).problem


def test_the_original_s_own_rounding_widens_the_tolerance() -> None:
    exact = {"hidden": ROWS.astype(np.float64) + 1e-3, "pooled": POOLED.astype(np.float64)}
    noisy = reference("torch", WANTED.outputs, exact)
    assert difference([("hidden", ROWS + np.float32(2e-3))], WANTED, {}).problem
    assert not difference([("hidden", ROWS + np.float32(2e-3))], noisy, {}).problem
    assert difference([("pooled", POOLED + np.float32(2e-3))], noisy, {}).problem
