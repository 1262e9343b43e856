"""Attention, norms and GELU as people write them in torch: captured and compiled, the ops are found, numbers stay."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from compiler_kit import same_numbers, task
from torch import nn
from torch.nn import functional as F

from tundish.compiler.driver import compile_program
from tundish.ir.capture.from_torch import capture
from tundish.ir.walk import op_counts

INF = float("inf")
CAUSAL = {
    "a tril of ones, filled with -inf": lambda s, t: s.masked_fill(torch.tril(torch.ones(t, t)) == 0, -INF),
    "a tril of ones, filled with -1e9": lambda s, t: s.masked_fill(torch.tril(torch.ones(t, t)) == 0, -1e9),
    "a triu of -inf, added": lambda s, t: s + torch.triu(torch.full((t, t), -INF), 1),
    "positions compared": lambda s, t: torch.where(torch.arange(t)[None] <= torch.arange(t)[:, None], s, -INF),
}


class Block(nn.Module):
    """nanoGPT's attention with a pre-norm, grouped keys where `groups` is smaller, and a residual."""

    def __init__(self, mask, heads: int = 4, groups: int = 4) -> None:
        super().__init__()
        self.mask, self.heads, self.groups = mask, heads, groups
        self.q, self.kv, self.out = nn.Linear(16, 16), nn.Linear(16, 8 * groups), nn.Linear(16, 16)
        self.gain = nn.Parameter(torch.rand(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, d = x.shape
        h = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.gain
        k, v = self.kv(h).chunk(2, dim=-1)
        k, v = (z.view(b, t, self.groups, 4).transpose(1, 2) for z in (k, v))
        if self.groups < self.heads:
            shape = (b, self.groups, self.heads // self.groups, t, 4)
            k, v = (z[:, :, None].expand(shape).reshape(b, self.heads, t, 4) for z in (k, v))
        q = self.q(h).view(b, t, self.heads, 4).transpose(1, 2)
        scores = self.mask((q @ k.transpose(-2, -1)) / math.sqrt(4), t)
        return x + self.out((F.softmax(scores, -1) @ v).transpose(1, 2).reshape(b, t, d))


class Stack(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class Head(nn.Module):
    """A layer norm and both kinds of GELU, written out."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(16)), nn.Parameter(torch.rand(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-12)
        x = self.weight * x + self.bias
        x = x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))
        return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


def compiled(module: nn.Module):
    """The plan's program and its op counts, after holding its numbers against the captured program's."""
    program = capture(module.eval(), {"x": torch.randn(2, 5, 16)}, {"x": {0: "batch", 1: "seq"}})
    plan = compile_program(program, task(), verify_each=True)
    draw = np.random.default_rng(0).standard_normal
    shapes = ((2, 7), (1, 1), (3, 17))
    same_numbers(program, plan.program, *({"x": draw((*s, 16)).astype(np.float32)} for s in shapes))
    return plan.program, op_counts(plan.program)


@pytest.mark.parametrize("written", CAUSAL)
def test_a_causal_transformer_is_attention_and_norms_only(written: str) -> None:
    program, counts = compiled(Stack(*(Block(CAUSAL[written]) for _ in range(2))))
    assert counts == {"weight": 14, "linear": 6, "reshape": 8, "add": 2, "attention": 2, "rms_norm": 2, "split": 2}
    found = [n for g in program.functions.values() for n in g.nodes if n.op.name == "attention"]
    assert all(n.attrs["causal"] and n.inputs[3] is None and n.attrs["scale"] == 0.5 for n in found)


def test_repeated_keys_are_grouped_heads() -> None:
    program, counts = compiled(Block(lambda s, t: s, groups=2))
    assert "expand" not in counts and "transpose" not in counts
    (node,) = (n for g in program.functions.values() for n in g.nodes if n.op.name == "attention")
    assert node.inputs[1] is not None and node.inputs[1].type.shape[2] == 2 and not node.attrs["causal"]


def test_layer_norm_and_gelu() -> None:
    assert compiled(Head())[1] == {"gelu": 2, "weight": 2, "layer_norm": 1}
