"""Products with weights of few bits, in whole numbers: what `quantized_matmul` means, to the rounding of f32."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tundish.backends.bundle_write import build_files
from tundish.backends.registry import get
from tundish.backends.tvm.group import groups
from tundish.backends.tvm.lower import cpus
from tundish.compiler.driver import compile_program
from tundish.compiler.hardware.machine import this_machine
from tundish.compiler.task import Precision, Task
from tundish.ir.build import Builder
from tundish.ir.diagnostics import RunError
from tundish.ir.dims import Range, symbol
from tundish.ir.dtypes import f16, f32, i64, u4
from tundish.ir.graph import Program, Value
from tundish.ir.op import OPS
from tundish.ir.tensor import TensorType
from tundish.ir.weights import Held, Weight

from .kit import case, one, opened

pytestmark = pytest.mark.skipif(
    "avx512_vnni" not in this_machine().features, reason="products in whole numbers need AVX-512 VNNI"
)
WIDTH = 32


def quads(rng: np.random.Generator, n: int, k: int, group: int, bits: int, scheme: str) -> list[np.ndarray | None]:
    """A weight's quads, scales and zeros."""
    q = rng.integers(0, 1 << bits, (n, k)).astype(np.uint8)
    panels = [rng.standard_normal((k // group, n)).astype(np.float32) for _ in range(2)]
    cut = [OPS["to_panels"].reference(p, width=WIDTH) for p in panels]
    return [OPS["to_quads"].reference(q, width=WIDTH, bits=bits), cut[0], cut[1] if scheme == "offset" else None]


def test_products_are_what_the_op_means(tmp_path: Path):
    rng, cases = np.random.default_rng(0), {}
    for bits in (4, 8):
        for scheme in ("centred", "offset"):
            for group, k, n in ((32, 64, 1), (32, 96, 33), (64, 192, 64), (128, 256, 95)):
                for m in (1, 3, 4, 9):
                    x = rng.standard_normal((m, k)).astype(np.float32)
                    x[0, :group] = 0  # a group of zeros has no largest size to divide by
                    bias = rng.standard_normal(n).astype(np.float32) if m % 2 else None
                    attrs = {"columns": n, "bits": bits, "group": group, "scheme": scheme, "x_bits": 8}
                    arrays = [x, *quads(rng, n, k, group, bits, scheme), bias]
                    cases[f"p{len(cases)}"] = (one("quad_linear", *arrays, **attrs), arrays, attrs)
    runner = opened({name: c for name, (c, _, _) in cases.items()}, tmp_path)
    for name, (each, arrays, attrs) in cases.items():
        (got,) = runner.run(name, each.inputs).values()
        wanted = OPS["quad_linear"].reference(*arrays, **attrs)
        scale = np.abs(wanted).max()
        # A number of x half way between two bytes may fall to either: one unit of its group's scale.
        np.testing.assert_allclose(got, wanted, atol=2e-2 * scale, rtol=0, err_msg=f"{name} {attrs}")
        assert np.median(np.abs(got - wanted)) < 1e-5 * scale, (name, attrs)


@pytest.mark.parametrize("n", [64, 70])
def test_what_follows_a_product_is_computed_with_it(tmp_path: Path, n: int):
    """A residual sum, an activation and a gate: of the numbers that the product alone gives, for any number of rows."""
    rng, k, attrs = np.random.default_rng(4), 96, {"bits": 4, "group": 32, "scheme": "centred", "x_bits": 8}
    q, scale, _ = quads(rng, n, k, 32, 4, "centred")
    arrays = {"x": (1, k), "r": (1, n), "bias": (n,)}
    given = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in arrays.items()}
    given |= {"q": q, "scale": scale}
    many = {**given, **{name: rng.standard_normal((11, arrays[name][1])).astype(np.float32) for name in ("x", "r")}}

    def plain(b: Builder, x: Value, r: Value, bias: Value, q: Value, scale: Value) -> Value:
        return b.emit("quad_linear", x, q, scale, None, bias, columns=n, **attrs)

    follows = {
        "plain": lambda b, y, r: y, "residual": lambda b, y, r: b.emit("add", r, y),
        "gelu": lambda b, y, r: b.emit("gelu", y), "gate": lambda b, y, r: b.emit("mul", b.emit("silu", r), y),
    }  # fmt: skip
    cases = {
        name: case(lambda b, then=then, **v: then(b, plain(b, **v), v["r"]), given,
                   {"x": ["m", None], "r": ["m", None]}).also(many)
        for name, then in follows.items()
    }  # fmt: skip
    assert [groups(c.graph, cpus()) == {} for c in cases.values()] == [True, False, False, False]
    runner = opened(cases, tmp_path)
    for inputs in (given, many):
        (y,), r = runner.run("plain", inputs).values(), inputs["r"]
        wanted = {
            "residual": r + y, "gelu": OPS["gelu"].reference(y, approximate="none"),
            "gate": OPS["silu"].reference(r) * y,
        }  # fmt: skip
        for name, answer in wanted.items():
            (got,) = runner.run(name, inputs).values()
            np.testing.assert_allclose(got, answer, rtol=2e-5, atol=2e-5, err_msg=name)


def test_rows_are_what_the_op_means(tmp_path: Path):
    rng, cases = np.random.default_rng(1), {}
    for bits in (4, 8):
        for scheme in ("centred", "offset"):
            ids = rng.integers(0, 70, (2, 5))
            table, scale, zero = quads(rng, 70, 96, 32, bits, scheme)
            attrs = {"columns": 70, "bits": bits, "group": 32, "scheme": scheme, "dtype": f32}
            cases[f"r{len(cases)}"] = (one("quad_gather", table, ids, scale, zero, **attrs), attrs)
    runner = opened({name: c for name, (c, _) in cases.items()}, tmp_path)
    for name, (each, attrs) in cases.items():
        (got,) = runner.run(name, each.inputs).values()
        wanted = OPS["quad_gather"].reference(*(each.inputs.get(f"i{i}") for i in range(4)), **attrs)
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6, err_msg=f"{name} {attrs}")


@pytest.mark.parametrize("bad", [-1, 70, 1 << 40])
def test_a_row_that_is_none_is_an_error(tmp_path: Path, bad: int):
    table, scale, _ = quads(np.random.default_rng(3), 70, 64, 32, 8, "centred")
    attrs = {"columns": 70, "bits": 8, "group": 32, "scheme": "centred", "dtype": f32}
    rows = one("quad_gather", table, np.array([0, 69]), scale, None, **attrs)
    runner = opened({"rows": rows}, tmp_path)
    with pytest.raises(RunError, match="an index or a position is outside"):
        runner.run("rows", {**rows.inputs, "i1": np.array([0, bad])})
    runner.run("rows", rows.inputs)


@pytest.mark.parametrize("blocks", ["int8", "int4"])
def test_a_tied_embedding_and_its_head_have_one_copy(blocks: str):
    rng, b = np.random.default_rng(2), Builder()
    table = TensorType(f32, (90, 64))
    weights = {"table": Weight(table, Held(rng.standard_normal((90, 64)).astype(np.float32)))}
    ids = b.input("ids", TensorType(i64, (symbol("seq"),)))
    held = b.emit_node("weight", (), {"name": "table"}, types=(table,)).output
    rows = b.emit("gather", held, ids, axis=0)
    y = b.emit("linear", rows, b.emit("transpose", held, perm=(1, 0)))
    program = Program({"f": b.finish([y], ["y"])}, ("f",), weights, {"seq": Range(1, 9)})
    machine, backend = this_machine(), get("tvm")
    task = Task(machine, backend.capabilities(machine), dataclasses.replace(Precision(), blocks=blocks))
    plan = compile_program(program, task)
    nodes = plan.program.functions["f"].nodes
    assert [n.op.name for n in nodes if n.op.name != "weight"] == ["quad_gather", "quad_linear"]
    used = {n.attrs["name"] for n in nodes if n.op.name == "weight"}
    assert len(used) == 2  # the numbers and the scales, both for both


def test_scales_and_zeros_of_a_file_in_half_precision_are_widened(tmp_path: Path):
    """As in a GGUF file: what stands beside the numbers is f16 there, and kernels read f32."""
    rng, b = np.random.default_rng(3), Builder()
    n, k, group = 40, 64, 32
    q = rng.integers(0, 16, (n, k)).astype(np.uint8)
    scale, zero = (rng.standard_normal((n, k // group)).astype(np.float16) for _ in range(2))
    held = {"q": (u4, q.astype(u4.numpy)), "scale": (f16, scale), "zero": (f16, zero)}
    weights = {name: Weight(TensorType(kind, a.shape), Held(a)) for name, (kind, a) in held.items()}
    x = b.input("x", TensorType(f32, (symbol("seq"), k)))
    parts = [b.emit_node("weight", (), {"name": m}, types=(w.type,)).output for m, w in weights.items()]
    attrs = {"bits": 4, "group": group, "scheme": "offset"}
    whole = b.emit("dequantize", *parts, axis=1, dtype=f32, **attrs)
    program = Program({"f": b.finish([b.emit("linear", x, b.emit("transpose", whole, perm=(1, 0)))], ["y"])}, ("f",),
                      weights, {"seq": Range(1, 9)})  # fmt: skip
    machine, backend = this_machine(), get("tvm")
    task = Task(machine, backend.capabilities(machine), dataclasses.replace(Precision(), blocks="stored"))
    plan = compile_program(program, task)
    assert "quad_linear" in {node.op.name for node in plan.program.functions["f"].nodes}
    runner = backend.open(build_files(plan, backend, tmp_path))
    given = rng.standard_normal((3, k)).astype(np.float32)
    wide = (q.reshape(n, -1, group) * scale[..., None].astype(np.float32) + zero[..., None]).reshape(n, k)
    wanted = given @ wide.T
    np.testing.assert_allclose(runner.run("f", {"x": given})["y"], wanted, atol=2e-2 * np.abs(wanted).max())
