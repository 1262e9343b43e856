"""Models of two texts, each with a length and a padding of its own, held against eager torch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tundish
from tundish.ir.diagnostics import CaptureError
from tundish.ir.fold import fold
from tundish.ir.text import same
from tundish.ir.unfold import unfold
from tundish.ir.walk import op_counts
from tundish.models.cases import make
from tundish.models.open import open_model

from .kit import assert_same_answers

LAYERS = 3
NAMES = ("t5-tiny", "bart-tiny", "transformer-tiny")
SHAPES = ((1, 3, 3), (3, 17, 9), (2, 13, 40))  # batch, source, target
SIDES = (("", ""), ("left", "left"), ("right", "right"), ("left", "right"), ("right", "left"))
OTHER_HEADS = (
    ("t5-tiny", "embeddings"), ("t5-tiny", "question-answering"), ("t5-tiny", "sequence-classification"),
    ("t5-tiny", "token-classification"),
    ("bart-tiny", "embeddings"), ("bart-tiny", "question-answering"), ("bart-tiny", "sequence-classification"),
)  # fmt: skip


def real(batch: int, length: int, side: str, rng: np.random.Generator) -> np.ndarray:
    """Which positions of each row are no padding."""
    lengths = rng.integers(1, length + 1, (batch, 1)) if side else np.full((batch, 1), length)
    at = np.arange(length)
    return at >= length - lengths if side == "left" else at < lengths


def assert_two_texts_equal_eager(bundle: tundish.Bundle, source: Any) -> None:
    rng = np.random.default_rng(7)
    for one, two in SIDES:
        for batch, seq, target in SHAPES:
            first, second = real(batch, seq, one, rng), real(batch, target, two, rng)
            arrays = make(source, batch, seq, rng, real=first, others={"target_seq": second})
            assert_same_answers(bundle, source, arrays, (one, two, batch, seq, target))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tundish.Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    return {name: tundish.compile(name, folder / name, phase="prefill") for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_bundle_equals_eager(bundles, name: str) -> None:
    assert_two_texts_equal_eager(bundles[name], open_model(name))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "task"), OTHER_HEADS)
def test_other_heads_equal_eager(tmp_path: Path, name: str, task: str) -> None:
    bundle = tundish.compile(name, tmp_path / "bundle", task=task, phase="prefill")
    assert_two_texts_equal_eager(bundle, open_model(name, task))
    assert tundish.verify(bundle).passed


@pytest.mark.parametrize("name", NAMES)
def test_verify_replays_cases_whose_lengths_and_paddings_differ(bundles, name: str) -> None:
    report = tundish.verify(bundles[name])
    assert report.passed and report.cases >= 8
    inputs = [c.inputs for c in bundles[name].cases().cases]
    lengths = [(i["input_ids"].shape[1], i["decoder_input_ids"].shape[1]) for i in inputs]
    assert any(a < b for a, b in lengths) and any(a > b for a, b in lengths)
    starts = {(bool(i["attention_mask"][:, 0].all()), bool(i["decoder_attention_mask"][:, 0].all())) for i in inputs}
    assert {(True, False), (False, True)} <= starts, "one is padded on the left where the other is not"


OWN, NEXT, CROSS = ("seq", "seq", False), ("target_seq", "target_seq", True), ("target_seq", "seq", False)
BIASED = {"t5-tiny": {OWN, NEXT}, "bart-tiny": set(), "transformer-tiny": {NEXT}}


@pytest.mark.parametrize("name", NAMES)
def test_every_attention_is_one_op_and_says_what_it_may_see(bundles, name: str) -> None:
    """The source's own and the cross attention under the source's padding, the target's causal; T5's with a bias."""
    program = bundles[name].program
    counts = op_counts(program)
    assert counts["attention"] == 3 * LAYERS and "softmax" not in counts
    seen = set()
    for node in (n for g in program.functions.values() for n in g.nodes if n.op.name == "attention"):
        q, k, _, mask, bias, _ = (*node.inputs, None, None, None)[:6]
        kind = (str(q.type.shape[1]), str(k.type.shape[1]), node.attrs["causal"])
        seen.add(kind)
        assert (bias is not None) == (kind in BIASED[name])
        assert mask is not None or kind == NEXT
        if mask is not None:
            assert [d for d in mask.type.shape if d != 1] == [k.type.shape[0], k.type.shape[1]], "padding alone"
    assert seen == {OWN, NEXT, CROSS}


@pytest.mark.parametrize("name", NAMES)
def test_the_layers_of_both_stacks_are_two_functions(name: str) -> None:
    program = tundish.capture(name)
    calls = Counter(n.attrs["function"] for n in program.entry.nodes if n.op.name == "call")
    assert len(calls) == 2 and min(calls.values()) >= LAYERS - 1, "T5's first layers also draw their bias"
    flat = unfold(program)
    assert same(unfold(fold(flat)), flat)


def test_an_encoder_decoder_takes_no_more_positions_than_it_has() -> None:
    with pytest.raises(CaptureError, match="bart-tiny takes at most 64 positions"):
        tundish.capture("bart-tiny", seq="1..65")


@pytest.mark.slow
def test_the_original_at_full_size(tmp_path: Path) -> None:
    bundle = tundish.compile("transformer-base", tmp_path / "bundle", batch="1..2", seq="1..24")
    assert op_counts(bundle.program)["attention"] == 18
    assert tundish.verify(bundle).passed


def test_distances_far_beyond_the_buckets(bundles) -> None:
    """T5 finds a distance's bucket through a logarithm, whole at powers of two: one more or less is another bias."""
    source, rng = open_model("t5-tiny"), np.random.default_rng(5)
    arrays = make(source, 1, 300, rng, others={"target_seq": np.ones((1, 270), bool)})
    assert_same_answers(bundles["t5-tiny"], source, arrays)


