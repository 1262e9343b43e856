"""Buffers that are triangles: said as comparisons, cut as models cut them, anything else left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tundish.ir.build import Builder
from tundish.ir.capture.from_torch import capture
from tundish.ir.capture.triangles import triangle
from tundish.ir.evaluate import evaluate
from tundish.ir.graph import Program

INF = np.float32(-np.inf)
TABLES = {
    "tril": np.tril(np.ones((6, 6), np.float32)),
    "bool": np.tril(np.ones((5, 5), bool))[None, None],
    "blocked": np.triu(np.ones((5, 5), bool), 1),
    "bytes": np.tril(np.ones((1, 4, 4), np.uint8)),
    "ahead": np.tril(np.ones((5, 7), np.int64), 2),
    "behind": np.tril(np.ones((5, 5), np.int32), -1),
    "added": np.triu(np.full((6, 6), INF), 1),
    "minus": np.triu(np.full((6, 6), np.float32(-1e4)), 1),
}
OTHERS = {
    "all ones": np.ones((4, 4)), "identity": np.eye(4), "one off": np.tril(np.ones((5, 5))) + np.eye(5)[::-1] * 2,
    "a vector": np.array([0.0, 1.0]), "two of them": np.tril(np.ones((2, 4, 4))),
    "too long for a float": np.tril(np.full((4, 4), 2**60 + 1)), "nan": np.triu(np.full((3, 3), np.nan)),
    "upper": np.triu(np.ones((4, 4)), 2)[::-1], "random": np.random.default_rng(0).normal(size=(5, 5)),
}  # fmt: skip


def drawn(found) -> np.ndarray:
    b = Builder()
    return evaluate(Program({"main": b.finish([found.draw(b.emit)], ["y"])}, ("main",)), {})["y"]


@pytest.mark.parametrize("name", TABLES)
def test_is_drawn_as_it_stands(name: str):
    found = triangle(TABLES[name])
    assert found is not None
    got = drawn(found)
    assert got.dtype == TABLES[name].dtype
    np.testing.assert_array_equal(got, TABLES[name])


@pytest.mark.parametrize("name", TABLES)
def test_is_cut_as_arrays_are(name: str):
    found = triangle(TABLES[name])
    assert found is not None
    cut = found.cut(-2, 1, 3).cut(-1, 2, 2).cut(-2, 1, 2)
    np.testing.assert_array_equal(drawn(cut), TABLES[name][..., 2:4, 2:4])


@pytest.mark.parametrize("name", OTHERS)
def test_other_tables_are_left(name: str):
    assert triangle(OTHERS[name]) is None


def test_a_meta_tensor_is_none():
    assert triangle(None) is None


class Cuts(nn.Module):
    """A triangle, a parameter that looks like one, and an ordinary table, all cut to the length."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tril(torch.ones(16, 16)))
        self.register_buffer("table", torch.randn(16, 16))
        self.learned = nn.Parameter(torch.tril(torch.ones(16, 16)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = x.shape[1]
        return x[:, None] * self.mask[:n, :n] + self.table[:n, :n] + self.learned[:n, :n] + self.mask.sum()


def test_only_buffers_are_drawn():
    module = Cuts().eval()
    program = capture(module, {"x": torch.randn(2, 5)}, {"x": {0: "batch", 1: "seq"}})
    assert set(program.weights) == {"table", "learned"}
    for n in (1, 7, 16):
        x = torch.randn(3, n)
        want = module(x).detach().numpy()
        np.testing.assert_allclose(evaluate(program, {"x": x.numpy()})["output"], want, rtol=1e-5, atol=1e-5)
