"""An account over phases, at sizes and in symbols: both give the same numbers, and the arena can be no smaller."""

from __future__ import annotations

import pytest

import tundish
from tundish.compiler.passes.memory import arena
from tundish.ir import dims
from tundish.ir.diagnostics import TundishError
from tundish.work import Asked, Work, after_passes

COUNTS = ("flops", "hardware_flops", "read_bytes", "written_bytes")
H, LAYERS, HEADS, VOCAB, INNER = 32, 3, 4, 128, 128


@pytest.fixture(scope="module")
def gpt2() -> dict:
    return tundish.account("gpt2-tiny", batch=2, seq=16)


@pytest.fixture(scope="module")
def symbols() -> dict:
    return tundish.account("gpt2-tiny", symbolic=True)


def at(value, sizes) -> int:
    return dims.evaluate(dims.parse(value) if isinstance(value, str) else value, sizes)


def test_both_phases_of_a_decoder_by_closed_formulas(gpt2):
    """Radford et al. 2019: per layer QKV, output, MLP; causal pairs s(s+1)/2, or past + 1 in a step."""
    for row, tokens, pairs in zip(gpt2["by_phase"], (2 * 16, 2 * 1), (2 * 16 * 17 // 2, 2 * 17), strict=True):
        n = tokens
        projections, mlp = 2 * n * H * 4 * H + n * 4 * H, 2 * 2 * n * H * INNER + n * (INNER + H)
        linears = LAYERS * (projections + mlp) + 2 * n * H * VOCAB
        attention = LAYERS * HEADS * pairs * (4 * (H // HEADS) + 4)
        rest = LAYERS * (8 * n * INNER) + (2 * LAYERS + 1) * 7 * n * H + (2 * LAYERS + 1) * n * H
        positions = row["flops"] - (linears + attention + rest)
        assert 0 <= positions <= 2 * (16 + 2), "what is left is the arithmetic of positions"
    assert [r["phase"] for r in gpt2["by_phase"]] == ["prefill", "decode"]
    assert gpt2["by_phase"][1]["sizes"] == {"batch": 2, "past": 16}, "the past is as long as the text"
    assert gpt2["kv_cache"]["bytes"] == 2 * 16 * LAYERS * 2 * H * 4


def test_formulas_and_numbers_agree(gpt2, symbols):
    for row, formula in zip(gpt2["by_phase"], symbols["by_phase"], strict=True):
        assert formula["sizes"] == {n: n for n in row["sizes"]}
        for key in (*COUNTS, "kv_cache_bytes"):
            assert at(formula[key], row["sizes"]) == row[key]
    for table in ("by_op", "by_module"):
        for row, formula in zip(gpt2[table], symbols[table], strict=True):
            assert all(at(formula[c], gpt2["sizes"]) == row[c] for c in COUNTS)


def test_some_sizes_may_be_given_and_others_stay(gpt2):
    found = tundish.account("gpt2-tiny", batch=2, symbolic=True, phase="prefill")
    assert found["sizes"] == {"batch": 2, "seq": "seq"} and len(found["by_phase"]) == 1
    assert dims.symbols(dims.parse(found["flops"])) == {"seq"}
    assert at(found["flops"], {"seq": 16}) == gpt2["flops"]


def test_a_tree_adds_up(gpt2):
    rows = {r["module"]: r for r in gpt2["by_module"]}
    assert rows[""]["total_flops"] == gpt2["flops"] == sum(r["flops"] for r in rows.values())
    for path, row in rows.items():
        below = [r for p, r in rows.items() if p and p.rpartition(".")[0] == path]
        for key in (*COUNTS, "parameters", "count"):
            assert row[f"total_{key}"] == row[key] + sum(r[f"total_{key}"] for r in below), (path, key)
    assert rows["transformer.h.0"]["total_parameters"] == 12 * H * H + 13 * H


def test_no_arena_is_smaller_than_the_activations(gpt2):
    work = Work("gpt2-tiny", Asked(), lambda *_: None)
    raised = after_passes(work.program, "reference")
    found = arena(raised, raised.entries[0], {"batch": 2, "seq": 16})
    assert gpt2["activation_peak_bytes"] == found.live_bytes <= found.bytes
    assert gpt2["activation_peak_bytes"] >= 2 * 16 * VOCAB * 4, "the logits alone"
    assert gpt2["activation_peak_at"] == {"batch": 2, "seq": 16}


def test_a_window_counts_fewer_pairs_and_keeps_fewer_tokens():
    found = tundish.account("mistral-tiny", batch=1, seq=32, past=31)
    prefill, decode = found["by_phase"]
    pairs = sum(min(i + 1, 8) for i in range(32))
    attention = next(r for r in found["by_op"] if r["op"] == "attention")
    assert attention["flops"] == LAYERS * HEADS * pairs * (4 * (H // HEADS) + 4)
    assert attention["hardware_flops"] == LAYERS * HEADS * 32 * 32 * (4 * (H // HEADS) + 4)
    assert prefill["kv_cache_bytes"] == decode["kv_cache_bytes"] == LAYERS * 8 * 2 * (H // 2) * 4


@pytest.mark.parametrize("name", ["bert-tiny", "t5-tiny"])
def test_what_does_not_decode_has_one_phase_and_says_why(name):
    found = tundish.account(name, batch=1, seq=8)
    assert [r["phase"] for r in found["by_phase"]] == ["prefill"]
    assert any(n.startswith("no decode phase: ") for n in found["notes"])
    assert (found["kv_cache"] is None) == (name == "bert-tiny")


def test_a_captured_graph_is_its_own_phase():
    found = tundish.account(tundish.capture("llama-tiny", phase="decode"), batch=1, past=20)
    assert (found["phase"], found["sizes"]) == ("decode", {"batch": 1, "past": 20})
    assert found["kv_cache"]["bytes"] == 21 * found["kv_cache"]["bytes_per_token"] == 21 * LAYERS * 2 * 16 * 4


@pytest.mark.parametrize(("asked", "match"), [
    ({"phase": "decode", "seq": 4}, "one token a row"), ({"phase": "prefill", "past": 4}, "no past"),
    ({"phase": "later"}, "no phase 'later'"), ({"phase": "generate"}, "no phase 'generate'"),
    ({"past": 64}, r"past is 64, outside 1\.\.63"),
    ({"seq": 600}, "at most 64 positions"), ({"past": 600}, "at most 63 positions"),
])  # fmt: skip
def test_sizes_that_a_phase_does_not_have(asked, match):
    with pytest.raises(TundishError, match=match):
        tundish.account("gpt2-tiny", **asked)


@pytest.mark.parametrize(("name", "why"), [
    ("bert-tiny", "does not generate text"), ("t5-tiny", "only decoders have a decode phase"),
])  # fmt: skip
def test_a_past_is_refused_by_what_has_none(name, why):
    with pytest.raises(TundishError, match=why):
        tundish.account(name, seq=8, past=4)


def test_a_captured_step_has_no_text():
    step = tundish.capture("llama-tiny", phase="decode")
    with pytest.raises(TundishError, match="one token a row"):
        tundish.account(step, seq=9)
    assert tundish.account(step)["sizes"] == {"batch": 1, "past": 63}


def test_a_length_that_the_model_settles_is_told():
    with_seq, without = (tundish.account("vit-tiny", seq=n) for n in (4, None))
    assert with_seq["flops"] == without["flops"]
    assert "the length is settled by the model: --seq changes nothing" in with_seq["notes"]


def test_rows_go_to_a_spreadsheet(tmp_path):
    tundish.account("bert-tiny", seq=8, csv=tmp_path / "a.csv")
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0].startswith("table,name,") and any(line.startswith("op,linear,") for line in lines)
