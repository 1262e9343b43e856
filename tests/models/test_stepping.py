"""A decoder's step in numpy: pieces of texts, side by side and of any length, add up to the model's answer to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from tundish.ir.aliases import overwritten
from tundish.ir.diagnostics import CaptureError
from tundish.ir.dims import Range
from tundish.ir.evaluate import evaluate
from tundish.models.errors import ModelError
from tundish.models.open import open_model
from tundish.models.step_cases import step_cases
from tundish.models.stepping import step_source
from tundish.models.transformers_source import transformers_source
from tundish.steps import Step

QUICK = ("gpt2-tiny", "mistral-tiny", "bloom-tiny")  # learned positions; a window; ALiBi in attention written out
MORE = (
    "llama-tiny", "gemma2-tiny", "deepseek-v3-tiny",
    "gpt-neox-tiny", "opt-tiny", "qwen2-tiny", "qwen3-tiny", "gemma3-tiny", "mixtral-tiny", "qwen3-moe-tiny",
)  # fmt: skip
ROOM, SPARE = 40, 5
# New tokens of three rows, turn after turn: prompts, single tokens, pieces, and rows that wait.
TURNS = ((11, 4, 7), (1, 1, 1), (1, 1, 1), (6, 2, 5), (1, 0, 1), (9, 9, 1), (1, 1, 1))
SIZES = {
    "vocab_size": 90, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 64,
}  # fmt: skip


def of(module: Any) -> Any:
    return transformers_source(module.eval(), name="tiny", kind="transformers")


class Reader:
    """Rows that are read by a step in numpy; windows slide within caches of few places."""

    def __init__(self, step: Step) -> None:
        self.step, kept = step, step.source.kept
        self.window = max(step.source.windows, default=0)
        self.narrow = self.window - 1 + max(map(max, TURNS)) + SPARE
        rows, sizes = len(TURNS[0]), {"": ROOM, "window_": self.narrow}
        self.caches = {k.name: np.zeros((rows, k.heads, sizes[k.prefix], k.size), np.float32) for k in kept}
        self.sliding = [k.name for k in kept if k.window]
        self.at, self.window_at = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        self.slid = 0

    def read(self, texts: Sequence[np.ndarray]) -> np.ndarray:
        """The logits [rows, widest, vocab]; a shorter row's are of no use past its own tokens."""
        width = max(map(len, texts))
        ids = np.stack([np.pad(t, (0, width - len(t))) for t in texts])
        self._slide(width)
        given = {"input_ids": ids, "position": self.at, "select": np.arange(width), **self.caches}
        if self.sliding:
            given["window_position"] = self.window_at
        out = evaluate(self.step.program, given)
        self.caches = {n: out[f"{n}_out"] for n in self.caches}
        taken = np.array([len(t) for t in texts])
        self.at, self.window_at = self.at + taken, self.window_at + taken
        return out["logits"]

    def _slide(self, width: int) -> None:
        for row in np.flatnonzero(self.window_at + width > self.narrow) if self.sliding else ():
            end, keep = int(self.window_at[row]), self.window - 1
            for name in self.sliding:
                own = self.caches[name][row]
                own[:, :keep] = own[:, end - keep : end].copy()
            self.window_at[row], self.slid = keep, self.slid + 1


def whole(module: Any, text: np.ndarray) -> np.ndarray:
    """What eager torch answers to one text, without any cache."""
    with torch.no_grad():
        return module(input_ids=torch.from_numpy(text[None]), use_cache=False).logits[0].numpy()


def near(got: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * max(1.0, float(np.abs(want).max(initial=0.0))))


def check(model: Any) -> None:
    source = open_model(model)
    step = Step(source, Range(1, 4))
    kept = [k.name for k in step.source.kept]
    assert overwritten(step.program, "forward") == {f"{n}_out": n for n in kept}
    reader, lengths = Reader(step), np.sum(TURNS, axis=0)
    texts = [np.random.default_rng(i).integers(3, 90, n) for i, n in enumerate(lengths)]
    wanted = [whole(source.module, t) for t in texts]
    for turn in TURNS:
        at = reader.at
        logits = reader.read([t[a : a + n] for t, a, n in zip(texts, at, turn, strict=True)])
        for row, (a, n) in enumerate(zip(at, turn, strict=True)):
            near(logits[row, :n], wanted[row][a : a + n])
    assert list(reader.at) == list(lengths) and bool(reader.slid) == bool(reader.sliding)
    for name, inputs in step.cases():
        got, want = evaluate(step.program, inputs), step.call(inputs)
        assert list(got) == list(want), name
        for key, array in want.items():
            near(got[key], array)


