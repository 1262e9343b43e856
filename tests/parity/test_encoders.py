"""Text encoders and their heads against eager torch, at three shapes with left, right and no padding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tundish
from tundish.ir.dims import Range
from tundish.models.open import open_model as load

from .kit import assert_equals_eager, assert_same_answers

slow = pytest.mark.slow
_SIZES = {
    "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 66, "pad_token_id": 1,
}  # fmt: skip
# Families unlike each other, none of which any line of the package names: what is special in each.
OTHERS = {
    # Relative positions, whose table is cut at a size that the model keeps in a tensor.
    "deberta": ("masked-lm", {**_SIZES, "relative_attention": True, "pos_att_type": ["p2c", "c2p"],
                              "max_relative_positions": 16}),
    # Half of the heads are convolutions whose kernels are computed for each position.
    "convbert": ("token-classification", {**_SIZES, "embedding_size": 32, "head_ratio": 2}),
    # No positions but relative ones, made by shifting a product; axes in the order [length, batch, ...].
    "xlnet": ("sequence-classification", {"vocab_size": 100, "d_model": 32, "n_layer": 2, "n_head": 4, "d_head": 8,
                                          "d_inner": 64, "mem_len": 0}),
    # Local and global layers in turn, rotary positions, gated feed-forward.
    "modernbert": ("masked-lm", {**_SIZES, "num_hidden_layers": 3, "global_attn_every_n_layers": 2,
                                 "local_attention": 8, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2,
                                 "sep_token_id": 3}),
    # Factors of the embedding; one layer's weights used by all layers.
    "albert": ("question-answering", {**_SIZES, "embedding_size": 16}),
    # The head reads the last position that is no padding, found by comparing ids.
    "gpt2": ("sequence-classification", {"vocab_size": 100, "n_embd": 32, "n_layer": 2, "n_head": 4,
                                         "n_positions": 64, "pad_token_id": 1}),
}  # fmt: skip
SLOW = ("albert", "gpt2")


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("roberta-tiny", "masked-lm"),
        ("distilbert-tiny", "question-answering"),
        pytest.param("roberta-tiny", "sequence-classification", marks=slow),
        pytest.param("distilbert-tiny", "token-classification", marks=slow),
        pytest.param("bert-tiny", "masked-lm", marks=slow),
        pytest.param("bert-tiny", "next-sentence-prediction", marks=slow),
        pytest.param("bert-tiny", "sequence-classification", marks=slow),
        pytest.param("llama-tiny", "question-answering", marks=slow),
        pytest.param("llama-tiny", "embeddings", marks=slow),
    ],
)
def test_a_head_equals_eager(tmp_path: Path, name: str, task: str) -> None:
    bundle = tundish.compile(name, tmp_path / "out.tundish", task=task)
    assert {"batch", "seq"} <= set(bundle.program.symbols)
    assert_equals_eager(bundle, load(name, task))


@pytest.mark.parametrize("family", [pytest.param(f, marks=slow if f in SLOW else ()) for f in OTHERS])
def test_a_family_without_a_line_of_its_own_equals_eager(tmp_path: Path, family: str) -> None:
    task, config = OTHERS[family]
    folder = tmp_path / family
    _saved(family, task, config, folder)
    bundle = tundish.compile(folder, tmp_path / "out.tundish", task=task, seq=Range(1, 64))
    assert_equals_eager(bundle, load(str(folder), task))


def test_positions_are_counted_over_ids_that_are_no_padding(tmp_path: Path) -> None:
    """RoBERTa gives the padding id no position, wherever it stands and whatever the mask says."""
    source = load("roberta-tiny")
    bundle = tundish.compile("roberta-tiny", tmp_path / "out.tundish")
    ids = np.array([[5, 1, 9, 1, 1, 7], [1, 1, 4, 6, 1, 3]])
    arrays = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    assert_same_answers(bundle, source, arrays)
    other = bundle.run({**arrays, "input_ids": np.where(ids == 1, 2, ids)})["logits"]
    assert np.abs(other[0, 5] - bundle.run(arrays)["logits"][0, 5]).max() > 1e-3, "the positions behind it move"


def test_the_longest_sequence_is_what_the_table_of_positions_allows(tmp_path: Path) -> None:
    bundle = tundish.compile("roberta-tiny", tmp_path / "out.tundish")
    assert bundle.program.symbols["seq"] == Range(1, 64)
    assert_equals_eager(bundle, load("roberta-tiny"), [(1, 64)], [""])


def _saved(family: str, task: str, config: dict, folder: Path) -> None:
    """A seeded model as users have it: a folder of transformers'."""
    import torch
    from transformers import AutoConfig

    from tundish.models.huggingface import model_class
    from tundish.models.zoo import _stir

    torch.manual_seed(0)
    cls = model_class({"model_type": family}, task)
    module = cls._from_config(AutoConfig.for_model(family, **config), attn_implementation="eager")
    _stir(module)
    module.save_pretrained(folder)
