"""Calibration from end to end with few samples, and the parts that are exact: fits, loops, the machine's load."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tundish.compiler.cost.estimate import Costs
from tundish.compiler.cost.kernels import Kernel, kernels
from tundish.compiler.cost.roofline import kernel_s
from tundish.compiler.hardware.caches import Cache
from tundish.compiler.hardware.calibration import find_calibration, mismatch, read_calibration
from tundish.compiler.hardware.machine import this_machine
from tundish.ir.diagnostics import TundishError
from tundish.ir.evaluate import evaluate
from tundish.ir.verify import verify
from tundish.profiler.calibrate.cases import POOL_ELEMENTS, Grid, cases
from tundish.profiler.calibrate.engine import Measured
from tundish.profiler.calibrate.fit import fit
from tundish.profiler.calibrate.measure import Amount, calibrate
from tundish.profiler.calibrate.quiet import Watch, best_of, timing
from tundish.profiler.calibrate.rows import plot, rows
from tundish.profiler.calibrate.vectors import ACCUMULATORS, loop, reader, units, vector_bytes

from ..compiler.calibration_kit import MACHINE, calibration

COSTS = Costs(calibration(), MACHINE, "onnxruntime", 2)
GRID = [(float(m), float(k), float(k)) for m in (1, 4, 16, 64, 256, 1024) for k in (256, 1024, 4096)]


def product(at: tuple[float, ...]) -> Kernel:
    m, k, n = (int(x) for x in at)
    return Kernel("linear", "f32", at, 2 * m * k * n, 4 * k * n, 4 * m * (k + n))


@settings(max_examples=25, deadline=None)
@given(st.floats(1e-6, 2e-5), st.floats(0.2, 1.0), st.floats(0.2, 1.0), st.integers(0, 1000))
def test_a_fit_recovers_what_the_times_were_made_of(overhead: float, compute: float, memory: float, seed: int) -> None:
    noise = np.random.default_rng(seed).normal(0, 0.01, len(GRID))
    measured = [
        Measured(k, kernel_s(*COSTS.floors(k), overhead, compute, memory) * math.exp(e), 0.0)
        for k, e in zip(map(product, GRID), noise, strict=True)
    ]
    found = fit("linear", measured, COSTS, "f32", 2)
    assert math.isclose(found.compute_share, compute, rel_tol=0.1)
    assert math.isclose(found.memory_share, memory, rel_tol=0.1)
    assert abs(found.overhead_s - overhead) < 0.1 * min(m.seconds for m in measured)
    assert found.median_error < 0.04


def test_an_outlier_does_not_pull_the_fit() -> None:
    measured = [Measured(k, kernel_s(*COSTS.floors(k), 1e-6, 0.8, 0.5), 0.0) for k in map(product, GRID)]
    measured[4] = Measured(measured[4].kernel, 20 * measured[4].seconds, 0.0)
    found = fit("linear", measured, COSTS, "f32", 2)
    assert math.isclose(found.compute_share, 0.8, rel_tol=0.1)
    assert found.points[4].residual > 2


@pytest.mark.parametrize("dtype", sorted(units(this_machine().features)))
def test_a_loop_of_multiply_adds_does_them_all(dtype: str) -> None:
    """acc <- acc · 1/2 + 1/2 tends to 1 from any start; the others add a constant each time."""
    unit = units(this_machine().features)[dtype]
    run = loop(unit)
    start = sum(range(1, ACCUMULATORS + 1))
    each = {"bf16": 2 * 2.0**-14, "i8": 4.0}
    if dtype in each:
        assert run(1000) == pytest.approx(start + 1000 * ACCUMULATORS * each[dtype], rel=1e-3)
    else:
        assert run(1) == pytest.approx(start / 2 + ACCUMULATORS / 2)
        assert run(100) == pytest.approx(ACCUMULATORS)


def test_the_reading_loop_reads_every_element() -> None:
    words = np.arange(4096, dtype=np.int64)
    read = reader(vector_bytes(this_machine().features))
    assert read(words.view(np.float32), 1) == words.sum()
    assert read(words.view(np.float32), 3) == 3 * words.sum()


def test_every_case_is_a_program_and_its_kernel_has_a_size() -> None:
    pool = np.random.default_rng(0).normal(0, 0.03, POOL_ELEMENTS).astype(np.float32)
    names = set()
    for case in cases(Grid(1 << 20), pool):
        verify(case.program)
        for at in case.sizes:
            kernel = kernels(case.kernel, at)[-1]
            names.add(kernel.family)
            assert all(x >= 1 for x in kernel.at)
    assert {"linear", "+bias", "+bias+gelu", "attention_causal_mask", "layer_norm", "rotary", "gather"} <= names


def test_chains_neither_vanish_nor_overflow() -> None:
    pool = np.random.default_rng(0).normal(0, 0.03, POOL_ELEMENTS).astype(np.float32)
    for case in cases(Grid(1 << 20, stride=9, heads=1, shapes=1), pool):
        if case.name.startswith(("linear", "conv", "attention", "+", "inputs")):
            continue
        at = {name: 2 for name in case.program.symbols}
        (first, *_) = evaluate(case.program, case.inputs(at, np.random.default_rng(0))).values()
        size = np.abs(first).max()
        assert np.isfinite(size) and (size > 1e-30 or case.name in ("relu",)), case.name


def test_the_low_end_of_clean_samples_counts() -> None:
    clean = [(1.0 + i / 100, True) for i in range(20)]
    assert timing([*clean, (0.1, False), (9.0, False)]).seconds == pytest.approx(1.019, abs=0.01)
    assert timing([(3.0, False), (2.0, False)]).seconds == 2.0


def test_the_best_is_the_least() -> None:
    found = iter([3.0, 2.0, 5.0, *[2.5] * 10_000_000])
    assert best_of(lambda: next(found), 4, Watch(1))[0] == 2.0


TINY = Amount(0.5, 1, Grid(1 << 16, stride=5, heads=1, shapes=1), None, 1 << 20,
              frozenset({"add", "+bias", "linear 384x1536", "reshape"}))  # fmt: skip


@pytest.fixture(scope="module")
def made() -> object:
    return calibrate(threads=(1,), quick=True, amount=TINY)


def test_from_end_to_end(made: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tundish.compiler.hardware.calibration import Calibration, write_calibration

    assert isinstance(made, Calibration)
    monkeypatch.setenv("TUNDISH_CALIBRATION", str(tmp_path / "cpu.json"))
    write_calibration(tmp_path / "cpu.json", made)
    assert read_calibration(tmp_path / "cpu.json") == made
    found, about = find_calibration(this_machine())
    assert found == made and mismatch(made, this_machine()) is None and made.created[:10] in about
    engine = made.backends["onnxruntime"]
    assert {f.name for f in engine.families} == {"add", "+bias", "linear", "reshape"}
    assert engine.runtime_bytes > 20 << 20
    assert {p.dtype for p in made.peaks} >= {"f32", "f64"} and "f16" in made.not_measured
    levels = [b.level for b in made.bandwidths]
    assert levels[0] == "L1" and levels[-1] == "memory"
    costs = Costs(found, this_machine(), "onnxruntime", 1)
    assert costs.calibrated and costs.runtime_bytes == engine.runtime_bytes and "quick" in costs.notes[0]
    assert all(len(values) for values in rows(made).values())


@pytest.mark.parametrize("name", ["roofline.svg", "roofline.html"])
def test_the_plot_has_the_ceilings_and_a_point_for_each_size(made: object, name: str, tmp_path: Path) -> None:
    plot(made, this_machine(), tmp_path / name)  # type: ignore[arg-type]
    text = (tmp_path / name).read_text()
    assert "memory" in text and "compute" in text and "<circle" in text
    assert text.startswith("<svg" if name.endswith("svg") else "<!doctype html>")


@pytest.mark.parametrize("threads", [(0,), (10_000,)])
def test_threads_that_are_not_there_are_refused_at_once(threads: tuple[int, ...]) -> None:
    with pytest.raises(TundishError, match="cores"):
        calibrate(threads=threads, amount=TINY)


def test_caches_of_a_machine_without_l3() -> None:
    from tundish.profiler.calibrate.roofs import _buffers

    assert _buffers([Cache("L1", 32 << 10), Cache("L2", 1 << 20, 4)], 4, 1 << 22)[-1] == ("memory", 4 << 20)


def test_the_json_of_a_calibration_is_json(made: object) -> None:
    json.dumps(rows(made), allow_nan=False)  # type: ignore[arg-type]
