"""Every op × dtype × backend against the numpy meaning, at one table of tolerances."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tundish.backends import registry
from tundish.backends.bundle_write import build_files
from tundish.backends.onnxruntime.model import emit, proto
from tundish.compiler.capabilities import Capabilities
from tundish.compiler.hardware.machine import this_machine
from tundish.compiler.plan import Guard, Plan, Variant
from tundish.ir import dims
from tundish.ir.build import Builder
from tundish.ir.diagnostics import BuildError
from tundish.ir.dims import Range
from tundish.ir.dtypes import DTYPES, from_numpy
from tundish.ir.evaluate import Evaluator
from tundish.ir.graph import Program
from tundish.ir.op import OPS, get
from tundish.ir.tensor import TensorType

# |got - meaning| <= tolerance · max(1, largest |meaning|); whole numbers and booleans must be equal.
TOLERANCE = {"f64": 1e-6, "f32": 2e-6, "f16": 2e-3, "bf16": 2e-2}
FLOATS = ("f32", "f16", "bf16")
SIZES = {"b": 2, "s": 5, "t": 7}


@dataclass(frozen=True)
class Case:
    """inputs: `dtype[shape]` with F for the floating type under test and I for the whole one; "_" is absent.

    low, high: where the floating inputs lie.
    """

    op: str
    inputs: tuple[str, ...] = ()
    attrs: dict[str, Any] = field(default_factory=dict)
    low: float = -3.0
    high: float = 3.0
    most: int = 4  # whole inputs lie in [0, most)

    def __str__(self) -> str:
        return f"{self.op}({', '.join(self.inputs)}; {self.attrs})"


def d(text: str) -> tuple[Any, ...]:
    return tuple(dims.parse(x) for x in text.split())


_REDUCED = ("add", "mul", "max", "min")
X, ROW = "F[b,s,8]", "F[8]"
CASES = [
    *(Case(n, (X, X)) for n in ("add", "sub", "mul", "maximum", "minimum")),
    Case("add", (X, "F[s,1]")), Case("mul", ("F[]", X)), Case("add", ("I[b,s]", "I[]")),
    Case("div", (X, X), low=0.5), Case("div", ("N[b,s]", "P[s]")),
    Case("mod", (X, X), low=0.5), Case("mod", ("N[b,s]", "P[b,s]")),
    Case("pow", (X, X), low=0.2, high=2.0), Case("sub", ("I[b,s]", "I[b,s]")), Case("mul", ("I[s]", "I[b,1]")),
    Case("maximum", ("I[s]", "I[b,1]")), Case("minimum", ("I[s]", "I[b,1]")),
    *(Case(n, (x, x)) for n in ("eq", "ne", "lt", "le", "gt", "ge") for x in (X, "I[b,s]")),
    Case("eq", ("bool[b,s]", "bool[s]")), Case("ne", ("bool[b,s]", "bool[s]")),
    *(Case(n, ("bool[b,s]", "bool[s]")) for n in ("and", "or", "xor")), Case("not", ("bool[b,s]",)),
    *(Case(n, (X,)) for n in ("neg", "abs", "sign", "floor", "ceil", "round", "exp", "tanh", "sin", "cos", "erf")),
    *(Case(n, (X,)) for n in ("sigmoid", "silu", "relu", "isnan")),
    *(Case(n, ("N[b,s]",)) for n in ("neg", "abs", "sign")),
    *(Case(n, (X,), low=0.1) for n in ("log", "sqrt", "rsqrt", "reciprocal")),
    *(Case(n, (X,)) for n in ("atan", "sinh", "cosh", "asinh")), Case("tan", (X,), low=-1.2, high=1.2),
    *(Case(n, (X,), low=-0.9, high=0.9) for n in ("asin", "acos", "atanh")), Case("acosh", (X,), low=1.1),
    *(Case(n, ("N[b,s]", "P[s]")) for n in ("bit_and", "bit_or", "bit_xor")),
    Case("gelu", (X,)), Case("gelu", (X,), {"approximate": "tanh"}),
    *(Case("cast", (x,), {"dtype": DTYPES[n]}) for x in (X, "N[b,s]", "bool[b,s]")
      for n in ("f32", "f16", "bf16", "f64", "i64", "i32", "bool")),
    Case("where", ("bool[b,s,1]", X, X)), Case("where", ("bool[s]", "I[b,s]", "I[]")),
    Case("reshape", (X,), {"shape": d("b s*8")}), Case("reshape", (X,), {"shape": d("b*s 2 4")}),
    Case("reshape", (X,), {"shape": d("b 1 s 8")}), Case("reshape", (X,), {"shape": d("s b 8")}),
    Case("transpose", (X,), {"perm": (2, 0, 1)}), Case("transpose", ("I[b,s]",), {"perm": (1, 0)}),
    Case("transpose", ("bool[b,s]",), {"perm": (1, 0)}),
    Case("expand", ("F[s,1]",), {"shape": d("b s 8")}), Case("expand", ("bool[1,1,s]",), {"shape": d("b t s")}),
    Case("concat", (X, X), {"axis": 1}), Case("concat", ("F[b,s]", "F[b,t]"), {"axis": -1}),
    Case("concat", ("I[s]",), {"axis": 0}),
    Case("slice", (X,), {"axis": 2, "start": 1, "stop": 7, "step": 2}),
    Case("slice", (X,), {"axis": 1, "start": 1, "stop": dims.symbol("s") - 1}),
    Case("slice", (X,), {"axis": -2, "start": 0, "stop": dims.symbol("s")}),
    Case("split", (X,), {"axis": -1, "sizes": (2, 5, 1)}), Case("split", (X,), {"axis": 2, "sizes": (8,)}),
    Case("split", ("F[b,s+t]", "F[t]", "F[s]"), {"axis": 1, "sizes": d("s t")}),
    Case("pad", (X,), {"before": (0, 1, 2), "after": (0, 0, 3), "value": -1.5}),
    Case("pad", ("I[b,s]",), {"before": (0, 1), "after": (0, 0), "value": 2.0}),
    Case("pad", ("bool[b,s]",), {"before": (0, 1), "after": (0, 0), "value": 1.0}),
    Case("gather", ("F[4,8]", "I[b,s]"), {"axis": 0}),
    Case("gather", (X, "I[t]"), {"axis": 1}), Case("gather", (X, "I[]"), {"axis": -1}),
    Case("gather_elements", (X, "I[b,s,8]"), {"axis": 1}),
    Case("gather_elements", ("F[b,8]", "I[b,t]"), {"axis": -1}),
    Case("scatter_elements", (X, "ONES[b,1,8]", "F[b,1,8]"), {"axis": 1}),
    *(Case("scatter_elements", (X, "I[b,t,8]", "F[b,t,8]"), {"axis": 1, "reduction": r}) for r in _REDUCED),
    Case("iota", (), {"length": dims.symbol("s")}),
    Case("iota", (), {"length": 4, "start": dims.symbol("t"), "step": 3}),
    Case("iota", (), {"length": dims.symbol("s"), "dtype": DTYPES["i32"]}),
    Case("iota", (), {"length": 4, "start": 2, "step": -3}),
    Case("topk", (X,), {"k": 3}), Case("topk", (X,), {"k": 2, "axis": 1, "largest": False}),
    Case("topk", ("I[b,s]",), {"k": 3}),
    *(Case(n, (X,), {"axes": a, "keepdims": k}) for n in ("sum", "mean", "max", "min", "prod")
      for a, k in (((-1,), True), ((0, 2), False))),
    *(Case(n, ("I[b,s]",), {"axes": (1,)}) for n in ("sum", "max", "min")), Case("sum", (X,), {"axes": ()}),
    *(Case(n, ("bool[b,s]",), {"axes": (1,), "keepdims": k}) for n in ("any", "all") for k in (True, False)),
    Case("argmax", (X,), {"axis": -1}), Case("argmax", ("I[b,s]",), {"axis": 0, "keepdims": True}),
    Case("cumsum", (X,), {"axis": 1}), Case("cumsum", ("I[b,s]",), {"axis": -1}),
    Case("matmul", (X, "F[8,3]")), Case("matmul", ("F[b,1,s,8]", "F[4,8,t]")),
    Case("linear", (X, "F[8,3]")), Case("linear", ("F[b,8]", "F[8,3]", "F[3]")),
    Case("conv", ("F[b,4,8,s+3]", "F[6,4,3,2]", "F[6]")),
    Case("conv", ("F[b,4,8,s+3]", "F[6,2,3,2]"), {"strides": (2, 1), "before": (1, 0), "after": (2, 3), "groups": 2}),
    Case("conv", ("F[b,3,8,12]", "F[5,3,4,4]", "F[5]"), {"strides": (4, 4)}),
    Case("conv", ("F[b,4,9,s+4]", "F[4,1,3,3]"),
         {"dilations": (2, 1), "before": (2, 1), "after": (2, 1), "groups": 4}),
    Case("conv", ("F[b,4,s+4]", "F[5,4,3]", "F[5]"), {"after": (2,)}),
    Case("conv", ("F[b,2,4,s+2,3]", "F[5,2,3,2,1]"), {"strides": (1, 2, 1), "before": (1, 0, 0)}),
    Case("rms_norm", (X, ROW), {"eps": 1e-6}), Case("layer_norm", (X, ROW, ROW), {"eps": 1e-5}),
    Case("layer_norm", (X, ROW), {"eps": 1e-12}),
    Case("softmax", (X,)), Case("softmax", (X,), {"axis": 1}),
    Case("rotary", ("F[b,s,4,8]", "COS[b,s,8]", "SIN[b,s,8]")),
    Case("rotary", ("F[b,s,4,8]", "COS[1,s,8]", "SIN[1,s,8]")),
    Case("rotary", ("F[b,s,4,8]", "COS[b,s,4]", "SIN[b,s,4]")),
    Case("rotary", ("F[b,s,4,8]", "COS2[b,s,8]", "SIN2[b,s,8]"), {"interleaved": True}),
    Case("rotary", ("F[b,s,4,8]", "COS2[1,s,4]", "SIN2[1,s,4]"), {"interleaved": True}),
    Case("cache_write", ("F[b,2,s+t,4]", "F[b,2,s,4]", "I[b]"), {"axis": 2}),
    *(Case("cached_attention", (*new, *held, "I[b]", *more), {"scale": 0.3, **attrs})
      for new, held in (
          (("F[b,1,4,8]", "F[b,1,2,8]", "F[b,1,2,8]"), ("F[b,2,t,8]", "F[b,2,t,8]")),  # decoding
          (("F[b,s,4,8]", "F[b,s,2,8]", "F[b,s,2,8]"), ("F[b,2,s+t,8]", "F[b,2,s+t,8]")),  # row by row
          (("F[b,s,4,5]", "F[b,s,2,5]", "F[b,s,2,6]"), ("F[b,2,s+t,5]", "F[b,2,s+t,6]")),  # in its parts
      )
      for more, attrs in (((), {}), ((), {"window": 3}), ((), {"softcap": 2.0}), (("_", "F[4]"), {}))),
    Case("cached_attention", ("F[b,1,4,8]", "F[b,1,2,8]", "F[b,1,2,8]", "F[b,2,t,8]", "F[b,2,t,8]", "I[b]",
                              "F[1,4,1,t]"), {"scale": 0.3}),
    Case("cached_attention", ("F[b,s,4,8]", "F[b,s,2,8]", "F[b,s,2,8]", "F[b,2,s+t,8]", "F[b,2,s+t,8]", "I[b]",
                              "F[b,4,s,s+t]"), {"scale": 0.3}),
    Case("attention", ("F[b,s,4,8]", "F[b,s+t,2,8]", "F[b,s+t,2,8]", "_", "_", "_", "I[b]"),
         {"scale": 0.3, "causal": True, "window": 3}),
    Case("cache_write", ("F[b,s+t,4]", "F[b,s,4]", "I[]")), Case("cache_write", ("F[b,s+t,2,4]", "F[b,s,2,4]", "I[b]")),
    Case("dequantize", ("Q[8,6]", "F[2,6]"), {"bits": 8, "group": 4}),
    Case("dequantize", ("Q[6,7]", "F[6,2]", "F[6,2]"), {"bits": 4, "group": 4, "axis": 1, "scheme": "asymmetric"}),
    Case("dequantize", ("Q[6,7]", "F[6,2]", "F[6,2]"), {"bits": 4, "group": 4, "axis": 1, "scheme": "offset"}),
    Case("quantized_matmul", (X, "Q[6,8]", "F[6,2]", "_", "F[6]"), {"bits": 8, "group": 4}, low=-0.3, high=0.3),
    Case("quantized_matmul", (X, "Q[6,8]", "F[6,1]", "F[6,1]"), {"bits": 4, "scheme": "asymmetric"}, -0.3, 0.3),
    Case("quantized_gather", ("Q[4,8]", "I[b,s]", "F[4,2]"), {"bits": 8, "group": 4}),
    *(Case("moe", (X, "I[b,s,2]", "F[b,s,2]", f"F[4,8,{g}]", "F[4,6,8]", f"F[4,{g}]", "F[4,8]"), {"activation": a},
           low=-0.7, high=0.7) for a, g in (("swiglu", 12), ("swiglu_oai", 12), ("gelu", 6))),
    Case("moe", ("F[t,8]", "I[t,1]", "F[t,1]", "F[4,8,12]", "F[4,6,8]"), low=-0.7, high=0.7),
    *(Case("quantized_moe", (X, "I[b,s,2]", "F[b,s,2]", "Q[4,12,8]", "F[4,12,2]", "Q[4,8,6]", "F[4,8,3]", *biases),
           {"bits": bits, "group": 4, "inner_group": 2, "activation": "swiglu"}, low=-0.1, high=0.1)
      for bits, biases in ((8, ()), (8, ("F[4,12]", "F[4,8]")), (4, ()))),
    Case("dim_value", ("F[s]",), {"dim": dims.parse("2*s+7")}),
    Case("constant", (), {"value": 2.5, "dtype": DTYPES["f32"]}),
]  # fmt: skip
Q, K, V = "F[b,s,4,8]", "F[b,s,4,8]", "F[b,s,4,8]"
QT, KT, VT = "F[b,s,4,8]", "F[b,t,2,8]", "F[b,t,2,6]"
for _attrs in ({}, {"causal": True}, {"causal": True, "window": 3}, {"window": 2}, {"softcap": 2.0}):
    _attrs = {"scale": 0.3, **_attrs}
    CASES += [
        Case("attention", (Q, K, V), _attrs), Case("attention", (Q, K, V, "MASK[b,s]"), _attrs),
        Case("attention", (QT, KT, VT), _attrs), Case("attention", (QT, KT, VT, "MASK[b,t]"), _attrs),
        Case("attention", (QT, KT, VT, "MASK[b,1,s,t]"), _attrs),
        Case("attention", (QT, KT, VT, "MASK[1,4,1,t]"), _attrs),
        Case("attention", (QT, KT, VT, "_", "F[1,4,s,t]"), _attrs),
        Case("attention", (QT, KT, VT, "MASK[b,t]", "F[b,1,1,t]"), _attrs),
        Case("attention", (QT, KT, VT, "MASK[b,t]", "_", "F[4]"), _attrs),
    ]  # fmt: skip


def made(case: Case, dtype: str) -> tuple[Program, dict[str, np.ndarray]]:
    """The op alone in a program, and inputs for it."""
    rng = np.random.default_rng(len(str(case)))
    b = Builder()
    arrays: dict[str, np.ndarray] = {}
    values: list[Any] = []
    for i, text in enumerate(case.inputs):
        if text == "_":
            values.append(None)
            continue
        kind, shape = text.rstrip("]").split("[")
        form = tuple(dims.parse(x) for x in shape.split(",") if x)
        name, array = f"x{i}", _array(kind, tuple(dims.evaluate(x, SIZES) for x in form), dtype, case, rng)
        arrays[name] = array
        values.append(b.input(name, TensorType(from_numpy(array.dtype), form)))
    for size in ("b", "s", "t"):  # every symbol stands in some input
        arrays[f"size_{size}"] = np.zeros(SIZES[size], np.float32)
        b.input(f"size_{size}", TensorType(DTYPES["f32"], (dims.symbol(size),)))
    taken = [v for v in values if v is not None] if get(case.op).variadic else values[: len(get(case.op).inputs)]
    node = b.emit_node(case.op, taken, case.attrs)
    names = [f"y{i}" for i in range(len(node.outputs))]
    graph = b.finish(node.outputs, names)
    return Program({"main": graph}, ("main",), {}, {s: Range(1, 64) for s in SIZES}), arrays


def _array(kind: str, shape: tuple[int, ...], dtype: str, case: Case, rng: Any) -> np.ndarray:
    to = DTYPES[dtype].numpy
    if kind in ("COS", "SIN", "COS2", "SIN2"):
        angle = rng.uniform(-3, 3, (*shape[:-1], shape[-1] // 2))
        wide = np.concatenate([angle, angle], -1) if kind in ("COS", "SIN") else np.repeat(angle, 2, -1)
        return (np.cos(wide) if kind.startswith("COS") else np.sin(wide)).astype(to)
    whole = DTYPES[dtype if DTYPES[dtype].is_int else "i64"].numpy
    made = {
        "F": lambda: rng.uniform(case.low, case.high, shape).astype(to),
        "I": lambda: rng.integers(0, case.most, shape).astype(whole),
        "N": lambda: rng.integers(-9, 9, shape).astype(whole),
        "P": lambda: rng.choice([-3, -2, 2, 3], shape).astype(whole),
        "Q": lambda: rng.integers(-7, 8, shape).astype(np.int8),
        "ONES": lambda: np.ones(shape, whole),
        "bool": lambda: rng.random(shape) < 0.5,
        "MASK": lambda: _ragged(shape, rng),
    }
    return np.asarray(made[kind]())


def _ragged(shape: tuple[int, ...], rng: Any) -> np.ndarray:
    """Padding on the left, on the right, and rows that may look at nothing."""
    mask = rng.random(shape) < 0.7
    mask[0, ..., :2] = False
    mask[-1, ..., -2:] = False
    if mask.ndim == 4 and mask.shape[2] > 1:
        mask[0, :, 1] = False
    return mask


@lru_cache
def capabilities(backend: str) -> Capabilities:
    return registry.get(backend).capabilities(this_machine())


def _runs(backend: str, case: Case, dtype: str) -> bool:
    c = capabilities(backend)
    return (case.op in c.ops or case.op in c.decomposed) and dtype in c.dtypes


def _dtypes(case: Case) -> tuple[str, ...]:
    text = " ".join(case.inputs)
    if "F[" in text:
        return FLOATS
    return ("i64", "i32") if any(k in text for k in ("I[", "N[", "P[")) else ("f32",)


GRID = [(c, t) for c in CASES for t in _dtypes(c)]


def _name(array: np.ndarray) -> str:
    return from_numpy(array.dtype).name


def check(got: dict[str, np.ndarray], meant: dict[str, np.ndarray]) -> None:
    """Holds answers against the meaning at the table's tolerance."""
    for name, want in meant.items():
        have = got[name]
        assert have.dtype == want.dtype and have.shape == want.shape, (have.dtype, have.shape, want.dtype, want.shape)
        if want.dtype.kind in "iub":
            np.testing.assert_array_equal(have, want)
            continue
        wide = want.astype(np.float64)
        limit = TOLERANCE[_name(want)] * max(1.0, float(np.abs(wide).max(initial=0)))
        error = float(np.abs(have.astype(np.float64) - wide).max(initial=0))
        assert error <= limit, f"{name}: error {error:.2e} is over {limit:.2e}"