# -- modules of torch.nn as a user has them ---------------------------------------------------------------


def nn_modules() -> dict[str, Any]:
    """name -> (module, example inputs, how many attentions)."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    src, tgt = torch.randn(2, 7, 32), torch.randn(2, 9, 32)
    hidden = torch.zeros(2, 7, dtype=torch.bool)

    class Masked(nn.Module):
        """Says nothing about causality but by the mask itself."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Transformer(32, 4, 2, 2, 64, batch_first=True)

        def forward(self, src: Any, tgt: Any, src_padding: Any) -> Any:
            ahead = self.inner.generate_square_subsequent_mask(tgt.shape[1])
            return self.inner(src, tgt, tgt_mask=ahead, src_key_padding_mask=src_padding,
                              memory_key_padding_mask=src_padding)  # fmt: skip

    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu")
    return {
        "transformer": (nn.Transformer(32, 4, 2, 2, 64, batch_first=True), {"src": src, "tgt": tgt}, 6),
        "masked": (Masked(), {"src": src, "tgt": tgt, "src_padding": hidden}, 6),
        "encoder": (nn.TransformerEncoder(layer, 3), {"src": src, "src_key_padding_mask": hidden}, 3),
        "attention": (nn.MultiheadAttention(32, 4, batch_first=True), {"query": src, "key": tgt, "value": tgt}, 0),
    }


@pytest.mark.parametrize("name", ["transformer", "masked", "encoder", "attention"])
def test_modules_of_torch_nn(tmp_path: Path, name: str) -> None:
    import torch

    module, inputs, attentions = nn_modules()[name]
    before = torch.backends.mha.get_fastpath_enabled()
    bundle = tundish.compile(module.eval(), tmp_path / "bundle", inputs=inputs, seq="1..32")
    assert torch.backends.mha.get_fastpath_enabled() == before
    assert tundish.verify(bundle).passed
    counts = op_counts(bundle.program)
    assert counts.get("attention", 0) == attentions
    assert ("softmax" in counts) == (name == "attention"), "its weights are an output, so they stay written out"
    rng = np.random.default_rng(3)
    arrays = {n: rng.standard_normal((3, 5 if "src" in n or n == "query" else 11, 32)).astype(np.float32)
              for n, t in inputs.items() if t.dtype == torch.float32}  # fmt: skip
    arrays |= {n: np.arange(5) >= rng.integers(1, 6, (3, 1)) for n, t in inputs.items() if t.dtype == torch.bool}
    with torch.no_grad():
        torch.backends.mha.set_fastpath_enabled(False)  # its nested tensors give 0 at padding
        try:
            wanted = module(**{n: torch.from_numpy(a) for n, a in arrays.items()})
        finally:
            torch.backends.mha.set_fastpath_enabled(before)
    for want, got in zip(wanted if isinstance(wanted, tuple) else (wanted,), bundle.run(arrays).values(), strict=True):
        assert np.abs(got - want.numpy()).max() <= 1e-5 * max(1.0, float(want.abs().max()))


def test_causality_that_only_the_mask_tells_is_an_attribute(tmp_path: Path) -> None:
    module, inputs, _ = nn_modules()["masked"]
    bundle = tundish.compile(module.eval(), tmp_path / "bundle", inputs=inputs, seq="1..32")
    nodes = [n for g in bundle.program.functions.values() for n in g.nodes if n.op.name == "attention"]
    assert sorted(n.attrs["causal"] for n in nodes) == [False, False, True]
    assert all(v is None for n in nodes for v in n.inputs[4:]), "no mask is left as a bias"
