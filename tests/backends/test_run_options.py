"""What a bundle says of how it is opened: taken where nothing else is asked for, refused where it is nonsense."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tundish.backends.bundle import Bundle, open_bundle
from tundish.backends.bundle_write import write_bundle
from tundish.backends.onnxruntime.backend import OnnxRuntime
from tundish.backends.options import OrtOptions, runs, typed
from tundish.compiler.passes.choose import RUN
from tundish.ir.diagnostics import LoadError

CORES = len(os.sched_getaffinity(0))


def made(plan, at: Path, run: dict[str, str]) -> Bundle:
    return write_bundle(at / "b", plan.replace(decisions={RUN: run} if run else {}), OnnxRuntime())


def options(bundle: Bundle, threads: int | None = None):
    runner = bundle.runner(threads)
    file = next(iter(runner._options.files()))
    return runner.session(file).get_session_options()


def test_they_are_taken(plan, inputs, tmp_path):
    usual = options(made(plan, tmp_path, {}))
    assert usual.intra_op_num_threads == CORES and usual.enable_cpu_mem_arena
    bundle = made(plan, tmp_path, {"threads": "1", "arena": "off", "spinning": "off"})
    set_ = options(bundle)
    assert set_.intra_op_num_threads == 1 and not set_.enable_cpu_mem_arena
    assert set_.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert bundle.run(inputs).keys() == {"last_hidden_state", "logits"}


def test_threads_that_are_given_go_before_and_cores_bound_them(plan, tmp_path):
    bundle = made(plan, tmp_path, {"threads": "4000"})
    assert options(bundle).intra_op_num_threads == CORES
    assert options(bundle, threads=1).intra_op_num_threads == 1
    assert options(open_bundle(bundle.path, threads=1)).intra_op_num_threads == 1


def test_without_a_decision_the_manifest_says_nothing(plan, tmp_path):
    assert "run" not in made(plan, tmp_path, {}).manifest.options


@pytest.mark.parametrize("run", [
    {"threads": "0"}, {"threads": "-1"}, {"threads": "many"}, {"threads": "9" * 5000}, {"threads": "²"},
    {"spinning": "maybe"}, {"arena": ""}, {"speed": "on"}, {"threads": 2}, ["threads"],
])  # fmt: skip
def test_nonsense_is_refused(run):
    with pytest.raises(LoadError, match="options are broken"):
        typed({"models": {}, "target": "cpu", "run": run}, OrtOptions)


@pytest.mark.parametrize("cores, counts", [(1, "1"), (2, "2 1"), (6, "6 3 1"), (64, "64 32 16 8 4 2 1")])
def test_all_cores_come_first_and_then_halves(cores, counts):
    assert list(runs(cores)[0].options) == counts.split()
