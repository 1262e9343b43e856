"""Kernels timed alone: each option is built as what it says, and all are held against the first."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from tundish.backends.bundle_write import build_files
from tundish.backends.registry import get
from tundish.backends.tvm.backend import of_machine
from tundish.backends.tvm.tiles import USUAL, WIDTH, chip_of, cuts, tiles_of
from tundish.compiler.hardware.machine import this_machine
from tundish.compiler.passes.choose import KERNELS
from tundish.compiler.plan import Guard, Plan, Variant
from tundish.compiler.tuning import shape_class
from tundish.ir.build import Builder
from tundish.ir.dims import symbol
from tundish.ir.dtypes import f32
from tundish.ir.evaluate import evaluate
from tundish.ir.graph import Node
from tundish.ir.tensor import TensorType
from tundish.profiler import alone as alone_module
from tundish.profiler.alone import _program, alone

K, N = 96, 80
CHIP = chip_of(of_machine(this_machine()).features)


def product() -> Node:
    b = Builder()
    x, panels = (TensorType(f32, shape) for shape in ((symbol("seq"), K), (-(-N // WIDTH), K, WIDTH)))
    y = b.emit("panel_linear", b.input("x", x), b.input("w", panels), columns=N)
    (node,) = b.finish([y], ["y"]).nodes
    return node


def test_every_cut_gives_the_same_product(tmp_path: Path):
    rng = np.random.default_rng(0)
    some = [USUAL, *rng.choice(list(cuts(CHIP)), 24, replace=False)]
    program, machine = _program(product(), {"seq": 37}, len(some)), this_machine()
    made = {name: graph.outputs[0].name for name, graph in program.functions.items()}
    chosen = {(name, made[name]): str(option) for name, option in zip(made, some, strict=True)}
    plan = Plan(program, {n: (Variant(Guard(), n),) for n in made}, "tvm", machine.target, decisions={KERNELS: chosen})
    runner = get("tvm").open(build_files(plan, get("tvm"), tmp_path))
    inputs = {v.name: rng.standard_normal(v.type.shape).astype(np.float32) for v in program.functions["f0"].inputs}
    (wanted,) = evaluate(program, inputs, "f0").values()
    for name, option in zip(made, some, strict=True):
        (got,) = runner.run(name, inputs).values()
        np.testing.assert_allclose(got, wanted, atol=1e-4, err_msg=str(option))


def test_a_cut_changes_what_it_names_and_nothing_else():
    usual = tiles_of(4096, CHIP)
    for name, cut in cuts(CHIP).items():
        tiles = tiles_of(4096, CHIP, cut)
        assert ("rows" in name) == (tiles.rows != usual.rows) and ("ahead" in name) == (tiles.ahead != usual.ahead)
        assert tiles.deep % CHIP.lanes == 0 and tiles.row_block >= tiles.rows and tiles.group >= 1
        if "deep" in name:
            assert (tiles.deep > usual.deep) == ("deep x2" in name)
    assert tiles_of(4096, CHIP, cuts(CHIP)[USUAL]) == usual


def test_options_are_held_against_the_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(alone_module, "SLOT_S", 0.001)
    options = [USUAL, "deep /2", "rows 8" if "rows 8" in cuts(CHIP) else "group x2"]
    found = alone(product(), options, {"seq": 16}, get("tvm"), "cpu", threads=1, patience_s=0.0)
    assert list(found) == options[1:] and all(t.ms > 0 and t.rounds >= 8 for t in found.values())
    assert shape_class(product()) == f"{K}x{N}"


def test_when_the_time_is_up_nothing_is_told():
    until = time.monotonic()
    assert alone(product(), [USUAL, "deep /2"], {"seq": 4}, get("tvm"), "cpu", threads=1, until=until) == {}
