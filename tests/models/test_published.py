"""Big models captured with few layers and stretched, against the full capture; what they refuse and say."""

from __future__ import annotations

from typing import Any

import pytest

import tundish
from tundish.ir.diagnostics import CompileError
from tundish.ir.fold import fold
from tundish.ir.stretch import stretch
from tundish.ir.text import to_text
from tundish.ir.verify import verify
from tundish.models.decoding import decode_step
from tundish.models.zoo import load_named
from tundish.profiler.account import account
from tundish.work import captured

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
SLOW = ("llama-tiny", "t5-tiny")


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


def test_the_account_says_that_there_are_no_weights_and_what_was_repeated() -> None:
    notes = tundish.account("llama-3-8b", seq=16)["notes"]
    assert {"shapes only: it has no weights", "model.layers: a few layers captured, repeated to 32"} <= set(notes)
