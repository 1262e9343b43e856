"""A bundle of the TVM backend opens without TVM's compiler, on the CPUs it was made for, and says so elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tundish.backends import bundle as bundle_module
from tundish.backends.bundle import open_bundle
from tundish.backends.bundle_write import write_bundle
from tundish.backends.registry import get
from tundish.compiler.driver import compile_program
from tundish.compiler.hardware.baselines import NAMED, bodies
from tundish.compiler.hardware.machine import Machine, this_machine
from tundish.compiler.task import Task
from tundish.ir.build import Builder
from tundish.ir.diagnostics import LoadError
from tundish.ir.dims import Range, symbol
from tundish.ir.dtypes import f32
from tundish.ir.evaluate import Evaluator
from tundish.ir.graph import Program
from tundish.ir.tensor import TensorType
from tundish.ir.weights import Held, Weight

D, WIDE = 48, 100  # of which the second is no multiple of a panel's columns


def program() -> Program:
    rng, b, weights = np.random.default_rng(0), Builder(), {}
    x = b.input("x", TensorType(f32, (symbol("seq"), D)))

    def weight(name: str, *shape: int) -> object:
        weights[name] = Weight(TensorType(f32, shape), Held(rng.standard_normal(shape).astype(np.float32)))
        return b.emit_node("weight", (), {"name": name}, types=(TensorType(f32, shape),)).output

    h = b.emit("layer_norm", x, weight("gain", D), weight("shift", D), eps=1e-5)
    h = b.emit("gelu", b.emit("linear", h, weight("up", D, WIDE), weight("up_bias", WIDE)))
    y = b.emit("add", b.emit("linear", h, weight("down", WIDE, D)), x)
    return Program({"forward": b.finish([y], ["y"])}, ("forward",), weights, {"seq": Range(1, 64)})


def build(folder: Path, target: str = "cpu") -> Path:
    backend, machine = get("tvm"), this_machine(target)
    plan = compile_program(program(), Task(machine, backend.capabilities(machine)))
    return write_bundle(folder, plan, backend, name="tiny", info={"dtype": "f32"}).path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("tvm") / "tiny")


def inputs(rows: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(rows).standard_normal((rows, D), np.float32)}


def close(path: Path, rows: int = 13, threads: int | None = None) -> None:
    wanted = Evaluator(program()).run(inputs(rows), "forward")["y"]
    with open_bundle(path, threads=threads) as opened:
        np.testing.assert_allclose(opened.run(inputs(rows))["y"], wanted, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 64])
@pytest.mark.parametrize("threads", [1, 2])
def test_answers_do_not_hang_on_threads(made: Path, rows: int, threads: int):
    close(made, rows, threads)


def test_runs_at_once_from_several_threads_give_each_its_answer(made: Path):
    with open_bundle(made) as opened:
        alone = {rows: opened.run(inputs(rows))["y"] for rows in range(1, 9)}
        wrong: list[int] = []

        def work(rows: int) -> None:
            for _ in range(20):
                if not np.array_equal(opened.run(inputs(rows))["y"], alone[rows]):
                    wrong.append(rows)

        threads = [threading.Thread(target=work, args=(rows,)) for rows in alone]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_inputs_that_are_not_contiguous_are_taken(made: Path):
    x = np.asfortranarray(inputs(5)["x"])
    with open_bundle(made) as opened:
        np.testing.assert_array_equal(opened.run({"x": x})["y"], opened.run(inputs(5))["y"])


def test_it_opens_without_the_compiler(made: Path):
    """With neither TVM nor torch to be had, it runs on the library that it brings."""
    code = """
import sys
for name in ("tvm", "torch", "transformers", "onnx", "onnxruntime"):
    sys.modules[name] = None
import numpy as np
from tundish.backends.bundle import open_bundle
with open_bundle(sys.argv[1]) as opened:
    print(opened.run({"x": np.zeros((3, 48), np.float32)})["y"].shape)
maps = open("/proc/self/maps").read()
print("libtvm_compiler" in maps, sys.argv[1] + "/tvm/libtvm_runtime.so" in maps)
"""
    done = subprocess.run([sys.executable, "-c", code, str(made)], capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == ["(3, 48)", "False True"], done.stderr


def masked(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    own = this_machine()
    less = Machine(own.target, own.arch, own.name, own.cores, own.features - set(missing), own.memory_bytes)
    for module in (bundle_module, sys.modules.get("tundish.backends.tvm.runner")):
        if module is not None:
            monkeypatch.setattr(module, "this_machine", lambda *_: less)


def test_a_cpu_without_its_features_is_told_in_one_line(made: Path, monkeypatch: pytest.MonkeyPatch):
    masked(monkeypatch, "avx512f", "avx2")
    with pytest.raises(LoadError, match="CPU features that this machine lacks") as caught:
        open_bundle(made)
    assert "\n" not in caught.value.problem


@pytest.mark.skipif("avx512f" not in this_machine().features, reason="needs AVX-512 to compare with")
def test_two_bodies_each_for_its_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import tundish.backends.tvm.runner  # noqa: F401  (so that it can be masked)

    path = build(tmp_path / "both", "cpu-x86-64-v3+v4")
    manifest = json.loads((path / "manifest.json").read_text())
    assert "avx512f" not in manifest["features"] and "avx2" in manifest["features"]
    libraries = [b["library"] for b in manifest["options"]["bodies"]]
    assert [name.partition("-kernels")[0].partition(".")[0] for name in libraries] == ["x86-64-v4", "x86-64-v3"]
    close(path)
    masked(monkeypatch, "avx512f")
    close(path)
    maps = Path("/proc/self/maps").read_text()
    assert all(f"{path}/tvm/{name}" in maps for name in libraries)


def test_a_library_cut_short_is_caught_before_it_is_loaded(made: Path, tmp_path: Path):
    import shutil

    path = tmp_path / "cut"
    shutil.copytree(made, path)
    (library,) = (path / "tvm").glob("kernels-*.so")
    whole = library.read_bytes()
    for broken, said in ((whole[:-100], "has the wrong size"), (whole[:-1] + b"?", "was changed")):
        library.write_bytes(broken)
        with pytest.raises(LoadError, match=rf"kernels-\w+\.so {said}"):
            open_bundle(path)
    assert str(path) not in Path("/proc/self/maps").read_text()


def test_compiling_twice_gives_the_same_bytes(made: Path, tmp_path: Path):
    again = build(tmp_path / "tiny")
    files = [p.relative_to(made) for p in made.rglob("*") if p.is_file()]
    assert [str(f) for f in files if (made / f).read_bytes() != (again / f).read_bytes()] == []


def test_named_targets_are_the_ones_that_are_built_for():
    assert set(NAMED) <= get("tvm").capabilities(this_machine()).targets
    assert all(bodies(name) for name in NAMED) and bodies("cpu") == () and bodies("cuda") == ()
