"""The yardstick itself: what counts as equal, what is left out, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from tundish.backends.cases import Case, Cases
from tundish.ir.build import Builder
from tundish.ir.diagnostics import LoadError, RunError, Where
from tundish.ir.dims import Range, symbol
from tundish.ir.dtypes import boolean, f32
from tundish.ir.graph import Program
from tundish.ir.tensor import TensorType
from tundish.profiler.parity import TOLERANCE, attends, compare, counting, record


def attention_program(causal: bool, window: int = 0) -> Program:
    b, s = symbol("batch"), symbol("seq")
    to = Builder(Where("model.py", 1))
    q = to.input("q", TensorType(f32, (b, s, 2, 4)))
    mask = to.input("attention_mask", TensorType(boolean, (b, s)))
    y = to.emit("attention", q, q, q, mask, scale=0.5, causal=causal, window=window)
    return Program({"forward": to.finish([y], ["y"])}, ("forward",), {}, {"batch": Range(), "seq": Range()})


def test_positions_that_attend_to_nothing() -> None:
    left = np.array([[0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
    assert attends(attention_program(True), left).tolist() == [
        [False, False, True, True], [True] * 4, [False] * 4]  # fmt: skip
    assert attends(attention_program(False), left).tolist() == [[True] * 4, [True] * 4, [False] * 4]
    assert attends(attention_program(True, window=1), left)[1].tolist() == [True, True, False, False]


def two_texts() -> Program:
    """A causal target that also attends to a source."""
    b, s, t = symbol("batch"), symbol("seq"), symbol("target_seq")
    to = Builder(Where("model.py", 1))
    x, y = (to.input(n, TensorType(f32, (b, size, 2, 4))) for n, size in (("x", s), ("y", t)))
    mask = to.input("attention_mask", TensorType(boolean, (b, s)))
    other = to.input("decoder_attention_mask", TensorType(boolean, (b, t)))
    x = to.emit("attention", x, x, x, mask, scale=0.5)
    y = to.emit("attention", y, y, y, other, scale=0.5, causal=True)
    y = to.emit("attention", y, x, x, mask, scale=0.5)
    graph = to.finish([y, x, to.emit("sum", x, axes=(1, 2, 3))], ["target", "source", "sum"])
    return Program({"forward": graph}, ("forward",), {}, {n: Range() for n in ("batch", "seq", "target_seq")})


@pytest.mark.parametrize("target", [4, 5])
def test_each_output_counts_by_the_mask_of_its_own_length(target: int) -> None:
    real, other = np.ones((3, 4), bool), np.ones((3, target), bool)
    real[0, :2] = other[1, :3] = real[2] = False
    given = {"x": np.ones((3, 4, 2, 4)), "y": np.ones((3, target, 2, 4)), "attention_mask": real,
             "decoder_attention_mask": other}  # fmt: skip
    counted = counting(two_texts(), given)
    assert set(counted) == {"target", "source"}
    assert counted["source"].tolist() == [[True] * 4, [True] * 4, [False] * 4]
    assert counted["target"].tolist() == [[True] * target, [False] * 3 + [True] * (target - 3), [False] * target]


def test_a_second_texts_rows_are_stored_by_its_own_mask() -> None:
    program, left = two_texts(), np.array([[False, True, True]])
    given = {"x": np.ones((1, 4, 2, 4)), "y": np.ones((1, 3, 2, 4)), "attention_mask": np.ones((1, 4), bool),
             "decoder_attention_mask": left}  # fmt: skip
    answers = {"target": np.arange(24.0).reshape(1, 3, 2, 4), "source": np.zeros((1, 4, 2, 4)), "sum": np.zeros(1)}
    stored = record(lambda _: answers, [("left", given)], program, "torch")
    (case,) = stored.cases
    assert case.rows["target"].tolist() == [1, 2] and case.outputs["target"].min() == 8.0
    wrong = {**answers, "target": answers["target"] + np.where(left, 0.0, 9.0)[..., None, None]}
    assert compare(lambda _: wrong, stored, "f32").passed, "what padding holds is not compared"
    assert not compare(lambda _: {**answers, "target": answers["target"] + 1}, stored, "f32").passed


def cases(array: np.ndarray, rows: dict[str, np.ndarray] | None = None) -> Cases:
    return Cases("torch", [Case("one", "forward", {"x": np.zeros(1)}, {"y": array}, rows or {})])


def test_the_tolerance_is_a_share_of_the_largest_value() -> None:
    want = np.array([[1.0, 200.0]], np.float32)
    allowed = TOLERANCE["f32"] * 200
    assert compare(lambda x: {"y": want + np.float32(0.9 * allowed)}, cases(want), "f32").passed
    report = compare(lambda x: {"y": want + np.float32(1.2 * allowed)}, cases(want), "f32")
    assert not report.passed and report.outputs[0].tolerance == pytest.approx(allowed)
    assert report.outputs[0].max_abs_error == pytest.approx(1.2 * allowed, rel=0.05)


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_what_is_not_finite_fails_even_where_rows_are_left_out(odd: float) -> None:
    answer = np.array([[[1.0], [odd]]], np.float32)
    kept = cases(np.array([[1.0]], np.float32), {"y": np.array([0])})
    assert not compare(lambda x: {"y": answer}, kept, "f32").passed


def test_a_missing_output_and_a_wrong_shape_are_named() -> None:
    want = np.zeros((2, 2), np.float32)
    with pytest.raises(RunError, match="no output 'y'"):
        compare(lambda x: {"z": want}, cases(want), "f32")
    with pytest.raises(RunError, match="another shape"):
        compare(lambda x: {"y": want[:1]}, cases(want), "f32")


@pytest.mark.parametrize(("causal", "window", "kept"), [(False, 2, False), (False, 4, True), (True, 2, True)])
def test_an_answer_that_may_be_read_at_a_blind_position_is_left_out(causal: bool, window: int, kept: bool) -> None:
    """As ModernBERT's classes are, at a first token that is padding too far from any real one."""
    given = {"q": np.zeros((1, 4, 2, 4), np.float32), "attention_mask": np.array([[0, 0, 0, 1]])}
    pooled = np.ones((1, 7), np.float32)
    made = record(lambda x: {"y": pooled}, [("padding left", given)], attention_program(causal, window), "torch")
    assert ("y" in made.cases[0].outputs) == kept


