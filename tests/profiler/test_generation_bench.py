"""A long decode takes the memory that its plan says, and a stored beginning is not read again."""

from __future__ import annotations

from pathlib import Path

import pytest

import tundish
from tundish.profiler import generation_bench as g


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama that keeps much of each token (16 KiB) and computes little."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("wide")
    config = LlamaConfig(
        vocab_size=160, hidden_size=64, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=8, head_dim=64,
        intermediate_size=32, max_position_embeddings=8192, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    tundish.compile(folder / "model", folder / "wide.tundish", batch="1..2").close()
    return folder / "wide.tundish"


def test_memory_grows_by_the_planned_bytes(wide: Path):
    with tundish.load(wide) as bundle:
        assert bundle.manifest.info["generation"]["bytes_per_token"] == 4 * 2 * 8 * 64 * 4
        found = g.long_decode(bundle)
    assert found["new_tokens"] == 4096 and found["planned_bytes"] == 4096 * 16384
    assert abs(found["off_percent"]) <= 5, found


def test_a_stored_beginning_is_not_read_again(wide: Path):
    with tundish.load(wide) as bundle:
        found = g.stored_prefix(bundle)
    assert found["reused_tokens"] == g.SHARED
    assert found["first_s"] > 0 and found["ratio"] == found["first_s"] / found["second_s"]


def test_a_bundle_that_does_not_generate_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    tundish.compile("bert-tiny", tmp_path / "b.tundish", batch="1..2", seq="1..8").close()
    for place, said in ((tmp_path / "b.tundish", "cannot generate"), (tmp_path, "is not a bundle")):
        monkeypatch.setattr("sys.argv", ["generation_bench", str(place)])
        with pytest.raises(SystemExit) as stop:
            g.main()
        assert stop.value.code == 2 and said in capsys.readouterr().err


def test_the_table_is_written(wide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(g, "NEW", 64)
    monkeypatch.setattr("sys.argv", ["generation_bench", str(wide), "--write", str(tmp_path / "b.md")])
    g.main()
    text = (tmp_path / "b.md").read_text()
    assert "| wide fp32 | 64 | 1.0 MiB |" in text.replace("model fp32", "wide fp32"), text
