"""Masks: what is known to be a band becomes attributes, and whatever else a mask says stays exact."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM
from transformers import masking_utils as m

from tundish.ir.capture.from_torch import capture
from tundish.ir.capture.huggingface import classify
from tundish.ir.evaluate import evaluate

AXES = {0: "batch", 1: "seq"}
IDS = torch.zeros(2, 5, dtype=torch.long)


def test_bands_are_read_off_mask_functions() -> None:
    causal, window = m.causal_mask_function, m.sliding_window_overlay(4)
    assert classify(causal)[:2] == (True, 0)
    assert classify(m.bidirectional_mask_function)[:2] == (False, 0)
    assert classify(m.and_masks(window, causal))[:2] == (True, 4)
    assert classify(m.sliding_window_bidirectional_mask_function(4))[:2] == (False, 5), "that window holds its own edge"
    packed = classify(m.packed_sequence_compatibility_function(causal, IDS, IDS + 1))
    assert packed[:2] == (True, 0) and packed.positions is IDS and torch.equal(packed.texts, IDS + 1)


@pytest.mark.parametrize(
    "function",
    [
        m.sliding_window_overlay(4),
        m.or_masks(m.causal_mask_function, m.sliding_window_overlay(4)),
        lambda b, h, q, k: q >= k,
        m.chunked_causal_mask_function(4, torch.zeros(2, dtype=torch.long)),
        m.and_masks(m.causal_mask_function, m.remap_positions_for_packed_sequence(m.sliding_window_overlay(2), IDS)),
        m.and_masks(m.packed_sequence_mask_function(IDS), m.packed_sequence_mask_function(IDS + 1)),
    ],
    ids=["no causality", "or", "their own", "chunked", "two kinds of distance", "two kinds of texts"],
)
def test_what_is_no_band_is_not_taken_for_one(function: Callable[..., torch.Tensor]) -> None:
    assert classify(function) is None


class Renamed(nn.Module):
    """A model whose positions bear a name of the user's own."""

    def __init__(self, model: nn.Module, positions: Callable[..., torch.Tensor] | None) -> None:
        super().__init__()
        self.model, self.positions = model, positions

    def forward(self, ids: torch.Tensor, where: torch.Tensor | None = None) -> torch.Tensor:
        places = where if self.positions is None else self.positions(ids)
        return self.model(input_ids=ids, position_ids=places, use_cache=False).logits


SIZES = {
    "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
    "intermediate_size": 32, "max_position_embeddings": 64,
}  # fmt: skip


def _model(window: int = 0) -> nn.Module:
    torch.manual_seed(0)
    if window:
        config = MistralConfig(**SIZES, sliding_window=window, attn_implementation="eager")
        return MistralForCausalLM(config).eval()
    return LlamaForCausalLM(LlamaConfig(**SIZES, attn_implementation="eager")).eval()


def _agrees(module: nn.Module, program, arrays: dict[str, np.ndarray]) -> None:
    with torch.no_grad():
        want = module(**{k: torch.from_numpy(v) for k, v in arrays.items()}).numpy()
    assert np.abs(evaluate(program, arrays)["output"] - want).max() <= 1e-5


@pytest.mark.parametrize("window", [0, 3])
def test_packed_positions_of_any_name_keep_texts_apart(window: int) -> None:
    module = Renamed(_model(window), None).eval()
    sample = {"ids": torch.zeros(2, 7, dtype=torch.long), "where": torch.arange(7).expand(2, 7).contiguous()}
    program = capture(module, sample, dict.fromkeys(sample, AXES))
    rng = np.random.default_rng(0)
    for places in ([[0, 1, 2, 0, 1, 0, 1, 2, 3]], [[0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 0, 0, 1, 2, 3, 4, 5, 6]], [[0]]):
        where = np.array(places)
        _agrees(module, program, {"ids": rng.integers(0, 64, where.shape), "where": where})


@pytest.mark.parametrize(
    ("positions", "attributes"),
    [
        (lambda ids: torch.arange(ids.shape[1])[None], True),
        (lambda ids: torch.arange(ids.shape[1]).unsqueeze(0).expand(ids.shape[0], -1), True),
        (lambda ids: (torch.arange(ids.shape[1]) % 4)[None], False),
        (lambda ids: ids.cumsum(-1) % 5, False),
        (lambda ids: torch.arange(0, 2 * ids.shape[1], 2)[None], False),
    ],
    ids=["counted", "counted for each row", "fixed texts of four", "from the ids", "each its own text"],
)
def test_only_positions_that_count_up_are_one_text(positions: Callable[..., torch.Tensor], attributes: bool) -> None:
    module = Renamed(_model(), positions).eval()
    sample = {"ids": torch.randint(0, 64, (2, 7))}
    program = capture(module, sample, {"ids": AXES})
    (node,) = [n for n in program.entry.nodes if n.op.name == "attention"]
    assert (node.attrs["causal"] and node.inputs[3] is None) == attributes
    ids = np.random.default_rng(0).integers(0, 64, (2, 11))
    _agrees(module, program, {"ids": ids})


def test_chunks_start_at_the_first_token_of_each_row() -> None:
    """Padding on the left moves a row's chunks: the trap of reading chunked attention off places in the row."""

    class Chunked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = _model()
            self.model.config.attention_chunk_size = 3

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            embeds = self.model.model.embed_tokens(ids)
            chunks = m.create_chunked_causal_mask(self.model.config, embeds, mask, None)
            return self.model(inputs_embeds=embeds, attention_mask=chunks, use_cache=False).logits

    module = Chunked().eval()
    sample = {"ids": torch.randint(0, 64, (2, 7)), "mask": torch.ones(2, 7, dtype=torch.long)}
    program = capture(module, sample, dict.fromkeys(sample, AXES))
    rng = np.random.default_rng(0)
    for first, last in ((0, 11), (4, 11), (0, 6)):
        mask = np.zeros((2, 11), np.int64)
        mask[:, first:last] = 1
        ids = rng.integers(0, 64, mask.shape)
        with torch.no_grad():
            want = module(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
        got = evaluate(program, {"ids": ids, "mask": mask})["output"]
        assert np.abs(got - want)[mask != 0].max() <= 1e-5, (first, last)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_mask_that_a_model_adds_to_its_own_scores_is_the_number_it_stands_for(side: str) -> None:
    from transformers import BigBirdPegasusConfig, BigBirdPegasusModel

    torch.manual_seed(0)
    config = BigBirdPegasusConfig(
        vocab_size=32, d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_attention_heads=2, decoder_ffn_dim=16, max_position_embeddings=32, attention_type="original_full",
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    encoder = BigBirdPegasusModel._from_config(config, attn_implementation="eager").encoder.eval()
    sample = {"input_ids": torch.ones(2, 7, dtype=torch.long), "attention_mask": torch.ones(2, 7, dtype=torch.long)}
    program = capture(encoder, sample, dict.fromkeys(sample, AXES), outputs=("last_hidden_state",))
    ids = torch.randint(3, 32, (2, 5), generator=torch.Generator().manual_seed(1))
    real = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).flip(1 if side == "left" else ())
    with torch.no_grad():
        want = encoder(input_ids=ids, attention_mask=real).last_hidden_state.numpy()
    got = evaluate(program, {"input_ids": ids.numpy(), "attention_mask": real.numpy()})["last_hidden_state"]
    assert np.abs(got - want).max() <= 1e-5 * max(1.0, np.abs(want).max())
