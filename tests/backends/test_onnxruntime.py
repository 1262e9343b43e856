"""The ONNX Runtime backend: its table, its models, its runner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tundish.backends import registry
from tundish.backends.bundle_write import build_files
from tundish.backends.onnxruntime import sessions as ort_sessions
from tundish.backends.onnxruntime.backend import OnnxRuntime
from tundish.backends.onnxruntime.export import export_onnx
from tundish.backends.onnxruntime.lower import NEWEST_OPSET, OLDEST_OPSET, STRUCTURE, declined, decomposed, table
from tundish.backends.onnxruntime.model import emit
from tundish.compiler.hardware.machine import this_machine
from tundish.compiler.plan import Guard, Plan, Variant
from tundish.ir.build import Builder
from tundish.ir.diagnostics import BuildError, LoadError, RunError, Where
from tundish.ir.dims import Range, symbol
from tundish.ir.dtypes import DTYPES, f32, from_numpy, i64
from tundish.ir.evaluate import evaluate
from tundish.ir.graph import Program
from tundish.ir.op import OPS
from tundish.ir.tensor import TensorType
from tundish.ir.weights import Held, Weight

OPSETS = range(OLDEST_OPSET, NEWEST_OPSET + 1)


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("opset", OPSETS)
def test_every_cell_is_a_lowering_a_decomposition_or_a_reason(opset: int, portable: bool) -> None:
    cells = [set(table(opset, portable)), set(decomposed(opset, portable)), set(declined(opset, portable)), STRUCTURE]
    assert set().union(*cells) == set(OPS)
    assert sum(map(len, cells)) == len(OPS), "an op stands in two cells"
    assert all(len(reason) > 10 for reason in declined(opset, portable).values())


@pytest.mark.parametrize("backend", [registry.get("onnxruntime"), OnnxRuntime(portable=True, opset=17)])
def test_capabilities_say_the_same(backend: OnnxRuntime) -> None:
    c = backend.capabilities(this_machine())
    assert c.ops | c.decomposed | set(c.declined) == set(OPS)
    assert not c.ops & c.decomposed and not c.ops & set(c.declined)


def run(plan: Plan, inputs: dict[str, np.ndarray], folder: Path) -> dict[str, np.ndarray]:
    engine = registry.get("onnxruntime")
    return engine.open(build_files(plan, engine, folder), threads=1).run("main", inputs)


def test_the_tiny_model_means_the_same(plan: Plan, inputs: dict[str, np.ndarray], tmp_path: Path) -> None:
    meant = evaluate(plan.program, inputs)
    got = run(plan, inputs, tmp_path)
    for name in ("last_hidden_state", "logits"):
        np.testing.assert_allclose(got[name], meant[name], atol=2e-6, rtol=2e-6)


def test_nodes_are_named_after_modules_and_lines(plan: Plan) -> None:
    model = emit(plan.program, "main")
    names = [n.name for n in model.nodes]
    assert "layers.0.attention/Attention#1" in names and "layers.1.attention/Attention#1" in names
    assert "layers.1.mlp.up/BiasGelu#1" in names
    attention = next(n for n in model.nodes if n.op_type == "Attention")
    assert attention.where == Where("tiny.py", 7, "layers.0.attention")


@pytest.mark.parametrize("keepdims, kind", [(False, "AveragePool"), (True, "ReduceMean")])
def test_means_of_groups_are_pooled(keepdims: bool, kind: str, tmp_path: Path) -> None:
    b = Builder()
    x = b.input("x", TensorType(f32, (symbol("batch"), symbol("seq"), 96)))
    groups = b.emit("reshape", x, shape=(*x.type.shape[:2], 3, 32))
    graph = b.finish([b.emit("mean", groups, axes=(3,), keepdims=keepdims)])
    program = Program({"main": graph}, ("main",), {}, {n: Range(1, 9) for n in ("batch", "seq")})
    plan = Plan(program, {"main": (Variant(Guard(), "main"),)}, "onnxruntime", "cpu")
    kinds = [n.op_type for n in emit(program, "main").nodes]
    assert kind in kinds and ("Reshape" in kinds) == keepdims
    given = {"x": np.random.default_rng(0).standard_normal((2, 5, 96), np.float32)}
    (got,), (meant,) = run(plan, given, tmp_path).values(), evaluate(program, given).values()
    np.testing.assert_allclose(got, meant, atol=1e-6)


def test_what_all_layers_share_is_computed_once(plan: Plan) -> None:
    model = emit(plan.program, "main")
    kinds = [n.op_type for n in model.nodes]
    assert kinds.count("Attention") == 2
    assert kinds.count("Shape") <= 2 and kinds.count("Expand") == 1 and kinds.count("Equal") == 1
    assert kinds.count("Reshape") == 1, "the reshapes to heads and back cancel; the mask's stays"


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("opset", OPSETS)
def test_export_at_every_opset(
    opset: int, portable: bool, plan: Plan, inputs: dict[str, np.ndarray], tmp_path: Path
) -> None:
    import onnxruntime as ort

    path = tmp_path / "m.onnx"
    row = export_onnx(plan, path, portable=portable, opset=opset)
    assert (row["file"], row["external_data"], row["bytes"]) == (str(path), None, path.stat().st_size)
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path)
    assert model.producer_name == "tundish"
    domains = {o.domain: o.version for o in model.opset_import}
    assert domains.pop("") == opset
    assert not portable or not domains
    got = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(["logits"], inputs)[0]
    np.testing.assert_allclose(got, evaluate(plan.program, inputs)["logits"], atol=3e-6, rtol=3e-6)


def test_large_weights_go_to_one_file_beside(plan: Plan, inputs: dict[str, np.ndarray], tmp_path: Path) -> None:
    import onnxruntime as ort

    path = tmp_path / "m.onnx"
    assert export_onnx(plan, path, limit_bytes=1000)["external_data"] == f"{path}.data"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    onnx.checker.check_model(str(path), full_check=True)
    got = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(["logits"], inputs)[0]
    np.testing.assert_allclose(got, evaluate(plan.program, inputs)["logits"], atol=3e-6, rtol=3e-6)


def test_export_gives_the_same_bytes_twice(plan: Plan, tmp_path: Path) -> None:
    paths = [tmp_path / n for n in ("a.onnx", "b.onnx")]
    for path in paths:
        export_onnx(plan, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_an_opset_that_is_not_there(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="opset 16 is not supported"):
        export_onnx(plan, tmp_path / "m.onnx", opset=16)
    assert not list(tmp_path.iterdir())


def test_input_that_does_not_fit_is_named(plan: Plan, inputs: dict[str, np.ndarray], tmp_path: Path) -> None:
    engine = registry.get("onnxruntime")
    runner = engine.open(build_files(plan, engine, tmp_path), threads=1)
    wrong = {
        "missing input attention_mask": {"input_ids": inputs["input_ids"]},
        "unknown input other": {**inputs, "other": inputs["input_ids"]},
        "input 'input_ids' is i64": {**inputs, "input_ids": inputs["input_ids"].astype(np.int32)},
        "seq is 7 in one input and 5": {**inputs, "attention_mask": inputs["attention_mask"][:, :5]},
        r"batch is 9, outside 1\.\.8": {k: np.ones((9, 3), np.int64) for k in inputs},
    }
    for problem, given in wrong.items():
        with pytest.raises(RunError, match=problem):
            runner.run("main", given)
    with pytest.raises(RunError, match="there is no entry 'other'"):
        runner.run("other", inputs)
    with pytest.raises(RunError, match="there is no output pooled"):
        runner.run("main", inputs, ["pooled"])


def test_only_the_wanted_outputs(plan: Plan, inputs: dict[str, np.ndarray], tmp_path: Path) -> None:
    engine = registry.get("onnxruntime")
    runner = engine.open(build_files(plan, engine, tmp_path), threads=1)
    assert list(runner.run("main", inputs, ["logits"])) == ["logits"]


def test_a_provider_that_is_missing_is_an_error(
    plan: Plan, inputs: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ort_sessions.PROVIDERS, "cuda", "NoSuchExecutionProvider")
    with pytest.raises(LoadError, match="has no NoSuchExecutionProvider"):
        run(plan.replace(target="cuda"), inputs, tmp_path)


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a GPU, where the provider does start")
def test_a_provider_that_does_not_start_is_an_error(
    plan: Plan, inputs: dict[str, np.ndarray], tmp_path: Path
) -> None:
    import onnxruntime as ort

    if "CUDAExecutionProvider" not in ort.get_available_providers():
        pytest.skip("this build of onnxruntime has no CUDA provider")
    with pytest.raises(LoadError, match="CUDAExecutionProvider"):
        run(plan.replace(target="cuda"), inputs, tmp_path)


@pytest.mark.gpu
def test_cuda_means_the_same(plan: Plan, inputs: dict[str, np.ndarray], tmp_path: Path) -> None:
    got = run(plan.replace(target="cuda"), inputs, tmp_path)["logits"]
    np.testing.assert_allclose(got, evaluate(plan.program, inputs)["logits"], atol=2e-3, rtol=2e-3)


def test_the_first_variant_whose_guard_holds_runs(tmp_path: Path) -> None:
    functions = {}
    for name, value in (("short", 1.0), ("long", 2.0)):
        b = Builder(Where("m.py", 1))
        x = b.input("x", TensorType(f32, (symbol("s"),)))
        functions[name] = b.finish([b.emit("mul", x, b.constant(value, f32))], ["y"])
    program = Program(functions, ("short", "long"), {}, {"s": Range(1, 9)})
    variants = (Variant(Guard("s", "<=", 2), "short"), Variant(Guard(), "long"))
    plan = Plan(program, {"main": variants}, "onnxruntime", "cpu")
    engine = registry.get("onnxruntime")
    runner = engine.open(build_files(plan, engine, tmp_path), threads=1)
    for size, factor in ((2, 1.0), (3, 2.0)):
        x = np.ones(size, np.float32)
        np.testing.assert_array_equal(runner.run("main", {"x": x})["y"], x * factor)


def test_an_output_that_is_an_input_or_a_weight(tmp_path: Path) -> None:
    b = Builder(Where("m.py", 1))
    x = b.input("x", TensorType(i64, (symbol("s"),)))
    graph = b.finish([x, x, b.constant(3, i64)], ["same", "again", "three"])
    plan = Plan(Program({"main": graph}, ("main",)), {"main": (Variant(Guard(), "main"),)}, "onnxruntime", "cpu")
    got = run(plan, {"x": np.arange(3)}, tmp_path)
    assert got["same"].tolist() == got["again"].tolist() == [0, 1, 2] and got["three"] == 3


def test_sizes_of_zero_reshape_rightly(tmp_path: Path) -> None:
    b = Builder(Where("m.py", 1))
    past, batch = symbol("past"), symbol("batch")
    x = b.input("x", TensorType(f32, (batch, past, 4, 2)))
    shapes = (batch, past, 8), (batch * past, 8)
    graph = b.finish([b.emit("reshape", x, shape=s) for s in shapes], ["y", "z"])
    program = Program({"main": graph}, ("main",), {}, {"past": Range(0, 9), "batch": Range(1, 4)})
    plan = Plan(program, {"main": (Variant(Guard(), "main"),)}, "onnxruntime", "cpu")
    got = run(plan, {"x": np.zeros((2, 0, 4, 2), np.float32)}, tmp_path)
    assert got["y"].shape == (2, 0, 8) and got["z"].shape == (0, 8)


def test_attention_gives_zero_where_nothing_may_be_seen(plan: Plan, tmp_path: Path) -> None:
    b = Builder(Where("m.py", 1))
    s = symbol("s")
    x = b.input("x", TensorType(f32, (1, s, 2, 4)))
    m = b.input("m", TensorType(i64, (1, s)))
    out = b.emit("attention", x, x, x, b.emit("ne", m, b.constant(0, i64)), scale=0.5, causal=True)
    program = Program({"main": b.finish([out], ["y"])}, ("main",), {}, {"s": Range(1, 9)})
    plan = Plan(program, {"main": (Variant(Guard(), "main"),)}, "onnxruntime", "cpu")
    x = np.random.default_rng(0).standard_normal((1, 5, 2, 4)).astype(np.float32)
    got = run(plan, {"x": x, "m": np.array([[0, 0, 1, 1, 1]])}, tmp_path)["y"]
    assert not got[0, :2].any() and got[0, 2:].all()


def test_a_bias_of_the_least_number_is_no_minus_infinity(tmp_path: Path) -> None:
    """ONNX Runtime's operator takes it for -inf: a row of it alone would give 0 and not the average."""
    b = Builder(Where("m.py", 1))
    s = symbol("s")
    x = b.input("x", TensorType(f32, (1, s, 2, 4)))
    bias = b.input("bias", TensorType(f32, (1, 1, 1, s)))
    graph = b.finish([b.emit("attention", x, x, x, None, bias, scale=0.5)], ["y"])
    program = Program({"main": graph}, ("main",), {}, {"s": Range(1, 9)})
    plan = Plan(program, {"main": (Variant(Guard(), "main"),)}, "onnxruntime", "cpu")
    x = np.random.default_rng(0).standard_normal((1, 5, 2, 4)).astype(np.float32)
    least = np.full((1, 1, 1, 5), np.finfo(np.float32).min)
    got = run(plan, {"x": x, "bias": least}, tmp_path)["y"]
    np.testing.assert_allclose(got, np.broadcast_to(x.mean(1, keepdims=True), x.shape), rtol=1e-5, atol=1e-6)
    (tmp_path / "b").mkdir()
    assert not run(plan, {"x": x, "bias": np.full_like(least, -np.inf)}, tmp_path / "b")["y"].any()


