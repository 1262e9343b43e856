"""Trains the model of this folder: `python -m tundish.models.shakespeare_moe.train FOLDER`, some minutes on 2 cores.

Mixtral's architecture on the text of `models/shakespeare`: the same works are held out, and what is minimised has the
load-balancing loss of the original beside the nats of a token.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..shakespeare.train import BATCH, CONTEXT, SEED, train, works

SIZES: Mapping[str, Any] = {
    "vocab_size": 1536, "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2,
    "num_key_value_heads": 1, "intermediate_size": 64, "num_local_experts": 16, "num_experts_per_tok": 2,
    "max_position_embeddings": CONTEXT,
}  # fmt: skip
# Of the published Mixtral-8x7B's config.json; the loss is that of Fedus et al. 2021, "Switch Transformers", 2.2.
BALANCE = 0.02
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
STEPS = 2800
THREADS = 1  # products this small gain nothing from a second


def model_of(sizes: Mapping[str, Any], seed: int) -> Any:
    """A Mixtral of these sizes with fresh weights, its head tied to its embedding."""
    import torch
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(seed)
    config = MixtralConfig(
        **sizes, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=0, rope_parameters=ROPE,
        router_aux_loss_coef=BALANCE, sliding_window=None,
    )  # fmt: skip
    model = MixtralForCausalLM(config)
    model.set_experts_implementation("grouped_mm")
    return model


def balanced_loss(model: Any, ids: Any) -> tuple[Any, Any]:
    """(nats a token + BALANCE · how uneven the experts' shares are, nats a token). ids: i64 [batch, context + 1]."""
    import torch

    found = model(input_ids=ids[:, :-1], use_cache=False, output_router_logits=True)
    nats = torch.nn.functional.cross_entropy(found.logits.flatten(0, 1), ids[:, 1:].flatten())
    return nats + BALANCE * found.aux_loss, nats


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the small model of experts of Shakespeare's works.")
    parser.add_argument("folder", type=Path, help="where to write it")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=SEED)
    asked = parser.parse_args()
    try:
        loss = train(asked.folder, works(), sizes=SIZES, steps=asked.steps, batch=BATCH, seed=asked.seed,
                     threads=THREADS, make=model_of, loss_of=balanced_loss)  # fmt: skip
    except ModelError as error:
        parser.exit(2, f"{error.problem}\n  try:   {error.hint}\n")
    print(f"{loss:.3f} nats a token in the last steps")


if __name__ == "__main__":
    main()
