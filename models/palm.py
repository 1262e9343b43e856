"""PaLM in plain torch: attention and feed-forward in parallel, one key head for all queries, no biases.

Source: Chowdhery et al. 2022, "PaLM: Scaling Language Modeling with Pathways", section 2 and Table 1.
Legend: b batch, s length, d features, h heads, k size of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Palm(nn.Module):
    """Embeddings shared with the head, `layers` parallel layers, one more norm.

    There is no mask: a causal model's answers at real tokens do not change with what is padded behind them.
    """

    def __init__(self, vocab_size: int = 256_000, d_model: int = 18_432, heads: int = 48, head_size: int = 256,
                 layers: int = 118, feedforward: int = 73_728, max_positions: int = 2048) -> None:  # fmt: skip
        super().__init__()
        self.embed = nn.Embedding(vocab_size, d_model)
        nn.init.normal_(self.embed.weight)
        self.layers = nn.ModuleList(Layer(d_model, heads, head_size, feedforward) for _ in range(layers))
        self.norm = nn.LayerNorm(d_model, bias=False)
        frequencies = 10_000.0 ** (-torch.arange(0, head_size, 2, dtype=torch.float32) / head_size)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.scale = d_model**-0.5

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        """input_ids [b, s] -> logits [b, s, vocabulary], scaled by 1 / sqrt(d) as the shared embeddings need."""
        frequencies: Any = self.frequencies
        places = torch.arange(input_ids.shape[1], device=input_ids.device, dtype=torch.float32)
        angles_sk = torch.cat((places[:, None] * frequencies,) * 2, -1)
        x_bsd = self.embed(input_ids)
        cos, sin = angles_sk.cos().to(x_bsd.dtype), angles_sk.sin().to(x_bsd.dtype)
        for layer in self.layers:
            x_bsd = layer(x_bsd, cos, sin)
        return {"logits": functional.linear(self.norm(x_bsd), self.embed.weight) * self.scale}


class Layer(nn.Module):
    """x + attention(norm(x)) + feed_forward(norm(x)), one norm for both."""

    def __init__(self, d_model: int, heads: int, head_size: int, feedforward: int) -> None:
        super().__init__()
        self.heads, self.head_size = heads, head_size
        self.norm = nn.LayerNorm(d_model, bias=False)
        self.q = nn.Linear(d_model, heads * head_size, bias=False)
        self.k, self.v = (nn.Linear(d_model, head_size, bias=False) for _ in range(2))
        self.out = nn.Linear(heads * head_size, d_model, bias=False)
        self.gate, self.up = (nn.Linear(d_model, feedforward, bias=False) for _ in range(2))
        self.down = nn.Linear(feedforward, d_model, bias=False)

    def forward(self, x_bsd: Tensor, cos_sk: Tensor, sin_sk: Tensor) -> Tensor:
        y_bsd = self.norm(x_bsd)
        mixed_bsd = self.out(self._attention(y_bsd, cos_sk, sin_sk))
        return x_bsd + mixed_bsd + self.down(functional.silu(self.gate(y_bsd)) * self.up(y_bsd))

    def _attention(self, y_bsd: Tensor, cos_sk: Tensor, sin_sk: Tensor) -> Tensor:
        def split(z: Tensor) -> Tensor:
            return z.view(z.shape[0], z.shape[1], -1, self.head_size).transpose(1, 2)

        q_bhsk, k_b1sk = (turned(split(z), cos_sk, sin_sk) for z in (self.q(y_bsd), self.k(y_bsd)))
        z_bhsk = functional.scaled_dot_product_attention(
            q_bhsk, k_b1sk, split(self.v(y_bsd)), is_causal=True, enable_gqa=True
        )
        return z_bhsk.transpose(1, 2).flatten(2)


def turned(x_bhsk: Tensor, cos_sk: Tensor, sin_sk: Tensor) -> Tensor:
    """Rotary positions: feature i and feature i + k/2 are a pair, turned by the angle of their place.

    Source: Su et al. 2021, "RoFormer".
    """
    low, high = x_bhsk.chunk(2, -1)
    return x_bhsk * cos_sk + torch.cat((-high, low), -1) * sin_sk
