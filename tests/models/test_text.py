"""What is read off a text model: its inputs, its longest sequence, and its line where it does not run."""

from __future__ import annotations

import numpy as np
import pytest

from tundish.models.errors import ModelError
from tundish.models.huggingface import model_class
from tundish.models.text import text_source

SIZES = {
    "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 24,
}  # fmt: skip


def source(family: str, task: str = "embeddings", *, meta: bool = False, **config):
    import torch
    from transformers import AutoConfig

    with torch.device("meta" if meta else "cpu"):
        made = AutoConfig.for_model(family, **{**SIZES, **config})
        module = model_class({"model_type": family}, task)._from_config(made, attn_implementation="eager")
    return text_source(module, name=family, kind="test")


def runs(model, seq: int) -> bool:
    ids = np.arange(seq)[None] % 7 + 10
    try:
        model.call({s.name: ids if s.name == "input_ids" else np.ones_like(ids) for s in model.inputs})
    except (IndexError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize(
    ("family", "pad", "longest"),
    [
        ("bert", 0, 24), ("roberta", 1, 22), ("roberta", 0, 23), ("roberta", 3, 20), ("mpnet", 1, 22),
        ("data2vec-text", 1, 22), ("luke", 1, 22), ("ibert", 1, 22), ("opt", 1, 24), ("electra", 0, 24),
    ],
)  # fmt: skip
def test_the_longest_sequence_is_the_longest_that_runs(family: str, pad: int, longest: int) -> None:
    more = {"entity_vocab_size": 4, "entity_emb_size": 8} if family == "luke" else {}
    more |= {"ffn_dim": 16, "word_embed_proj_dim": 16} if family == "opt" else {}
    model = source(family, pad_token_id=pad, **more)
    assert model.max_seq == longest
    assert runs(model, longest) and not runs(model, longest + 1)


def test_a_model_without_weights_has_the_same_longest_sequence() -> None:
    assert source("roberta", pad_token_id=1, meta=True).max_seq == 22


def test_segments_are_an_input_where_there_are_several() -> None:
    names = [[s.name for s in source("roberta", type_vocab_size=n).inputs] for n in (1, 2)]
    assert names == [["input_ids", "attention_mask"], ["input_ids", "attention_mask", "token_type_ids"]]


def test_a_model_without_a_table_of_words_is_refused() -> None:
    with pytest.raises(ModelError, match="CanineModel does not say how many ids it knows") as caught:
        source("canine", vocab_size=None, num_hash_buckets=16, num_hash_functions=2, local_transformer_stride=4)
    assert "FILE.py:FACTORY" in caught.value.hint


def test_a_model_that_does_not_run_names_its_line() -> None:
    place = r"^transformers/models/nystromformer/modeling_nystromformer.py:\d+: nystromformer does not run"
    with pytest.raises(ModelError, match=place) as caught:
        source("nystromformer", num_landmarks=4, segment_means_seq_len=16)
    assert "input_ids[1, 7]" in caught.value.found and "\n" not in caught.value.problem