def test_a_weight_without_elements(tmp_path: Path) -> None:
    """Such as the registers of a vision model that has none: there are no bytes of it in the file."""
    b = Builder(Where("m.py", 1))
    s = symbol("s")
    x, type = b.input("x", TensorType(f32, (s, 3))), TensorType(f32, (0, 3))
    nothing = b.emit_node("weight", (), {"name": "w"}, types=[type], names=("w",)).output
    graph = b.finish([b.emit("concat", x, nothing, axis=0)], ["y"])
    held = {"w": Weight(type, Held(np.zeros((0, 3), np.float32)))}
    program = Program({"main": graph}, ("main",), held, {"s": Range(1, 9)})
    plan = Plan(program, {"main": (Variant(Guard(), "main"),)}, "onnxruntime", "cpu")
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(run(plan, {"x": x}, tmp_path)["y"], x)


def one_op(folder: Path, op: str, attrs: dict[str, object], *arrays: np.ndarray) -> np.ndarray:
    """One op alone, on these arrays."""
    b = Builder(Where("m.py", 1))
    names = [f"x{i}" for i in range(len(arrays))]
    taken = [b.input(n, TensorType(from_numpy(a.dtype), a.shape)) for n, a in zip(names, arrays, strict=True)]
    graph = b.finish([b.emit_node(op, taken, attrs).output], ["y"])
    plan = Plan(Program({"main": graph}, ("main",)), {"main": (Variant(Guard(), "main"),)}, "onnxruntime", "cpu")
    return run(plan, dict(zip(names, arrays, strict=True)), folder)["y"]


def test_remainders_at_infinity(tmp_path: Path) -> None:
    a = np.array([5, -5, 0, 5, np.inf, 6, -6], np.float32)
    b = np.array([np.inf, np.inf, 3, -np.inf, 2, 3, 3], np.float32)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(one_op(tmp_path, "mod", {}, a, b), np.mod(a, b))


def test_none_of_nothing_is_true_and_all_are(tmp_path: Path) -> None:
    for op, meant in (("any", False), ("all", True)):
        (tmp_path / op).mkdir()
        assert one_op(tmp_path / op, op, {"axes": (1,)}, np.zeros((2, 0), bool)).tolist() == [meant, meant]


@pytest.mark.parametrize("name", ["bf16", "f8e4m3", "f8e5m2"])
def test_floats_that_numpy_lacks_go_in_and_out(name: str, tmp_path: Path) -> None:
    x = np.array([[1.5, -2.0, 0.0]]).astype(DTYPES[name].numpy)
    y = one_op(tmp_path, "reshape", {"shape": (3, 1)}, x)
    assert y.dtype == x.dtype and y.tolist() == [[1.5], [-2.0], [0.0]]
