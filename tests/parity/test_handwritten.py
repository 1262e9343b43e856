"""Attention written by hand, captured, through all passes, on ONNX Runtime, against eager torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tundish.backends.base import Runner
from tundish.compiler.plan import Plan
from tundish.ir.capture.from_torch import capture
from tundish.ir.graph import Program
from tundish.ir.walk import walk

from .build_kit import compiled, opened
from .handwritten import FORMS, WIDTH, Form, nn

AXES = {"x": {0: "batch", 1: "seq"}, "mask": {0: "batch", 1: "seq"}, "memory": {0: "batch", 1: "keys"}}
SHAPES = ((1, 1, 1), (3, 9, 5), (2, 24, 24))


def made(form: Form) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return form.make().eval()


def arrays(form: Form, batch: int, seq: int, keys: int, side: str = "", size: float = 1.0) -> dict[str, np.ndarray]:
    """side: where the rows are padded; `blind` leaves the first row nothing to look at."""
    rng = np.random.default_rng((batch, seq, len(side)))
    lengths = rng.integers(1, seq + 1, (batch, 1)) if side else np.full((batch, 1), seq)
    at = np.arange(seq)
    mask = (at >= seq - lengths if side == "left" else at < lengths).astype(np.int64)
    mask[0] = mask[0] * (side != "blind")
    every = {
        "x": size * rng.standard_normal((batch, seq, WIDTH)), "mask": mask,
        "memory": size * rng.standard_normal((batch, keys, WIDTH)),
    }  # fmt: skip
    return {n: every[n] if n == "mask" else every[n].astype(np.float32) for n in form.inputs}


def captured(form: Form) -> Program:
    given = {n: torch.from_numpy(a) for n, a in arrays(form, 2, 7, 11).items()}
    return capture(made(form), given, {n: AXES[n] for n in form.inputs})


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Plan, Runner]]:
    found = {}
    for name, form in FORMS.items():
        plan = compiled(captured(form))
        found[name] = plan, opened(plan, tmp_path_factory.mktemp(name))
    return found


def answers(form: Form, runner: Runner, given: dict[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    with torch.no_grad():
        wanted = made(form)(**{n: torch.from_numpy(a) for n, a in given.items()})
    got = list(runner.run("forward", given).values())
    wanted = [wanted] if isinstance(wanted, torch.Tensor) else list(wanted)
    return [(g, w.numpy()) for g, w in zip(got, wanted, strict=True)]


def assert_close(got: np.ndarray, want: np.ndarray) -> None:
    assert got.shape == want.shape
    assert np.abs(got - want).max(initial=0) <= 1e-5 * max(1.0, np.abs(want).max(initial=0))


@pytest.mark.parametrize("size", [1.0, 8.0], ids=["ordinary", "sharp"])
@pytest.mark.parametrize("name", FORMS)
def test_answers_as_eager_does(plans, name: str, size: float):
    form, (_, runner) = FORMS[name], plans[name]
    for shape in SHAPES:
        for side in ("", "right") if "mask" in form.inputs else ("",):
            for got, want in answers(form, runner, arrays(form, *shape, side, size)):
                assert_close(got, want)


@pytest.mark.parametrize("name", [n for n, f in FORMS.items() if "mask" in f.inputs])
@pytest.mark.parametrize("side", ["left", "blind"])
def test_rows_that_see_nothing(plans, name: str, side: str):
    """Where eager gives NaN (a fill of -inf) we give what attending to nothing gives, 0; else what eager gives."""
    form, (_, runner) = FORMS[name], plans[name]
    ((got, want),) = answers(form, runner, arrays(form, 3, 9, 5, side))
    blind = np.isnan(want).any(-1)
    assert blind.any() == (form.blind == "nan" and (side == "blind" or ("causal", True) in form.attrs))
    assert np.isfinite(got).all()
    assert_close(got[~blind], want[~blind])


@pytest.mark.parametrize("name", FORMS)
def test_is_raised(plans, name: str):
    form, (plan, _) = FORMS[name], plans[name]
    nodes = [n for _, n in walk(plan.program)]
    attention = [n for n in nodes if n.op.name == "attention"]
    assert len(attention) == form.raised
    assert any(n.op.name == "softmax" for n in nodes) == (not form.raised)
    for node in attention:
        assert {k: node.attrs[k] for k, _ in form.attrs} == dict(form.attrs)
    if form.declines:
        assert any(form.declines in n.text for n in plan.notes)


@pytest.mark.parametrize(("name", "groups"), [
    ("GroupedInterleave", 2), ("GroupedExpand", 2), ("MultiQuery", 1), ("SdpaGrouped", 2)])  # fmt: skip
def test_shared_heads_stay_shared(plans, name: str, groups: int):
    (node,) = (n for _, n in walk(plans[name][0].program) if n.op.name == "attention")
    assert node.inputs[1].type.shape[2] == groups


def test_the_bar():
    """At least 14 forms that differ, at least 12 of them raised."""
    assert len(FORMS) >= 14 and sum(f.raised > 0 for f in FORMS.values()) >= 12
