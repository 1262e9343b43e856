"""Greedy text token for token as transformers' `generate` has it, batches padded on the left there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tundish

NEW = 64
_LLAMA = {
    "vocab_size": 160, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 64, "max_position_embeddings": 160, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "initializer_range": 0.3,
}  # fmt: skip
_GPT2 = {
    "vocab_size": 160, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 160, "bos_token_id": 0,
    "eos_token_id": 0, "pad_token_id": 0, "initializer_range": 0.3,
}  # fmt: skip
CONFIGS = {"llama": _LLAMA, "gpt2": _GPT2, "mistral": {**_LLAMA, "sliding_window": 24}}
CLASSES = {"llama": "LlamaForCausalLM", "gpt2": "GPT2LMHeadModel", "mistral": "MistralForCausalLM"}


@pytest.fixture(scope="module", params=list(CONFIGS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """(the original, its bundle)."""
    import torch
    import transformers

    cls = getattr(transformers, CLASSES[request.param])
    torch.manual_seed(1)
    module = cls(cls.config_class(**CONFIGS[request.param])).eval()
    folder = tmp_path_factory.mktemp(request.param)
    module.save_pretrained(folder / "model")
    with tundish.compile(folder / "model", folder / "made.tundish", batch="1..4", seq="1..160") as bundle:
        yield module, bundle


def prompts(count: int) -> list[list[int]]:
    """Of different lengths, within the window of the one that has one and beyond it."""
    rng = np.random.default_rng(5)
    return [rng.integers(3, 160, 3 + 11 * i % 37).tolist() for i in range(count)]


def theirs(module: Any, rows: list[list[int]]) -> list[list[int]]:
    """transformers' own, the rows padded on the left, the end token last where there is one."""
    import torch

    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(r)) + r for r in rows])
    mask = torch.tensor([[0] * (longest - len(r)) + [1] * len(r) for r in rows])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two that wait for each other are far slower where something else runs
    out = module.generate(input_ids=ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False, use_cache=True)
    torch.set_num_threads(threads)
    ends = module.config.eos_token_id
    cut = []
    for row in out[:, longest:].tolist():
        cut.append(row[: row.index(ends) + 1] if ends in row else row)
    return cut


def check(module: Any, prompt: list[int], ours: list[int], wanted: list[int]) -> None:
    """A token may differ where double precision puts the two within what single precision may be wrong by."""
    import torch

    at = next((i for i, (a, b) in enumerate(zip(ours, wanted, strict=False)) if a != b), None)
    if at is None:
        assert len(ours) == len(wanted)
        return
    ids = torch.tensor([prompt + wanted[:at]])
    with torch.no_grad():
        single = module(input_ids=ids).logits[0, -1].double()
        exact = module.double()(input_ids=ids).logits[0, -1]
        module.float()
    wrong = float((single - exact).abs().max())
    gap = abs(float(exact[ours[at]] - exact[wanted[at]]))
    assert gap <= 4 * wrong, f"token {at}: {ours[at]} and not {wanted[at]}, {gap} apart where {wrong} is the rounding"


@pytest.mark.parametrize("batch", [1, 4])
def test_greedy_text_is_transformers(pair: tuple[Any, Any], batch: int) -> None:
    module, bundle = pair
    rows = prompts(4)
    ends = []
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        wanted = theirs(module, some)
        found = bundle.generate(some, max_new_tokens=NEW, reuse=False)
        for prompt, result, tokens in zip(some, found, wanted, strict=True):
            check(module, prompt, result.tokens, tokens)
            ends.append(result.finish_reason)
    assert len(ends) == 4 and set(ends) <= {"length", "eos"}