def test_long_outputs_are_sampled_and_padding_is_left_out() -> None:
    program = attention_program(True)
    mask = np.ones((1, 2000), np.int64)
    mask[:, :500] = 0
    big = np.random.default_rng(0).standard_normal((1, 2000, 1000)).astype(np.float32)
    given = {"q": np.zeros((1, 2000, 2, 4), np.float32), "attention_mask": mask}
    made = record(lambda x: {"y": big}, [("long", given)], program, "torch")
    case = made.cases[0]
    assert len(case.rows["y"]) == 48 and case.rows["y"].min() >= 500
    assert compare(lambda x: {"y": big}, made, "f32").passed
    spoilt = big.copy()
    spoilt[0, case.rows["y"][3]] += 1
    assert not compare(lambda x: {"y": spoilt}, made, "f32").passed


@pytest.mark.parametrize(("noise", "off", "passed"), [(0.0, 2e-5, False), (1e-4, 2e-4, True), (1e-4, 4e-4, False),
                                                      (5.0, 5e-4, True), (5.0, 0.5, False)])  # fmt: skip
def test_the_originals_rounding_widens_the_tolerance_up_to_a_bound(noise: float, off: float, passed: bool) -> None:
    """An original that is far from itself in f64 must not excuse a bundle that computes something else."""
    right = np.ones((1, 3), np.float32)
    stored = Cases("torch", [Case("one", "forward", {"x": np.zeros(1)}, {"y": right}, {}, {"y": noise})])
    assert compare(lambda _: {"y": right + np.float32(off)}, stored, "f32").passed == passed


@pytest.mark.parametrize("rows", [np.array([2]), np.array([-1]), np.array([[0]]), np.array([0.0])])
def test_rows_that_an_output_does_not_have_are_refused(rows: np.ndarray) -> None:
    stored = cases(np.zeros((1, 3), np.float32), {"y": rows})
    with pytest.raises(LoadError, match="rows that output 'y' does not have"):
        compare(lambda x: {"y": np.zeros((1, 2, 3), np.float32)}, stored, "f32")


def test_what_is_not_finite_in_the_original_is_left_out_and_said() -> None:
    program = attention_program(False)
    given = {"q": np.zeros((1, 3, 2, 4), np.float32), "attention_mask": np.ones((1, 3), bool)}
    odd = np.ones((1, 3, 2, 4), np.float32)
    odd[0, 1], odd[0, 2, 0, 0] = np.nan, np.inf
    made = record(lambda _: {"y": odd}, [("odd", given)], program, "torch", lambda _: {"y": odd.astype(np.float64)})
    assert made.cases[0].rows["y"].tolist() == [0, 2] and made.cases[0].noise == {"y": 0.0}
    report = compare(lambda _: {"y": np.where(np.isfinite(odd), odd, 7)}, made, "f32")
    assert report.passed and "y: what is NaN or infinite in the original was not compared (1 cases)" in report.notes
    assert not compare(lambda _: {"y": np.where(np.isfinite(odd), 2, odd)}, made, "f32").passed
    assert not compare(lambda _: {"y": np.full_like(odd, np.nan)}, made, "f32").passed
    nothing = record(lambda _: {"y": odd * np.nan}, [("odd", given)], program, "torch")
    with pytest.raises(LoadError, match="answered no finite number"):
        compare(lambda _: {"y": odd}, nothing, "f32")
