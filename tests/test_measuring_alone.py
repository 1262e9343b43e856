"""Every verb that measures waits for its turn on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cli_kit import made  # noqa: F401
from lock_kit import holder, own_lock  # noqa: F401

import tundish

Say = Callable[[str, float], None]
VERBS: dict[str, Callable[[Path, Path, Say], object]] = {
    "profile": lambda bundle, place, say: tundish.profile(
        bundle, seq=8, warmup=0, repeats=1, memory=False, progress=say
    ),
    "bench": lambda bundle, place, say: tundish.bench(bundle, peers=[], seq=8, rounds=1, progress=say),
    "calibrate": lambda bundle, place, say: tundish.calibrate(quick=True, output=place, progress=say),
}  # fmt: skip


@pytest.mark.parametrize("verb", ["profile", "bench", pytest.param("calibrate", marks=pytest.mark.slow)])
def test_it_says_that_it_waits_and_goes_on(verb, holder, made, tmp_path):
    said: list[str] = []

    def say(stage: str, share: float) -> None:
        said.append(stage)
        if "waiting" in stage:
            assert holder.poll() is None
            holder.communicate("\n")

    assert VERBS[verb](made / "bert.tundish", tmp_path / "c.json", say)
    assert len([stage for stage in said if "waiting" in stage]) == 1