@pytest.mark.parametrize("name", QUICK)
def test_turns_add_up_to_the_whole_text(name: str):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_turns_add_up_to_the_whole_text_in_more_families(name: str):
    check(name)


def test_a_head_that_computes_all_places_gives_those_that_are_selected():
    from transformers import LlamaConfig, LlamaForCausalLM

    class Plain(LlamaForCausalLM):
        def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None,
                    return_dict=None):  # fmt: skip
            return super().forward(
                input_ids, attention_mask, position_ids, past_key_values, use_cache=use_cache, return_dict=return_dict
            )

    torch.manual_seed(0)
    source = of(Plain(LlamaConfig(**SIZES)))
    step = Step(source, Range(1, 4))
    inputs = dict(step.cases())["a piece after a text"]
    for select in ([0], [8, 2, 2], list(range(9))):
        got = evaluate(step.program, {**inputs, "select": np.array(select)})["logits"]
        near(got, step.call({**inputs, "select": np.arange(9)})["logits"][:, select])


def test_cases_hold_what_the_model_kept_of_their_texts():
    """Rows of different lengths, empty and full caches; the same seed gives the same arrays."""
    source = step_source(open_model("mistral-tiny"))
    made, again = (step_cases(source, (1, 4), (1, 64)) for _ in range(2))
    assert all(np.array_equal(a.inputs[n], b.inputs[n]) for a, b in zip(made, again, strict=True) for n in a.inputs)
    assert len({c.name for c in made}) == len(made)
    for case in made:
        at, windows = (case.inputs[n] for n in ("position", "window_position"))
        assert np.array_equal(windows, np.minimum(at, 7))
        for row in range(len(at)):
            filled = np.abs(case.inputs["cache_key_0"][row]).sum((0, 2)) > 0
            assert not filled[windows[row] :].any() and filled.any() == bool(windows[row]), case.name
    positions = [set(c.inputs["position"].tolist()) for c in made]
    assert {0} in positions and max(map(len, positions)) > 1
    assert any(int(p) + c.inputs["input_ids"].shape[1] == c.inputs["cache_key_0"].shape[2] or int(p) == 63
               for c in made for p in c.inputs["position"])  # fmt: skip


def test_what_a_token_takes_is_said():
    info = Step(open_model("qwen2-tiny"), Range(1, 4)).info
    each = 2 * 2 * 8 * 4  # keys and values of two heads of eight numbers
    assert info["bytes_per_token"] == each and info["windows"] == [{"window": 8, "bytes_per_token": 2 * each}]
    assert info["context"] == 64


def turning() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    changing = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    return of(LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=changing)))


def remembering() -> Any:
    from transformers import MambaConfig, MambaForCausalLM

    return of(MambaForCausalLM(MambaConfig(vocab_size=90, hidden_size=16, state_size=4, num_hidden_layers=1)))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: open_model("t5-tiny"), "reads one text and writes another"),
        (lambda: open_model("bert-tiny"), "does not generate"),
        (lambda: open_model("palm-tiny"), "is no transformers model"),
        (turning, "how long the longest text of a batch is"), (remembering, "does not generate|keeps"),
    ],
    ids=["two texts", "no head", "a plain module", "rotary of the batch", "no keys and values"],
)  # fmt: skip
def test_what_has_no_step_is_refused_by_name(make: Any, said: str):
    source = make()
    with pytest.raises(ModelError, match=said) as told:
        step_source(source)
    assert str(source.name) in told.value.problem
    with pytest.raises(CaptureError, match=said):
        Step(source, Range(1, 4))


def shapes(given: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {n: a.shape for n, a in given.items()}


def test_traced_sizes_differ_from_each_other():
    """An equal pair would be taken for a rule of the model."""
    traced = shapes(step_source(open_model("gemma2-tiny")).traced())
    named = {"batch": traced["input_ids"][0], "tokens": traced["input_ids"][1], "wanted": traced["select"][0]}
    caches = {s[2] for n, s in traced.items() if n.startswith("cache")}
    sizes = [*named.values(), *caches]
    assert len(caches) == 2 and len(set(sizes)) == len(sizes) and min(sizes) > 1
