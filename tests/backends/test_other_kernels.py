"""Every other kernel of an op, and every rare fusion, computes what the op says, where it is taken."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from tundish.backends.base import Built
from tundish.backends.bundle_write import build_files
from tundish.backends.onnxruntime.backend import OnnxRuntime
from tundish.backends.onnxruntime.lower import OTHERS, kernels
from tundish.backends.onnxruntime.lower_fused import FUSED, RARE
from tundish.compiler.capabilities import Fusion
from tundish.compiler.driver import compile_program
from tundish.compiler.hardware.machine import this_machine
from tundish.compiler.task import Task
from tundish.compiler.tuning import Answer, Table
from tundish.ir.build import Builder
from tundish.ir.diagnostics import Where
from tundish.ir.dims import Range, symbol
from tundish.ir.dtypes import boolean, f32
from tundish.ir.evaluate import evaluate
from tundish.ir.graph import Program
from tundish.ir.tensor import TensorType

BATCH, SEQ = symbol("batch"), symbol("seq")
SYMBOLS = {"batch": Range(1, 4), "seq": Range(1, 16)}
RNG = np.random.default_rng(0)
Made = tuple[Program, dict[str, np.ndarray]]


def _program(b: Builder, *outputs: object) -> Program:
    return Program({"main": b.finish(list(outputs))}, ("main",), {}, SYMBOLS)


def _numbers(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def attention(mask: str, bias: bool, causal: bool, window: int) -> Made:
    """Row 0 is padded in front, so that under causality its first queries see nothing; row 1 sees nothing at all."""
    b = Builder(Where("model.py", 1))
    names = {n: b.input(n, TensorType(f32, (BATCH, SEQ, 2, 4))) for n in "qkv"}
    inputs: dict[str, np.ndarray] = {n: _numbers(2, 5, 2, 4) for n in names}
    real = np.array([[0, 0, 1, 1, 1], [0, 0, 0, 0, 0]], bool)
    given = None
    if mask == "padding":
        given, inputs["mask"] = b.input("mask", TensorType(boolean, (BATCH, SEQ))), real
    elif mask == "full":
        given = b.input("mask", TensorType(boolean, (BATCH, 1, SEQ, SEQ)))
        inputs["mask"] = np.broadcast_to(real[:, None, None], (2, 1, 5, 5)).copy()
    added = None
    if bias:
        added, inputs["bias"] = b.input("bias", TensorType(f32, (1, 2, SEQ, SEQ))), _numbers(1, 2, 5, 5)
    y = b.emit("attention", *names.values(), given, added, scale=0.5, causal=causal, window=window)
    return _program(b, y), inputs


def rotary(interleaved: bool) -> Made:
    b = Builder(Where("model.py", 1))
    x = b.input("x", TensorType(f32, (BATCH, SEQ, 2, 8)))
    tables = [b.input(n, TensorType(f32, (1, SEQ, 8))) for n in ("cos", "sin")]
    half = _numbers(1, 5, 4)
    wide = np.repeat(half, 2, -1) if interleaved else np.concatenate([half, half], -1)
    y = b.emit("rotary", x, *tables, interleaved=interleaved)
    return _program(b, y), {"x": _numbers(2, 5, 2, 8), "cos": np.cos(wide), "sin": np.sin(wide)}


def silu() -> Made:
    b = Builder(Where("model.py", 1))
    return _program(b, b.emit("silu", b.input("x", TensorType(f32, (BATCH, SEQ))))), {"x": _numbers(2, 5)}


def norm(fusion: Fusion) -> Made:
    """Residual and norm; the sum is wanted too."""
    b = Builder(Where("model.py", 1))
    x, skip = (b.input(n, TensorType(f32, (BATCH, SEQ, 8))) for n in ("x", "skip"))
    gain, shift = (b.input(n, TensorType(f32, (8,))) for n in ("gain", "shift"))
    inputs = {"x": _numbers(2, 5, 8), "skip": _numbers(2, 5, 8), "gain": _numbers(8), "shift": _numbers(8)}
    if fusion.anchor == "linear":
        w, inputs["w"] = b.input("w", TensorType(f32, (8, 8))), _numbers(8, 8)
        x = b.emit("linear", x, w, shift)
    total = b.emit("add", x, skip)
    return _program(b, b.emit("layer_norm", total, gain, shift, eps=1e-5), total), inputs


MASKS = list(product(("none", "padding", "full"), (False, True), (False, True), (0, 2)))
CASES = [
    *(("attention", k, lambda m=m: attention(*m), f"{m}") for k in OTHERS.get("attention", {}) or kernels()["attention"]
      for m in MASKS if k != "usual"),
    *(("rotary", "simple", lambda i=i: rotary(i), f"{i}") for i in (False, True)),
    ("silu", "sigmoid_mul", silu, ""),
]  # fmt: skip


def chosen(program: Program, tmp_path: Path, option: str, choice: str) -> tuple[Built, set[str]]:
    """Built with an option wherever it is offered, and the operators that its model holds."""
    import onnx

    engine, machine = OnnxRuntime(), this_machine()
    task = Task(machine, engine.capabilities(machine), ranges=program.symbols)
    offered = [p.site for p in compile_program(program, task).picks if p.choice.name == choice]
    assert offered
    task = replace(task, tuning=Table(dict.fromkeys(offered, Answer(option))))
    built = build_files(compile_program(program, task), engine, tmp_path)
    return built, {n.op_type for n in onnx.load(built.folder / "main.onnx", load_external_data=False).graph.node}


def same(built: Built, program: Program, inputs: dict[str, np.ndarray]) -> None:
    runner = OnnxRuntime().open(built)
    for name, wanted in evaluate(program, inputs).items():
        got = runner.run("main", inputs)[name]
        np.testing.assert_allclose(got, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("op, kernel, make, what", CASES, ids=[f"{op}-{k}-{w}" for op, k, _, w in CASES])
def test_other_kernels_give_the_same(op, kernel, make, what, tmp_path):
    program, inputs = make()
    built, used = chosen(program, tmp_path, kernel, "kernel")
    assert ("MultiHeadAttention" in used) == (kernel == "multi_head")
    assert used.isdisjoint({"Attention", "RotaryEmbedding", "QuickGelu"})
    same(built, program, inputs)


def test_every_other_kernel_is_tested():
    assert {(op, k) for op, names in kernels().items() for k in names[1:]} == {(op, k) for op, k, *_ in CASES}


@pytest.mark.parametrize("fusion", [Fusion(*key) for key in sorted(RARE)], ids=lambda f: f.anchor)
def test_rare_fusions_give_the_same(fusion, tmp_path):
    assert (fusion.anchor, fusion.epilogue) in FUSED
    program, inputs = norm(fusion)
    built, used = chosen(program, tmp_path, "fused", "fuse")
    assert "SkipLayerNormalization" in used and "LayerNormalization" not in used
    same(built, program, inputs)
