"""Predicted memory: closed formulas of a small program, and the measuring process."""

from __future__ import annotations

from pathlib import Path

from cli_kit import made  # noqa: F401  (a fixture)

import tundish
from tundish.backends.inputs import random_inputs
from tundish.compiler.passes.memory import arena
from tundish.profiler.memory import measured_peak
from tundish.profiler.memory_model import predicted_peak, timeline

WIDE, INNER, WORDS = 32, 64, 128


def test_weights_of_products_are_held_in_panels(made: Path) -> None:
    program = tundish.load(made / "bert.tundish").program
    peak = predicted_peak(program, program.entries[0], {"batch": 1, "seq": 8}, "onnxruntime", 1000)
    layer = 4 * WIDE * WIDE + 2 * WIDE * INNER
    assert peak.held.weights == 4 * (3 * layer + WIDE * WIDE)  # three layers and the pooler; all widths are of 16
    assert peak.total == 1000 + peak.held.weights + max(peak.held.opening, peak.inputs + peak.run)


def test_a_tied_head_is_transposed_while_it_opens() -> None:
    program = tundish.capture("gpt2-tiny", batch="1..2", seq="1..16")
    from parity.build_kit import compiled

    plan = compiled(program)
    peak = predicted_peak(plan.program, plan.program.entries[0], {"batch": 1, "seq": 4}, "onnxruntime", 0)
    assert peak.held.opening == 4 * WIDE * WORDS  # the head is the largest weight, packed last


def test_the_timeline_is_the_plans(made: Path) -> None:
    program, sizes = tundish.load(made / "bert.tundish").program, {"batch": 2, "seq": 16}
    points = timeline(program, program.entries[0], sizes)
    assert max(p.live_bytes for p in points) == arena(program, program.entries[0], sizes).live_bytes
    with_scores = timeline(program, program.entries[0], sizes, workspace=True)
    more = [b.live_bytes - a.live_bytes for a, b in zip(points, with_scores, strict=True)]
    scores, moved = 2 * 4 * 16 * 16 * 4, 3 * 2 * 16 * WIDE * 4
    assert sorted(x for x in more if x) == [scores + moved] * 3


def test_a_process_of_its_own_is_measured(made: Path) -> None:
    bundle = tundish.load(made / "bert.tundish")
    peak = measured_peak(bundle.path, random_inputs(bundle.entries["forward"]), entry="forward", threads=1)
    assert 0 < peak.libraries <= peak.peak and 0 <= peak.mapped <= bundle.weights.stat().st_size + (1 << 20)
