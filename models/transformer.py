"""The original encoder-decoder Transformer in plain torch, with padding masks for both texts.

Source: Vaswani et al. 2017, "Attention Is All You Need". As `nn.Transformer` has it: one more norm after each stack.
Legend: b batch, s source length, t target length, d features.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class Transformer(nn.Module):
    """Embeddings scaled by sqrt(d) plus sinusoids, `nn.Transformer`, and a head that shares the embeddings' weights."""

    def __init__(self, vocab_size: int = 37000, d_model: int = 512, heads: int = 8, layers: int = 6,
                 feedforward: int = 2048, max_positions: int = 1024) -> None:  # fmt: skip
        super().__init__()
        self.embed = nn.Embedding(vocab_size, d_model)
        nn.init.normal_(self.embed.weight, std=d_model**-0.5)
        self.transformer = nn.Transformer(d_model, heads, layers, layers, feedforward, batch_first=True)
        self.register_buffer("positions", sinusoids(max_positions, d_model), persistent=False)
        self.scale = d_model**0.5

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor,
                decoder_attention_mask: Tensor) -> dict[str, Tensor]:  # fmt: skip
        """input_ids and attention_mask [b, s], decoder_input_ids and decoder_attention_mask [b, t] -> logits [b, t, v].

        The masks are 1 where a token is real. What stands at padding is finite, also before the first real token.
        """
        dtype = self.embed.weight.dtype
        padding_bs = attention_mask == 0
        # Not -inf: a row of the target that may see nothing but padding would be NaN, and spoil its neighbours.
        padding_bt = torch.zeros(decoder_attention_mask.shape, dtype=dtype, device=padding_bs.device).masked_fill(
            decoder_attention_mask == 0, torch.finfo(dtype).min
        )
        ahead_tt = nn.Transformer.generate_square_subsequent_mask(
            decoder_input_ids.shape[1], device=padding_bs.device, dtype=dtype
        )
        out_btd = self.transformer(
            self._embedded(input_ids), self._embedded(decoder_input_ids), tgt_mask=ahead_tt,
            src_key_padding_mask=padding_bs, memory_key_padding_mask=padding_bs, tgt_key_padding_mask=padding_bt,
            src_is_causal=False, tgt_is_causal=True, memory_is_causal=False,
        )  # fmt: skip
        return {"logits": nn.functional.linear(out_btd, self.embed.weight)}

    def _embedded(self, ids: Tensor) -> Tensor:
        positions: Any = self.positions
        return self.embed(ids) * self.scale + positions[: ids.shape[1]]


def sinusoids(positions: int, d_model: int) -> Tensor:
    """[positions, d_model]: sines in the even features, cosines in the odd ones, of ever longer waves."""
    place = torch.arange(positions, dtype=torch.float32)[:, None]
    angle = place * torch.exp(torch.arange(0, d_model, 2, dtype=torch.float32) * (-math.log(10000.0) / d_model))
    return torch.stack((angle.sin(), angle.cos()), dim=-1).reshape(positions, d_model)
