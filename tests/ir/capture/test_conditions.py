"""Python conditions on sizes: tracing goes one way, so sizes at which the other would be taken are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tundish.ir.capture.from_torch import capture
from tundish.ir.diagnostics import CaptureError
from tundish.ir.dims import Range
from tundish.ir.evaluate import evaluate


def captured(f, seq: Range | None = None, other: bool = False):
    class Module(nn.Module):
        def forward(self, x, y=None):
            return f(x, y) if other else f(x)

    axes = {"x": {0: "batch", 1: "seq"}}
    inputs = {"x": torch.rand(2, 7, 4)}
    if other:
        inputs["y"], axes["y"] = torch.rand(2, 9, 4), {0: "batch", 1: "y_seq"}
    module = Module().eval()
    return module, capture(module, inputs, axes, ranges={"seq": seq or Range(1, 64), "y_seq": Range(1, 64)})


def even(x):
    if x.shape[1] % 2 == 0:
        return x * 2
    return x + 1


def alike(x, y):
    if x.shape[1] == y.shape[1]:
        return (x + y).sum(1)
    return x.sum(1) * y.sum(1)


def by_quarters(x):
    if x.shape[1] % (x.shape[1] // 4) == 0:
        return x * 2
    return x + 1


def in_blocks(x):
    if x.shape[1] % 512 == 0:
        return x * 2
    return x + 1


@pytest.mark.parametrize(
    ("f", "seq", "other", "said"),
    [
        (even, None, False, ("(seq%2) != 0", "seq=2")),
        (by_quarters, None, False, ("(seq%(seq//4)) == 0", "seq=2")),
        (alike, None, True, ("seq != y_seq", "seq=2, y_seq=2")),
        (in_blocks, Range(1, 4096), False, ("(seq%512) != 0", "seq=512")),
        (in_blocks, Range(1, None), False, ("(seq%512) != 0", "seq=512")),
    ],
)
def test_a_condition_that_other_sizes_answer_otherwise_is_refused(f, seq, other, said) -> None:
    with pytest.raises(CaptureError) as caught:
        captured(f, seq, other)
    error = caught.value
    assert error.problem == "a Python condition goes one way at some sizes and another way at others"
    assert error.where is not None and error.where.file.endswith("test_conditions.py")
    line = f.__code__.co_firstlineno + 1
    assert error.where.line == line, "the condition's own line"
    assert all(part in error.found for part in said)
    assert "fix" in error.hint


def test_a_condition_that_all_allowed_sizes_answer_alike_is_none() -> None:
    module, program = captured(in_blocks, Range(1, 511))
    x = np.random.default_rng(0).standard_normal((2, 12, 4), np.float32)
    np.testing.assert_allclose(evaluate(program, {"x": x})["output"], x + 1, atol=1e-6)


def test_what_is_true_of_every_size_is_no_condition() -> None:
    """As XLNet moves its relative scores: torch asks whether shapes divide, and they always do."""

    def moved(x):
        rows = torch.einsum("bsd,btd->bst", x, torch.cat([x, x[:, 1:]], 1))
        b, s, t = rows.shape
        return rows.reshape(b, t, s)[:, 1:].reshape(b, s, t - 1)[:, :, :s]

    module, program = captured(moved)
    x = np.random.default_rng(0).standard_normal((2, 12, 4), np.float32)
    (got,) = evaluate(program, {"x": x}).values()
    np.testing.assert_allclose(got, module(torch.from_numpy(x)).numpy(), atol=1e-4)


def test_a_size_of_one_that_goes_another_way_is_left_out() -> None:
    """torch takes 1 to be like no other size and never asks, so the bundle would answer it by the other way."""

    def single(x):
        if x.shape[1] == 1:
            return x * 2
        return x + 1

    _, program = captured(single)
    assert program.symbols["seq"] == Range(2, 64) and program.symbols["batch"].low == 1
    with pytest.raises(CaptureError) as caught:
        captured(single, Range(1, 1))
    assert "seq != 1" in caught.value.found and caught.value.where.line == single.__code__.co_firstlineno + 1
