"""A profile of a bundle of the TVM backend: each node in the row of the kernel that computes it, nothing left out."""

from __future__ import annotations

import pytest

from tundish.backends.bundle import Bundle, open_bundle
from tundish.ir.walk import steps
from tundish.profiler.measure import measure

from .test_runtime import build, inputs


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_bundle(build(tmp_path_factory.mktemp("tvm") / "tiny"))


def test_each_node_is_of_one_kernel(bundle: Bundle):
    found = bundle.runner(1).profile("forward", inputs(9), warmup=1, repeats=3)
    assert [len(times) for times in (found.totals_s, found.profiled_s, found.runs)] == [3, 3, 3]
    for run in found.runs:
        keys = [key for kernel in run for key in kernel.keys]
        made = {s.key for s in steps(bundle.program, found.function) if s.node.op.name not in ("weight", "constant")}
        assert len(keys) == len(set(keys)) and set(keys) == made
        assert all(b.start_s >= a.start_s + a.seconds for a, b in zip(run, run[1:], strict=False))
        assert run[-1].start_s + run[-1].seconds <= max(found.profiled_s)


@pytest.mark.parametrize("threads", [1, 2])
def test_what_a_clock_adds_is_known(bundle: Bundle, threads: int):
    """Beginning and ending a kernel that does nothing: less than any kernel takes that does something."""
    found = bundle.runner(threads).profile("forward", inputs(64), warmup=2, repeats=9)
    assert found.clock_s > 0 and found.gap_s >= 0
    if threads == 1:
        assert found.clock_s <= min(max(k.seconds for k in run) for run in found.runs)


def test_rows_and_the_rest_are_the_whole(bundle: Bundle):
    found = measure(bundle, inputs(33), warmup=1, repeats=5, threads=1)
    assert sum(row.measured_ms for row in found.nodes) + found.unattributed_ms == pytest.approx(found.total_ms)
    assert found.backend == "tvm" and {row.op for row in found.nodes} >= {"layer_norm", "panel_linear+add"}