def test_left_padding_and_stored_prefixes_change_nothing(pair: tuple[Any, Any]) -> None:
    _, bundle = pair
    rng = np.random.default_rng(2)
    shared = rng.integers(3, 160, 60).tolist()
    rows = [shared + rng.integers(3, 160, n).tolist() for n in (3, 9, 5)]
    longest = max(map(len, rows))
    ids = np.array([[0] * (longest - len(r)) + r for r in rows])
    mask = np.array([[0] * (longest - len(r)) + [1] * len(r) for r in rows])
    plain = bundle.generate(rows, max_new_tokens=24, ignore_eos=True, reuse=False)
    asked = {"max_new_tokens": 24, "ignore_eos": True}
    padded = bundle.generate({"input_ids": ids, "attention_mask": mask}, reuse=False, **asked)
    bundle.generator.prefixes.clear()
    stored = [bundle.generate(r, **asked) for r in rows]
    together, again = (bundle.generate(rows, **asked) for _ in range(2))
    for found in (padded, stored, together, again):
        assert [r.tokens for r in found] == [r.tokens for r in plain]
    assert [r.reused_tokens for r in plain] == [0, 0, 0]
    assert stored[2].reused_tokens >= 60, "at the latest the third knows what the first two had in common"
    assert all(r.reused_tokens >= 60 for r in together)
    assert [r.reused_tokens for r in again] == [len(r) - 1 for r in rows]


def test_sampling_is_seeded(pair: tuple[Any, Any]) -> None:
    _, bundle = pair
    rows, asked = prompts(4), {"max_new_tokens": 24, "temperature": 0.9, "top_p": 0.9, "seed": 11}
    one, two = (bundle.generate(rows, reuse=False, **asked) for _ in range(2))
    assert [r.tokens for r in one] == [r.tokens for r in two]
    alone = [bundle.stream(row, first_row=i, reuse=False, **asked) for i, row in enumerate(rows)]
    assert [[p.token for p in stream] for stream in alone] == [r.tokens for r in one]


def test_a_session_that_goes_back_and_on(pair: tuple[Any, Any]) -> None:
    """As a conversation does: the tokens are those of a session that began anew."""
    _, bundle = pair
    from tundish.backends.generation.loop import Generation
    from tundish.backends.generation.options import GenerationOptions

    options = GenerationOptions(max_new_tokens=12, ignore_eos=True)
    rows = prompts(2)[1] + list(range(5, 40))
    first = Generation([rows], options, bundle.generator.open_session)
    list(first)
    session, held = first.held
    assert session is not None and held[: len(rows)] == rows
    turned = [*held[:-4], 7, 8, 9]
    asked = GenerationOptions(max_new_tokens=5, ignore_eos=True, capacity=None)
    larger = bundle.generator.open_session(1, 160)
    larger.restore(0, session.save(0))
    again = Generation([turned], asked, bundle.generator.open_session, session=larger, held=held)
    fresh = Generation([turned], asked, bundle.generator.open_session)
    assert [p.token for p in again] == [p.token for p in fresh]


PROSE = (
    "The ship had been at anchor for nine days when the harbour master came aboard with a letter, two loaves of bread "
    "and a question that none of the crew could answer: who had paid for the lamp oil, and why was it written down as "
    "salt? def area(width, height): return width * height # 12 + 30 = 42, and the rest of 100 divided by 7 is 2. "
)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("batch", [1, 4])
def test_greedy_text_of_a_real_model(real: tuple[Any, Any], batch: int) -> None:
    """SmolLM2-135M, 20 prompts of different lengths, 64 tokens each."""
    module, bundle = real
    ids = bundle.generator.text.encode(PROSE * 4)
    rows = [ids[7 * i : 7 * i + 2 + 6 * i] for i in range(20)]
    assert len({len(r) for r in rows}) == 20
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        found = bundle.generate(some, max_new_tokens=NEW, reuse=False)
        for prompt, result, tokens in zip(some, found, theirs(module, some), strict=True):
            check(module, prompt, result.tokens, tokens)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    from tundish.models.zoo import load_named

    pytest.importorskip("gguf")
    with tundish.compile("smollm2", tmp_path_factory.mktemp("real") / "smollm2.tundish", batch="1..4") as bundle:
        yield load_named("smollm2").module, bundle
