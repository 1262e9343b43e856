"""Layers of experts written out by hand run as the one op: same answers, and only where that is sure."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import moe_kit as kit  # noqa: E402

import tundish  # noqa: E402
from tundish.backends.onnxruntime import lower  # noqa: E402
from tundish.compiler.passes.raise_moe import raised  # noqa: E402
from tundish.ir.capture.from_torch import capture  # noqa: E402
from tundish.ir.evaluate import evaluate  # noqa: E402
from tundish.ir.unfold import unfold  # noqa: E402
from tundish.ir.walk import op_counts  # noqa: E402

SIZES = [(1, 1), (1, 2), (2, 7), (1, 32)]


def program_of(module):
    """As captured, nothing raised yet."""
    return capture(module, kit.sample(), {"input_ids": {0: "batch", 1: "seq"}})


def same(one, two, rows, length, seed=0):
    ids = kit.sample(rows, length, seed)["input_ids"].numpy()
    (wanted,), (got,) = (evaluate(p, {"input_ids": ids}).values() for p in (one, two))
    np.testing.assert_allclose(got, wanted, atol=1e-5 * max(1.0, np.abs(wanted).max()), rtol=0)


@pytest.mark.parametrize("name", kit.HAND)
def test_each_way_of_writing_them_becomes_one_node_a_layer(name):
    before = program_of(kit.by_hand(name))
    after, notes, _ = raised(before)
    assert "moe" not in op_counts(before) and op_counts(after)["moe"] == kit.LAYERS
    assert all("declined" not in n.text and n.where.file.endswith("moe_kit.py") for n in notes)
    for rows, length in SIZES:
        same(before, after, rows, length)
    again, notes, _ = raised(after)
    assert again.functions == after.functions and not notes, "there is nothing left to raise"


@pytest.mark.parametrize("name", kit.HAND)
def test_with_all_tokens_sent_to_one_expert(name):
    module = kit.by_hand(name)
    with torch.no_grad():
        for layer in module.layers:
            layer.router.gate.weight[:] = layer.router.gate.weight[:1]  # ties: the first ones are chosen
    before = program_of(module)
    same(before, raised(before).program, 2, 9)


@pytest.mark.parametrize("name", ["static_loop", "gather_bmm"])
def test_a_file_of_onnx_that_runs_every_expert_is_raised(name, tmp_path, monkeypatch):
    """Without a lowering of its own, a layer is written by its parts: every expert on every token."""
    lower.table()
    monkeypatch.delitem(lower.STANDARD, "moe")
    lower.table.cache_clear()
    module = kit.by_hand(name)
    tundish.export(module, tmp_path / "m.onnx", inputs=kit.sample(), portable=True)
    monkeypatch.undo()
    lower.table.cache_clear()
    program = tundish.capture(tmp_path / "m.onnx")
    assert op_counts(program)["moe"] == kit.LAYERS
    ids = kit.sample(2, 7)["input_ids"]
    (got,) = evaluate(unfold(program), {"input_ids": ids.numpy()}).values()
    with torch.no_grad():
        wanted = module(ids).numpy()
    np.testing.assert_allclose(got, wanted, atol=1e-5 * max(1.0, np.abs(wanted).max()), rtol=0)


class Uneven(kit.StaticLoop):
    """The last expert is run for every token, chosen or not."""

    def forward(self, x):
        weights, chosen = self.router(x)
        out = 0.5 * self.experts[-1](x)
        for i, expert in enumerate(self.experts):
            share = (weights * (chosen == i)).sum(-1, keepdim=True) + 0.25 * weights.sum(-1, keepdim=True)
            out = out + share * expert(x)
        return out


class TwoChoices(kit.StaticLoop):
    """Half of each share is from another router."""

    def __init__(self):
        super().__init__()
        self.other = kit.Router()

    def forward(self, x):
        out = torch.zeros_like(x)
        pairs = [router(x) for router in (self.router, self.other)]
        for i, expert in enumerate(self.experts):
            out = out + sum((w * (c == i)).sum(-1, keepdim=True) for w, c in pairs) * expert(x)
        return out


class OtherTokens(kit.StaticLoop):
    """One expert reads something else."""

    def forward(self, x):
        weights, chosen = self.router(x)
        given = [x, x, x, x * 2]
        shares = [(weights * (chosen == i)).sum(-1, keepdim=True) for i in range(kit.EXPERTS)]
        return sum(s * e(g) for s, e, g in zip(shares, self.experts, given, strict=True))


@pytest.mark.parametrize(("made", "why"), [
    (Uneven, "more experts have a share than were chosen"),
    (TwoChoices, "a share hangs on more"),
    (OtherTokens, "do not read the same tokens"),
])  # fmt: skip
def test_what_only_looks_like_it_is_left_as_it_is(made, why):
    torch.manual_seed(0)
    before = program_of(kit.Stack(made).eval())
    after, notes, _ = raised(before)
    assert "moe" not in op_counts(after)
    assert any(why in n.text for n in notes), [n.text for n in notes]
    same(before, after, 2, 5)


def test_what_else_is_added_stays():
    class Shared(kit.StaticLoop):
        def __init__(self):
            super().__init__()
            self.shared = kit.Expert()

        def forward(self, x):
            return self.shared(x) + super().forward(x)

    torch.manual_seed(0)
    before = program_of(kit.Stack(Shared).eval())
    after = raised(before).program
    assert op_counts(after)["moe"] == kit.LAYERS and op_counts(after)["linear"] == op_counts(before)["linear"] - 24
    same(before, after, 2, 5)