@pytest.mark.parametrize("backend", ["reference", "onnxruntime"])
@pytest.mark.parametrize(("case", "dtype"), GRID, ids=[f"{i}-{c.op}-{t}" for i, (c, t) in enumerate(GRID)])
def test_op_means_the_same(case: Case, dtype: str, backend: str, tmp_path: Path) -> None:
    if not _runs(backend, case, dtype):
        pytest.skip(f"{backend} does not take {case.op} in {dtype}")
    program, inputs = made(case, dtype)
    plan = Plan(program, {"main": (Variant(Guard(), "main"),)}, backend, "cpu")
    engine = registry.get(backend)
    runner = engine.open(build_files(plan, engine, tmp_path), threads=1)
    got = runner.run("main", inputs)
    runner.close()
    check(got, Evaluator(program).run(inputs))


def test_every_op_has_a_case() -> None:
    tested = {c.op for c in CASES} | {"weight", "call", "fused"}  # these three are tested with whole programs
    untested = {n for n in OPS if n not in tested and _taken_somewhere(n)}
    assert not untested


def _taken_somewhere(name: str) -> bool:
    c = capabilities("onnxruntime")
    return name in c.ops or name in c.decomposed


def _since_18(case: Case) -> bool:
    return case.op.startswith("bit_") or case.attrs.get("reduction") in ("max", "min")


F32 = [c for c, t in GRID if t in ("f32", "i64") and "bf16" not in str(c)]  # numpy has no bfloat16 to hand back


@pytest.mark.parametrize("opset", [17, 18, 20, 23])
def test_portable_onnx_means_the_same(opset: int) -> None:
    """Standard operators only, held by onnx's own checker with full shape inference, in plain ONNX Runtime."""
    import onnx
    import onnxruntime as ort

    failures = []
    for case in F32:
        program, inputs = made(case, "i64" if " i64" in str(case) else "f32")
        if opset < 18 and _since_18(case):
            with pytest.raises(BuildError, match=case.op):
                emit(program, "main", opset=opset, portable=True)
            continue
        model = proto(emit(program, "main", opset=opset, portable=True))
        assert {o.domain for o in model.opset_import} == {""}, str(case)
        onnx.checker.check_model(model, full_check=True)
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        given = {i.name: inputs[i.name] for i in session.get_inputs()}
        got = dict(zip((o.name for o in session.get_outputs()), session.run(None, given), strict=True))
        try:
            check(got, Evaluator(program).run(inputs))
        except AssertionError as error:
            failures.append(f"{case}: {error}")
    assert not failures, "\n".join(failures)
