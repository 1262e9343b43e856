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


def test_the_line_is_the_models_and_not_that_of_shared_machinery() -> None:
    """T5 asks its config for what it lacks; the line that raises is every config's."""
    from transformers import T5Config, T5ForSequenceClassification

    from tundish.models.transformers_source import transformers_source

    config = T5Config(vocab_size=64, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    with pytest.raises(ModelError, match=r"^transformers/models/t5/modeling_t5.py:\d+: t5 does not run"):
        transformers_source(T5ForSequenceClassification(config), name="t5", kind="test")


def test_a_model_whose_table_of_words_nobody_knows_has_a_line_too() -> None:
    from transformers import CLIPConfig, CLIPModel

    from tundish.models.transformers_source import transformers_source

    sizes = {**SIZES, "num_hidden_layers": 1}
    config = CLIPConfig(text_config=sizes, vision_config={**sizes, "image_size": 8, "patch_size": 4})
    with pytest.raises(ModelError, match=r"^transformers/models/clip/modeling_clip.py:\d+: clip does not run"):
        transformers_source(CLIPModel(config), name="clip", kind="test")


def test_several_texts_a_row_are_refused_with_a_way_that_works(tmp_path) -> None:
    import torch
    from transformers import BertConfig, BertForMultipleChoice

    import tundish
    from tundish.models.transformers_source import transformers_source

    model = BertForMultipleChoice(BertConfig(**SIZES)).eval()
    with pytest.raises(ModelError, match="BertForMultipleChoice takes several texts a row") as caught:
        transformers_source(model, name="choice", kind="test")
    assert "input_ids[batch, choices, seq]" in caught.value.found and "FILE.py:FACTORY" in caught.value.hint
    model.save_pretrained(tmp_path / "folder")
    (tmp_path / "mine.py").write_text(
        f"""import torch, transformers
def choice():
    model = transformers.BertForMultipleChoice.from_pretrained({str(tmp_path / "folder")!r})
    inputs = {{"input_ids": torch.randint(0, 64, (2, 3, 7)), "attention_mask": torch.ones(2, 3, 7, dtype=torch.int64)}}
    return model, inputs, {{name: ("batch", "choices", "seq") for name in inputs}}
"""
    )
    bundle = tundish.compile(f"{tmp_path / 'mine.py'}:choice", tmp_path / "out", seq="1..24")
    assert set(bundle.entries["forward"].symbols) == {"batch", "choices", "seq"}
    ids = np.random.default_rng(0).integers(0, 64, (3, 4, 9))
    inputs = {"input_ids": ids, "attention_mask": (ids > 20).astype(np.int64)}
    with torch.no_grad():
        wanted = model(**{k: torch.from_numpy(v) for k, v in inputs.items()}).logits.numpy()
    np.testing.assert_allclose(bundle.run(inputs)["logits"], wanted, atol=1e-5)
