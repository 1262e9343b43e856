"""Layers of experts on ONNX Runtime: any routing, any number of tokens, as floats and in few bits, in a plain file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tundish.backends.bundle_write import build_files
from tundish.backends.onnxruntime.backend import OnnxRuntime
from tundish.backends.onnxruntime.export import export_onnx
from tundish.compiler.driver import compile_program
from tundish.compiler.hardware.machine import this_machine
from tundish.compiler.plan import Plan
from tundish.compiler.task import Precision, Task
from tundish.ir.build import Builder
from tundish.ir.diagnostics import TundishError
from tundish.ir.dims import Range, symbol
from tundish.ir.dtypes import f32, i64
from tundish.ir.evaluate import evaluate
from tundish.ir.graph import Program
from tundish.ir.ops.moe import ACTIVATIONS
from tundish.ir.tensor import TensorType
from tundish.ir.weights import Held, Weight

from .tvm.test_experts import TOKENS, numbers, plain, routed

SHAPES: dict[str, dict[str, Any]] = {
    "few": {"e": 8, "k": 2, "d": 64, "f": 32, "act": "swiglu", "bias": False},
    "one a token": {"e": 5, "k": 1, "d": 32, "f": 64, "act": "gelu", "bias": True},
    "all": {"e": 3, "k": 3, "d": 7, "f": 5, "act": "swiglu_oai", "bias": True},
    "one expert": {"e": 1, "k": 1, "d": 32, "f": 32, "act": "geglu_tanh", "bias": False},
    **{act: {"e": 4, "k": 2, "d": 8, "f": 6, "act": act, "bias": True} for act in ACTIVATIONS},
}
HOW = ("any", "one expert", "weights of 0", "the same again")


def program_of(e: int, k: int, d: int, f: int, act: str, bias: bool) -> Program:
    b, t, weights = Builder(), symbol("t"), dict[str, Weight]()
    given = [b.input("x", TensorType(f32, (t, d))), b.input("ids", TensorType(i64, (t, k))),
             b.input("share", TensorType(f32, (t, k)))]  # fmt: skip
    parts = []
    for name, array in zip(("up", "down", "up_bias", "down_bias"), plain(e, k, d, f, act, bias), strict=True):
        if array is not None:
            weights[name] = Weight(TensorType(f32, array.shape), Held(array))
            parts.append(b.emit_node("weight", (), {"name": name}, types=(weights[name].type,)).output)
    y = b.emit("moe", *given, *parts, activation=act)
    return Program({"forward": b.finish([y], ["y"])}, ("forward",), weights, {"t": Range(1, 1 << 12)})


def planned(program: Program, *, blocks: str = "", engine: OnnxRuntime | None = None) -> Plan:
    machine, precision = this_machine(), dataclasses.replace(Precision(), blocks=blocks)
    able = (engine or OnnxRuntime()).capabilities(machine)
    return compile_program(program, Task(machine, able, precision, program.symbols))


def given(shape: dict[str, Any], tokens: int, how: str) -> dict[str, np.ndarray]:
    ids, share = routed(how, tokens, shape["e"], shape["k"])
    return {"x": numbers(np.random.default_rng(tokens), tokens, shape["d"]), "ids": ids, "share": share}


@pytest.mark.parametrize("name", SHAPES)
def test_any_routing_of_any_number_of_tokens(name: str, tmp_path: Path) -> None:
    program, engine = program_of(**SHAPES[name]), OnnxRuntime()
    runner = engine.open(build_files(planned(program), engine, tmp_path), threads=2)
    for tokens in TOKENS:
        for how in HOW if SHAPES[name]["e"] > 1 else HOW[:1]:
            inputs = given(SHAPES[name], tokens, how)
            wanted, got = evaluate(program, inputs, "forward")["y"], runner.run("forward", inputs)["y"]
            bound = 1e-5 * max(1, np.abs(wanted).max())
            np.testing.assert_allclose(got, wanted, rtol=0, atol=bound, err_msg=f"{tokens} tokens, {how}")


@pytest.mark.parametrize("blocks", ["int8", "int4"])
def test_experts_in_few_bits_are_what_the_op_means(blocks: str, tmp_path: Path) -> None:
    for name in ("few", "one a token"):
        program, engine = program_of(**SHAPES[name]), OnnxRuntime()
        plan = planned(program, blocks=blocks)
        assert [n.op.name for n in plan.program.entry.nodes if n.op.name != "weight"] == ["quantized_moe"]
        folder = tmp_path / name
        folder.mkdir()
        runner = engine.open(build_files(plan, engine, folder), threads=2)
        for tokens in TOKENS:
            inputs = given(SHAPES[name], tokens, "any")
            wanted, got = evaluate(plan.program, inputs, "forward")["y"], runner.run("forward", inputs)["y"]
            # Its kernels round x in groups of their own: a few units of a byte.
            np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-2 * np.abs(wanted).max(), err_msg=f"{tokens}")


@pytest.mark.parametrize("opset", [17, 23])
def test_a_plain_file_runs_the_chosen_experts_alone(opset: int, tmp_path: Path) -> None:
    import onnx
    import onnxruntime

    shape = SHAPES["few"]
    program = program_of(**shape)
    plan = planned(program, engine=OnnxRuntime(portable=True, opset=opset))
    export_onnx(plan, tmp_path / "moe.onnx", portable=True, opset=opset)
    model = onnx.load(tmp_path / "moe.onnx")
    assert not {n.domain for n in model.graph.node} - {""}
    assert sum(n.op_type == "MatMul" for n in model.graph.node) == 2 * shape["e"]
    session = onnxruntime.InferenceSession(str(tmp_path / "moe.onnx"), providers=["CPUExecutionProvider"])
    for tokens in TOKENS:
        inputs = given(shape, tokens, "any")
        (got,) = session.run(None, inputs)
        np.testing.assert_allclose(got, evaluate(program, inputs, "forward")["y"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("bad", [-1, 8])
def test_an_expert_that_does_not_exist_ends_the_run(bad: int, tmp_path: Path) -> None:
    engine = OnnxRuntime()
    runner = engine.open(build_files(planned(program_of(**SHAPES["few"])), engine, tmp_path), threads=1)
    inputs = given(SHAPES["few"], 9, "any")
    inputs["ids"][4, 1] = bad
    with pytest.raises(TundishError):
        runner.run("forward", inputs)
