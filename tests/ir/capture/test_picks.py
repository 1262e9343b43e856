"""Sizes that hang on values: the last marked position of each row is one op; what the model checks is left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tundish.ir.capture.from_torch import capture
from tundish.ir.diagnostics import CaptureError
from tundish.ir.evaluate import evaluate

AXES = {"x": {0: "batch", 1: "seq"}, "ids": {0: "batch", 1: "seq"}}
END = 2


class LastEnd(nn.Module):
    """As BART's and T5's classifiers find a text's end."""

    def __init__(self, which: int = -1) -> None:
        super().__init__()
        self.which = which

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        marked = ids.eq(END)
        torch._check(torch.unique_consecutive(marked.sum(1)).numel() == 1)
        picked = x[marked, :]
        torch._check(picked.shape[0] // x.shape[0] >= 1)
        return picked.view(x.size(0), -1, x.size(-1))[:, self.which, :] * 2


def sample(batch: int, seq: int, ends: int) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(batch * seq)
    ids = np.full((batch, seq), 5)
    for row in ids:
        row[rng.choice(seq, ends, replace=False)] = END
    x = rng.standard_normal((batch, seq, 4)).astype(np.float32)
    return {"x": torch.from_numpy(x), "ids": torch.from_numpy(ids)}


@pytest.mark.parametrize(("batch", "seq", "ends"), [(1, 1, 1), (3, 9, 1), (2, 6, 3)])
def test_the_last_marked_position_of_each_row(batch: int, seq: int, ends: int) -> None:
    program = capture(LastEnd(), sample(2, 7, 2), AXES)
    given = sample(batch, seq, ends)
    got = evaluate(program, {n: t.numpy() for n, t in given.items()})["output"]
    np.testing.assert_array_equal(got, LastEnd()(**given).numpy())


def test_a_row_without_a_mark_gives_its_first_position() -> None:
    """The original raises there; a compiled graph cannot."""
    program, given = capture(LastEnd(), sample(2, 7, 1), AXES), sample(2, 5, 1)
    given["ids"][0] = 5
    got = evaluate(program, {n: t.numpy() for n, t in given.items()})["output"]
    np.testing.assert_array_equal(got[0], 2 * given["x"][0, 0].numpy())


def test_the_first_marked_position_is_refused_with_the_users_line() -> None:
    with pytest.raises(CaptureError, match=r"test_picks\.py:\d+"):
        capture(LastEnd(which=0), sample(2, 7, 2), AXES)
