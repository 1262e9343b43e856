"""Big models captured with few layers and stretched, against the full capture; what they refuse and say."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

import tundish
from tundish.ir.diagnostics import CompileError
from tundish.ir.fold import fold
from tundish.ir.stretch import stretch
from tundish.ir.text import to_text
from tundish.ir.verify import verify
from tundish.models.decoding import decode_step, kept_bytes
from tundish.models.zoo import ZOO, load_named
from tundish.originals import captured
from tundish.profiler.account import account

Config = dict[str, Any]
# name -> config of few layers, of many, how many are meant
CASES: dict[str, tuple[Config, Config, dict[str, int]]] = {
    "llama-tiny": ({"num_hidden_layers": 4}, {"num_hidden_layers": 9}, {"model.layers": 9}),
    "mixtral-tiny": ({"num_hidden_layers": 3}, {"num_hidden_layers": 5}, {"model.layers": 5}),
    "deepseek-v3-tiny": (
        {"num_hidden_layers": 5, "first_k_dense_replace": 2}, {"num_hidden_layers": 7, "first_k_dense_replace": 2},
        {"model.layers": 7},
    ),
    "t5-tiny": (
        {"num_layers": 4, "num_decoder_layers": 4}, {"num_layers": 6, "num_decoder_layers": 5},
        {"encoder.block": 6, "decoder.block": 5},
    ),
    "palm-tiny": ({"layers": 4}, {"layers": 9}, {"layers": 9}),
}  # fmt: skip
SLOW = ("llama-tiny", "t5-tiny", "deepseek-v3-tiny")


def program(name: str, config: Config, step: bool = False) -> tundish.Program:
    source = load_named(name, shape_only=True, overrides=config)
    return fold(captured(decode_step(source) if step else source, {}))


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES])
def test_a_stretched_model_is_the_full_capture_of_it(name: str) -> None:
    few, many, depths = CASES[name]
    found, full = verify(stretch(program(name, few), depths)), program(name, many)
    assert to_text(found) == to_text(full)
    sizes = {symbol: 5 for symbol in full.symbols}
    assert account(found, sizes) == account(full, sizes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-tiny", "mixtral-tiny", "deepseek-v3-tiny"])
def test_caches_of_a_stretched_decode_step_bear_their_layers_names(name: str) -> None:
    few, many, depths = CASES[name]
    found = verify(stretch(program(name, few, step=True), depths))
    assert to_text(found) == to_text(program(name, many, step=True))


@pytest.mark.slow
def test_periods_of_two_layers_stretch_by_two() -> None:
    kinds = ["sliding_attention", "full_attention"]
    few, many = ({"num_hidden_layers": 2 * n, "layer_types": kinds * n} for n in (3, 5))
    found = verify(stretch(program("gemma3-tiny", few), {"model.layers": 10}))
    assert to_text(found) == to_text(program("gemma3-tiny", many))


@pytest.mark.parametrize(("name", "weights"), [
    ("llama-3-405b", "1.5 TiB"), ("deepseek-v3", "2.4 TiB"), ("palm-540b", "2.0 TiB"),
])  # fmt: skip
def test_weights_that_no_machine_holds_are_refused_up_front_with_the_figure(name: str, weights: str, tmp_path) -> None:
    with pytest.raises(CompileError, match="compiling needs .* TiB of memory, and .* are free") as caught:
        tundish.compile(name, tmp_path / "b.tundish")
    assert f"{weights} of weights" in caught.value.found
    assert not (tmp_path / "b.tundish").exists()


def test_the_account_of_a_stretched_model_says_so_and_counts_the_cache_of_all_layers() -> None:
    found = tundish.account("llama-3-8b", seq=16, past=15)
    notes = {"shapes only: it has no weights", "model.layers: a few layers captured, repeated to 32"}
    assert notes <= set(found["notes"])
    assert len(found["kv_cache"]["layers"]) == 32 and found["kv_cache"]["bytes_per_token"] == 32 * 2 * 8 * 128 * 4
    assert [row["kv_cache_bytes"] for row in found["by_phase"]] == 2 * [16 * 32 * 2 * 8 * 128 * 4]


@pytest.mark.parametrize(("name", "layers", "numbers"), [
    ("deepseek-v3", 61, 512 + 64), ("mixtral-8x7b", 32, 2 * 8 * 128), ("qwen3-30b-a3b", 48, 2 * 4 * 128),
    ("llama-3-405b", 126, 2 * 8 * 128),
])  # fmt: skip
def test_layers_that_are_left_out_keep_what_their_like_do(name: str, layers: int, numbers: int) -> None:
    """Keys and values of each key head; of DeepSeek a latent and a rotary part for all of them."""
    assert kept_bytes(load_named(name, shape_only=True)) == dict.fromkeys(range(layers), 4 * numbers)


PEAK = """
import sys, tundish
from tundish.profiler.process import peak_bytes
found = tundish.account(sys.argv[1])
print(found["parameters"], [row["phase"] for row in found["by_phase"]] == ["prefill", "decode"])
print(peak_bytes())
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama-3-405b", "deepseek-v3"])
def test_the_largest_are_accounted_for_in_two_gibibytes(name: str) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-P", "-c", PEAK, name], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    told, peak_bytes = done.stdout.splitlines()
    assert told == f"{ZOO[name].parameters} True"
    assert int(peak_bytes) < 2 << 30
