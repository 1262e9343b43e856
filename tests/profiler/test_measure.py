"""A measured profile: every kernel under a node, every node with its source line, and sums that hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from compiler_kit import Draft
from parity.build_kit import ENGINE, compiled

import tundish
from tundish.backends.base import KernelTime, Profiled
from tundish.backends.bundle import Bundle, write_bundle
from tundish.backends.inputs import random_inputs
from tundish.ir.walk import Step, steps
from tundish.models.zoo import ZOO
from tundish.profiler.measure import Times, measure, owners, shared
from tundish.profiler.measure_work import works

FEW = ("bert-tiny", "vit-tiny", "bloom-tiny")  # ONNX Runtime fuses, renames, reorders and splits in these
MORE = tuple(name for name in ZOO if name.endswith("-tiny") and name not in FEW)
NO_STEP = ("bert-tiny", "roberta-tiny", "distilbert-tiny", "vit-tiny", "t5-tiny", "bart-tiny", "transformer-tiny",
           "palm-tiny")  # fmt: skip
STEPS = tuple(name for name in (*FEW, *MORE) if name not in NO_STEP)


def _built(folder: Path, model: str, **asked: str) -> Bundle:
    """Without cases, which nothing here looks at."""
    return write_bundle(folder / model, compiled(tundish.capture(model, batch="1..2", **asked)), ENGINE)


@pytest.fixture(
    scope="module",
    params=[
        *((m, "prefill") for m in FEW),
        *(pytest.param((m, "prefill"), marks=pytest.mark.slow) for m in MORE),
        *(pytest.param((m, "decode"), marks=pytest.mark.slow) for m in STEPS),
    ],
    ids=" ".join,
)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    model, phase = request.param
    length = {"prefill": "seq", "decode": "past"}[phase]
    return _built(tmp_path_factory.mktemp("profiled"), model, phase=phase, **{length: "1..32"})


def _inputs(bundle: Bundle) -> dict[str, np.ndarray]:
    return random_inputs(next(iter(bundle.entries.values())))


def test_every_kernel_computes_a_node_of_the_plan(bundle: Bundle) -> None:
    """Whatever ONNX Runtime fused, renamed or put in."""
    entry = next(iter(bundle.entries))
    found = bundle.runner(1).profile(entry, _inputs(bundle), warmup=1, repeats=2)
    known = {s.key for s in steps(bundle.program, found.function)}
    assert len(found.runs) == len(found.totals_s) == len(found.profiled_s) == 2
    for run in found.runs:
        assert run and all(k.key in known and set(k.keys) <= known for k in run)
        assert all(a.start_s <= b.start_s for a, b in zip(run, run[1:], strict=False))
        assert all(k.seconds >= 0 for k in run)


def test_rows_have_a_source_and_hold_all_work_that_a_kernel_does(bundle: Bundle) -> None:
    profile = measure(bundle, _inputs(bundle), warmup=1, repeats=3, threads=1)
    rows = {r.name: r for r in profile.nodes}
    assert len(rows) == len(profile.nodes)
    assert all(r.source.rpartition(":")[2].isdigit() and r.op and r.kernel for r in profile.nodes)
    assert sum(r.measured_ms for r in profile.nodes) + profile.unattributed_ms == pytest.approx(profile.total_ms)
    flops = {s.key: _flops(s, profile.sizes) for s in steps(bundle.program)}
    heavy = [s.key for s in steps(bundle.program) if s.node.op.name in ("linear", "matmul", "attention", "conv")]
    told = sum(r.flops for r in profile.nodes)
    assert sum(flops[k] for k in heavy) <= told <= sum(flops.values())  # no product of matrices is lost in a fusion


def _flops(step: Step, sizes: Mapping[str, int]) -> int:
    node = step.node
    if node.op.name in ("weight", "constant", "dim_value"):
        return 0
    flops = node.op.work(node.output_types, node.input_types, node.attrs).at(sizes).flops
    assert isinstance(flops, int)
    return flops


def test_the_work_of_a_group_leaves_out_what_passes_inside_it(bundle: Bundle) -> None:
    sizes = {name: span.low for name, span in bundle.program.symbols.items()}
    fused: dict[str, list[str]] = {}
    for step in steps(bundle.program):
        if step.calls and step.calls[0].op.name == "fused":
            fused.setdefault(step.key.rpartition("/")[0], []).append(step.key)
    for keys in fused.values():
        (whole,) = works(bundle.program, bundle.program.entries[0], sizes, [keys]).values()
        apart = works(bundle.program, bundle.program.entries[0], sizes, [[k] for k in keys]).values()
        assert whole.flops == sum(w.flops for w in apart)
        assert whole.read_bytes + whole.written_bytes < sum(w.read_bytes + w.written_bytes for w in apart)


def test_a_node_is_timed_where_it_anchors_a_kernel_else_where_it_is_computed_first() -> None:
    run = (KernelTime("a", "x", 0, 1, ("a", "b", "c")), KernelTime("b", "y", 1, 1, ("b", "c")))
    assert owners(run) == {"a": "a", "b": "b", "c": "a"}


def test_the_reference_times_its_nodes_too(tmp_path: Path) -> None:
    bundle = tundish.compile("bert-tiny", tmp_path / "b", backend="reference", batch="1..2", seq="1..32")
    profile = measure(bundle, _inputs(bundle), warmup=0, repeats=2)
    ran = {s.key for s in steps(bundle.program)}
    assert {r.name for r in profile.nodes} == ran  # the evaluator runs them all, one by one
    assert 0 <= profile.unattributed_ms < profile.total_ms / 2


def test_shares_of_disturbed_runs_add_up_to_what_the_nodes_take() -> None:
    """Each run is disturbed in another node: no median sees it, and yet none of it is unattributed."""
    runs = np.array([14.0, 14.0, 14.0, 14.0])
    seconds = {name: np.where(np.arange(4) == i, 6.0, 2.0) for i, name in enumerate("abcd")}
    found = shared(seconds, runs, 8.0)
    assert sum(float(np.median(s)) for s in found.values()) == pytest.approx(8.0 * 12 / 14)
    assert len({round(float(np.median(s)), 9) for s in found.values()}) == 1


def _times(plain: float, watched: float, kernel: float, clock: float = 0.0) -> Times:
    """Of five runs of two kernels, each of a node of its own."""
    draft = Draft()
    program = draft.program(draft.emit("neg", draft.emit("neg", draft.x(4))))
    one, two = (s.key for s in steps(program))
    run = KernelTime(one, "Neg", 0.0, kernel), KernelTime(two, "Neg", kernel, kernel)
    return Times(Profiled("main", (plain,) * 5, (watched,) * 5, (run,) * 5, clock, clock), program)


def test_times_of_runs_that_differ_from_plain_ones_are_shares_and_it_is_said() -> None:
    times = _times(4.0, 8.0, 3.0)
    assert times.scale == 0.5 and [float(np.median(s)) for s in times.seconds.values()] == [1.5, 1.5]
    assert any("shares of the whole" in note for note in times.notes)
    assert len(_times(6.2, 6.4, 3.0).notes) == 1


def test_what_profiling_adds_is_taken_off_and_never_more_than_there_is() -> None:
    times = _times(6.0, 8.0, 3.5, clock=0.5)
    assert times.scale == 1.0 and times.full == 0 and sum(times.seconds.values())[0] == 6.0
    times = _times(6.0, 7.5, 3.5, clock=0.5)
    assert times.full == 5 and any("more may be unattributed" in note for note in times.notes)
