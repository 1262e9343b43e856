"""Real captures: every family's layers are one function, and unfolding gives the capture back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tundish.ir.capture.from_torch import capture
from tundish.ir.evaluate import evaluate
from tundish.ir.fold import fold, unfold
from tundish.ir.graph import Program
from tundish.ir.text import from_text, same, to_text
from tundish.ir.verify import verify

LAYERS = 3
SMALL = {"vocab_size": 50}
AXES = {0: "batch", 1: "seq"}


def bert() -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(hidden_size=16, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=32,
                                max_position_embeddings=32, **SMALL))  # fmt: skip


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=LAYERS, n_head=2, n_positions=32, bos_token_id=0,
                                      eos_token_id=0, **SMALL))  # fmt: skip


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(hidden_size=16, num_hidden_layers=LAYERS, num_attention_heads=2,
                                        num_key_value_heads=1, intermediate_size=32, **SMALL))  # fmt: skip


class Block(torch.nn.Module):
    """A hand-written pre-norm block with attention in plain matrix products."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = torch.nn.LayerNorm(d), torch.nn.LayerNorm(d)
        self.qkv, self.out = torch.nn.Linear(d, 3 * d), torch.nn.Linear(d, d)
        self.up, self.down = torch.nn.Linear(d, 4 * d), torch.nn.Linear(4 * d, d)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        scores = torch.softmax(q @ k.transpose(-1, -2) * 0.25, dim=-1)
        x = x + self.out(scores @ v)
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm2(x))))


class Handwritten(torch.nn.Module):
    """A transformer whose blocks are attributes, not a list."""

    def __init__(self, d: int = 16) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(50, d)
        self.first, self.second, self.third = Block(d), Block(d), Block(d)
        self.norm = torch.nn.LayerNorm(d)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.norm(self.third(self.second(self.first(self.embed(input_ids)))))


def captured(module: Any, **constants: Any) -> tuple[Program, dict[str, np.ndarray]]:
    torch.manual_seed(0)
    ids = torch.randint(0, 50, (2, 5))
    inputs = {"input_ids": ids}
    if not isinstance(module, Handwritten):
        inputs["attention_mask"] = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    program = capture(module.eval(), inputs, {name: AXES for name in inputs}, constants=constants)
    return program, {name: t.numpy() for name, t in inputs.items()}


@pytest.mark.parametrize(
    ("make", "constants"),
    [(bert, {}), (gpt2, {"use_cache": False}), (llama, {"use_cache": False}), (Handwritten, {})],
)
def test_layers_are_one_function_and_come_back(make: Any, constants: dict[str, Any]) -> None:
    program, inputs = captured(make(), **constants)
    folded = verify(fold(program))
    calls = [n for n in folded.entry.nodes if n.op.name == "call"]
    assert len(calls) == LAYERS
    assert len({n.attrs["function"] for n in calls}) == 1
    assert len(folded.functions) == 2
    assert same(unfold(folded), program)
    assert same(from_text(to_text(folded), weights=folded.weights), folded)
    before, after = evaluate(program, inputs), evaluate(folded, inputs)
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)
