"""What a decoder keeps, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tundish.ir import dims
from tundish.ir.build import Builder
from tundish.ir.diagnostics import Where
from tundish.ir.dims import Range
from tundish.ir.dtypes import DTYPES, f32
from tundish.ir.graph import Program
from tundish.ir.tensor import TensorType
from tundish.models.decoding import kept_bytes
from tundish.models.open import open_model
from tundish.profiler.kv_cache import kv_cache
from tundish.work import Asked, Work, after_passes

B, S, P = (dims.symbol(name) for name in ("batch", "seq", "past"))


def attending(s, t, dtype=f32, heads=6, groups=2, d=4, e=7, **attrs):
    b = Builder(Where("m.py", 1, "layers.0.attn"))
    shapes = ((s, heads, d), (t, groups, d), (t, groups, e))
    q, k, v = (b.input(n, TensorType(dtype, (B, *shape))) for n, shape in zip("qkv", shapes, strict=True))
    out = b.emit("attention", q, k, v, scale=1.0, **attrs)
    symbols = {n: Range(1, 64) for d in (s, t, B) for n in dims.symbols(d)}
    return Program({"f": b.finish([out])}, ("f",), {}, symbols)


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_a_causal_layer_by_hand(dtype):
    """2 key heads of 4 and values of 7 numbers for each token of each row, whatever the query heads."""
    (kept,) = kv_cache(attending(S, S, DTYPES[dtype], causal=True), {"batch": 3, "seq": 10})
    size = DTYPES[dtype].bits // 8
    assert (kept.module, kept.bytes_per_token, kept.window) == ("layers.0.attn", 2 * (4 + 7) * size, 0)
    assert kept.bytes == 3 * 10 * 2 * (4 + 7) * size


def test_symbols_stay_symbols():
    (kept,) = kv_cache(attending(S, S, causal=True), {"batch": 3})
    assert kept.bytes == 3 * 88 * S
    (kept,) = kv_cache(attending(1, P + 1, causal=True))
    assert kept.bytes == 88 * B * (P + 1)


@pytest.mark.parametrize(("past", "tokens"), [(3, 4), (7, 8), (20, 8)])
def test_a_window_keeps_its_last_tokens(past, tokens):
    (kept,) = kv_cache(attending(1, P + 1, causal=True, window=8), {"batch": 1, "past": past})
    assert (kept.window, kept.bytes, kept.bytes_per_token) == (8, 88 * tokens, 88)


def test_who_looks_both_ways_keeps_nothing_unless_the_model_is_seen_to():
    program = attending(S, S)
    assert kv_cache(program) == ()
    (kept,) = kv_cache(program, {"batch": 2, "seq": 5}, kept={0: 20})
    assert (kept.bytes_per_token, kept.bytes) == (20, 2 * 5 * 20)
    assert len(kv_cache(attending(1, P + 1))) == 1, "one query against many keys is a step"


def test_a_step_keeps_what_it_is_given_and_gives_back(name="llama-tiny"):
    """Read off attention in both phases, it is what the step's own inputs and outputs hold."""
    work = Work(name, Asked(phase="decode"), lambda *_: None)
    at = {"batch": 2, "past": 9}
    kept = kv_cache(after_passes(work.program, "reference"), at)
    entry = work.program.functions["forward"]
    held = {v.name: dims.evaluate(v.type.bytes, at) for v in entry.inputs if v.name.startswith("past")}
    given = sum(dims.evaluate(v.type.bytes, at) for n, v in zip(entry.output_names, entry.outputs, strict=True)
                if n.startswith("present"))  # fmt: skip
    assert sum(k.bytes for k in kept) == given and len(held) == 2 * len(kept) == 6
    assert sum(k.bytes_per_token for k in kept) * 2 * 9 == sum(held.values())
    prefill = Work(name, Asked(), lambda *_: None)
    raised, at = after_passes(prefill.program, "reference"), {"batch": 2, "seq": 10}
    whole, read = kv_cache(raised, at, kept=kept_bytes(prefill.source)), kv_cache(raised, at)
    assert whole == read, "its keys and values, as attention reads them"
    assert [k.bytes for k in whole] == [k.bytes for k in kept]
    assert [k.module for k in whole] == [k.module for k in kept]
    assert np.prod([2, 10]) * sum(k.bytes_per_token for k in whole) == given


def test_a_latent_is_kept_as_it_is():
    """DeepSeek-V3's attention widens what it keeps, which is one latent and one rotary part for all heads.

    Source: DeepSeek-AI 2024, "DeepSeek-V2", section 2.1: kv_lora_rank + qk_rope_head_dim numbers a token and layer.
    """
    source = open_model("deepseek-v3-tiny")
    config = source.module.config
    numbers = config.kv_lora_rank + config.qk_rope_head_dim
    assert kept_bytes(source) == dict.fromkeys(range(config.num_hidden_layers), 4 * numbers)


def test_a_layer_that_reads_anothers_keeps_nothing():
    """Nor is a layer lost whose attention could not be found."""
    (kept,) = kv_cache(attending(S, S, causal=True), kept={7: 20})
    assert (kept.module, kept.window, kept.bytes) == ("layer 7", 0, 20 * B * S)
