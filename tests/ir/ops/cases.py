"""One or more examples of every op: symbolic types, attributes, inputs that make sense for it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tundish.ir import dims, ops
from tundish.ir.dtypes import DTYPES, boolean, f16, f32, i32
from tundish.ir.op import OPS, Attrs, Op
from tundish.ir.tensor import TensorType

Sizes = Mapping[str, int]
Fill = Callable[[np.random.Generator, tuple[int, ...], Sizes], np.ndarray]
DEFAULT = {"b": 2, "s": 3, "t": 5, "n": 4}
STRUCTURE = {"weight", "call", "fused"}  # what they mean depends on the program
assert ops.__all__  # importing it is what fills OPS


def typed(text: str) -> TensorType:
    """`f32[b, 2*s]` as a type."""
    name, _, rest = text.partition("[")
    inside = rest.rstrip("]")
    parts = ast.parse(f"({inside},)" if inside else "()", mode="eval").body.elts  # type: ignore[attr-defined]
    return TensorType(DTYPES[name], tuple(dims.parse(ast.unparse(p)) for p in parts))


@dataclass(frozen=True)
class Case:
    name: str
    inputs: tuple[str | None, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)
    fills: Mapping[int, Fill] = field(default_factory=dict)

    @property
    def op(self) -> Op:
        return OPS[self.name]

    @property
    def types(self) -> list[TensorType | None]:
        return [None if t is None else typed(t) for t in self.inputs]

    @property
    def full(self) -> Attrs:
        return self.op.complete_attrs(self.attrs)

    def outs(self) -> tuple[TensorType, ...]:
        found = self.op.infer(*self.types, **self.full)
        return (found,) if isinstance(found, TensorType) else tuple(found)

    def arrays(self, sizes: Sizes, seed: int = 0) -> list[np.ndarray | None]:
        rng = np.random.default_rng(seed)
        made: list[np.ndarray | None] = []
        for i, type in enumerate(self.types):
            if type is None:
                made.append(None)
                continue
            shape = tuple(dims.evaluate(d, sizes) for d in type.shape)
            made.append(np.asarray(self.fills.get(i, random)(rng, shape, sizes)).astype(type.dtype.numpy))
            if i not in self.fills and type.dtype.kind == "bool":
                made[-1] = rng.random(shape) < 0.7
        return made

    def attrs_at(self, sizes: Sizes) -> dict[str, Any]:
        def bound(v: Any) -> Any:
            if isinstance(v, dims.Expr):
                return dims.evaluate(v, sizes)
            return tuple(bound(x) for x in v) if isinstance(v, tuple) else v

        return {k: bound(v) for k, v in self.full.items()}

    def __str__(self) -> str:
        given = ", ".join("_" if i is None else i for i in self.inputs)
        return f"{self.name}({given})" + "".join(f" {k}={v}" for k, v in self.attrs.items())


def random(rng: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> np.ndarray:
    return rng.normal(size=shape) * 2


def positive(rng: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> np.ndarray:
    return rng.random(shape) * 3 + 0.2


def within_one(rng: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> np.ndarray:
    return rng.random(shape) * 1.8 - 0.9


def whole(low: int, high: int) -> Fill:
    return lambda rng, shape, sizes: rng.integers(low, high, shape)


def below(size: str) -> Fill:
    """Indices under the size of a symbol."""
    return lambda rng, shape, sizes: rng.integers(0, sizes[size], shape)


def different(rng: np.random.Generator, shape: tuple[int, ...], sizes: Sizes) -> np.ndarray:
    """Indices along axis 1, none twice in a line; as many as there are, reversed or not."""
    return np.argsort(rng.random(shape), 1)


def dim(text: str) -> dims.Dim:
    return dims.parse(text)


def _unary() -> list[Case]:
    floats = ("exp", "tanh", "erf", "sigmoid", "sin", "cos", "floor", "ceil", "round", "silu", "isnan", "tan", "atan",
              "sinh", "cosh", "asinh")  # fmt: skip
    numbers = ("neg", "abs", "relu", "sign")
    cases = [Case(n, ("f32[b, s]",)) for n in (*floats, *numbers)]
    cases += [Case(n, ("i64[b, 3]",)) for n in numbers]
    cases += [Case(n, ("f32[b, s]",), fills={0: positive}) for n in ("log", "sqrt", "rsqrt", "reciprocal")]
    cases += [Case(n, ("f32[b, s]",), fills={0: within_one}) for n in ("asin", "acos", "atanh")]
    cases += [Case("acosh", ("f32[b, s]",), fills={0: lambda *given: positive(*given) + 1})]
    cases += [Case("gelu", ("f32[b, s]",), {"approximate": a}) for a in ("none", "tanh")]
    cases += [Case("cast", ("f32[b, s]",), {"dtype": d}) for d in (i32, boolean)]
    cases += [Case("bitcast", ("f32[b, s]",), {"source": f32, "target": i32})]
    return [*cases, Case("cast", ("bool[b]",), {"dtype": f32}), Case("not", ("bool[b, s]",))]


def _binary() -> list[Case]:
    arithmetic = ("add", "sub", "mul", "maximum", "minimum", "div", "mod")
    compares = ("eq", "ne", "lt", "le", "gt", "ge")
    cases = [Case(n, ("f32[b, s, 4]", "f32[s, 1]")) for n in (*arithmetic, *compares)]
    safe = {1: whole(1, 5)}
    cases += [Case(n, ("i64[b, s]", "i64[b, 1]"), fills={0: whole(-7, 8), **safe}) for n in (*arithmetic, *compares)]
    cases += [Case(n, ("bool[b, s]", "bool[s]")) for n in ("and", "or", "xor", "eq", "ne")]
    bits = {0: whole(-99, 99), 1: whole(-99, 99)}
    cases += [Case(n, ("i32[b, s]", "i32[s]"), fills=bits) for n in ("bit_and", "bit_or", "bit_xor")]
    cases += [
        Case("pow", ("f32[b, s]", "f32[]"), fills={0: positive}),
        Case("pow", ("i64[b]", "i64[b]"), fills={0: whole(-4, 5), 1: whole(0, 4)}),
        Case("where", ("bool[b, 1]", "f32[b, s]", "f32[]")),
    ]
    return cases


def _shape() -> list[Case]:
    rows = ("f32[b, s, 6]",)
    return [
        Case("reshape", rows, {"shape": (dim("b*s"), 2, 3)}),
        Case("reshape", ("f32[b*s, 6, 1]",), {"shape": (dim("b"), dim("s"), 1, 3, 2)}),
        Case("reshape", ("f32[4, 6]",), {"shape": (3, 8)}),
        Case("reshape", ("f32[]",), {"shape": (1, 1)}),
        Case("transpose", rows, {"perm": (2, 0, 1)}),
        Case("transpose", rows, {"perm": (0, -1, -2)}),
        Case("expand", ("f32[s, 1]",), {"shape": (dim("b"), dim("s"), dim("t"))}),
        Case("concat", ("f32[b, s]", "f32[b, t]", "f32[b, 1]"), {"axis": -1}),
        Case("concat", ("i64[b, s]",), {"axis": 0}),
        Case("slice", ("f32[b, s+4]",), {"axis": 1, "start": 1, "stop": dim("s+3"), "step": 2}),
        Case("slice", ("f32[9, b]",), {"axis": -2, "start": dim("s"), "stop": dim("s")}),
        Case("split", ("f32[b, s+t+2]",), {"axis": -1, "sizes": (dim("s"), 2, dim("t"))}),
        Case("pad", rows, {"before": (1, 0, 2), "after": (0, 0, 1), "value": -2.5}),
    ]  # fmt: skip


def _index() -> list[Case]:
    at = {1: below("n")}
    return [
        Case("gather", ("f32[n, 3]", "i64[b, s]"), {"axis": 0}, at),
        Case("gather", ("f32[b, n, 3]", "i32[]"), {"axis": -2}, at),
        Case("gather", ("i64[b, n]", "i64[s]"), {"axis": 1}, at),
        Case("gather_elements", ("f32[b, n, 2]", "i64[b, s, 2]"), {"axis": 1}, at),
        Case("scatter_elements", ("f32[b, n+s]", "i64[b, n]", "f32[b, n]"), {"axis": -1}, {1: different}),
        *(Case("scatter_elements", ("f32[b, n]", "i64[b, s]", "f32[b, s]"), {"axis": -1, "reduction": r}, at)
          for r in ("add", "mul", "max", "min")),
        Case("iota", (), {"length": dim("s+1"), "start": dim("t-s"), "step": 3, "dtype": i32}),
        Case("iota", (), {"length": dim("s")}),
        Case("topk", ("f32[b, 6]",), {"k": 3, "axis": -1}),
        Case("topk", ("i64[6, s]",), {"k": 2, "axis": 0, "largest": False}, {0: whole(0, 4)}),
    ]  # fmt: skip


def _reduce() -> list[Case]:
    cases = []
    for name in ("sum", "mean", "max", "min", "prod"):
        cases.append(Case(name, ("f32[b, s, 4]",), {"axes": (-1,), "keepdims": True}))
        cases.append(Case(name, ("f32[b, s, 4]",), {"axes": (0, 2)}))
        cases.append(Case(name, ("f32[b, s]",), {"axes": ()}))
    cases += [Case(n, ("bool[b, s]",), {"axes": (1,)}) for n in ("any", "all")]
    cases += [Case(n, ("bool[b, s]",), {"axes": (0, 1), "keepdims": True}) for n in ("any", "all")]
    return [
        *cases,
        Case("sum", ("i64[b, s]",), {"axes": (0,)}, {0: whole(-9, 9)}),
        Case("argmax", ("f32[b, s, 4]",), {"axis": 1}),
        Case("argmax", ("f32[b, s]",), {"axis": -1, "keepdims": True}),
        Case("cumsum", ("f32[b, s]",), {"axis": 0}),
        Case("cumsum", ("i64[b, s]",), {"axis": -1}, {0: whole(0, 2)}),
    ]


def _layers() -> list[Case]:
    return [
        Case("matmul", ("f32[b, s, 4]", "f32[b, 4, t]")),
        Case("matmul", ("f32[b, 1, s, n]", "f32[3, n, 2]")),
        Case("linear", ("f32[b, s, 4]", "f32[4, 3]")),
        Case("linear", ("f32[b, n]", "f32[n, t]", "f32[t]")),
        *_conv(),
        Case("rms_norm", ("f32[b, s, 4]", "f32[4]"), {"eps": 1e-6}),
        Case("layer_norm", ("f32[b, n]", "f32[n]", "f32[n]"), {"eps": 1e-5}),
        Case("layer_norm", ("f32[b, s, 4]", "f32[4]"), {"eps": 1e-5}),
        Case("softmax", ("f32[b, s, 4]",)),
        Case("softmax", ("f32[b, s, 4]",), {"axis": 1}),
        *(Case("rotary", ("f32[b, s, 2, 6]", c, c), {"interleaved": i})
          for c in ("f32[b, s, 6]", "f32[1, s, 4]") for i in (False, True)),
    ]  # fmt: skip


def _conv() -> list[Case]:
    image = "f32[b, 4, s+8, 9]"
    options: list[tuple[tuple[str, ...], dict[str, Any]]] = [
        ((image, "f32[6, 4, 3, 2]", "f32[6]"), {}),
        ((image, "f32[n, 4, 1, 1]"), {}),
        ((image, "f32[n, 4, 3, 3]", "f32[n]"), {"strides": (3, 3)}),
        ((image, "f32[6, 2, 3, 2]"), {"strides": (2, 1), "before": (1, 0), "after": (2, 3), "groups": 2}),
        ((image, "f32[4, 1, 3, 3]", "f32[4]"), {"dilations": (2, 1), "before": (2, 1), "after": (2, 1), "groups": 4}),
        (("f32[b, n, s+4]", "f32[5, n, 4]", "f32[5]"), {"after": (3,)}),
        (("f32[b, 2, 4, s+2, 3]", "f32[5, 2, 3, 2, 1]"), {"strides": (1, 2, 1), "before": (1, 0, 0)}),
    ]
    return [Case("conv", inputs, attrs) for inputs, attrs in options]


def attention_cases() -> list[Case]:
    """Every option of attention, alone and together, on grouped heads."""
    q, k, v = "f32[b, s, 6, 4]", "f32[b, t, 2, 4]", "f32[b, t, 2, 5]"
    options: list[tuple[tuple[str | None, ...], dict[str, Any]]] = [
        ((), {}),
        ((), {"causal": True}),
        ((), {"window": 2}),
        ((), {"window": 2, "causal": True}),
        ((), {"softcap": 1.5}),
        (("bool[b, t]",), {"causal": True}),
        (("bool[b, 1, s, t]",), {}),
        (("bool[1, 6, 1, t]",), {"window": 3}),
        ((None, "f32[b, 6, s, t]"), {}),
        ((None, "f32[1, 6, 1, t]"), {"causal": True, "softcap": 2.0}),
        ((None, None, "f32[6]"), {"causal": True}),
        (("bool[b, t]", "f32[1, 6, s, t]", "f32[6]"), {"causal": True, "window": 2, "softcap": 3.0}),
    ]
    cases = [Case("attention", (q, k, v, *more), {"scale": 0.5, **attrs}) for more, attrs in options]
    same, one = "f32[b, s, 2, 4]", "f32[b, t, 1, 4]"
    q, k = "f32[b, s, 8, 4]", "f32[b, t, 4, 4]"
    cases.append(Case("attention", (q, k, k, "bool[b, 1, s, t]", "f32[1, 8, 1, t]", "f32[8]"), {"scale": 0.5}))
    at = {6: lambda rng, shape, sizes: rng.integers(0, sizes["t"] + 1, shape)}
    key, value = "f32[b, s+t, 2, 4]", "f32[b, s+t, 2, 5]"
    wide = "f32[b, s, 6, 4]"
    cases += [Case("attention", (wide, key, value, mask, None, None, "i64[b]"), {"scale": 0.5, **attrs}, at)
              for mask, attrs in (
                  (None, {"causal": True}), (None, {"causal": True, "window": 2}), (None, {"window": 3}),
                  ("bool[b, s+t]", {"causal": True, "softcap": 2.0}),
              )]  # fmt: skip
    return [*cases, Case("attention", (same, same, same), {"scale": 0.5, "causal": True}),
            Case("attention", (same, one, one), {"scale": 0.3})]  # fmt: skip


def _cached() -> list[Case]:
    """Attention that writes into a cache: heads grouped, values of another size, every option."""
    at = {5: lambda rng, shape, sizes: rng.integers(0, sizes["t"] + 1, shape)}
    new = "f32[b, s, 6, 4]", "f32[b, s, 2, 4]", "f32[b, s, 2, 5]"
    held = "f32[b, 2, s+t, 4]", "f32[b, 2, s+t, 5]", "i64[b]"
    options: list[tuple[tuple[str | None, ...], dict[str, Any]]] = [
        ((), {}), ((), {"window": 2}), ((), {"softcap": 1.5}), (("f32[1, 6, s, s+t]",), {}), ((None, "f32[6]"), {}),
        (("f32[b, 1, 1, s+t]", "f32[6]"), {"window": 3}),
    ]  # fmt: skip
    return [Case("cached_attention", (*new, *held, *more), {"scale": 0.5, **attrs}, at) for more, attrs in options]


def _rest() -> list[Case]:
    q = {0: whole(-8, 8)}
    u = {0: whole(0, 16), 2: whole(0, 16)}
    m = {1: whole(-8, 8)}
    a = {1: whole(0, 16), 3: whole(0, 16)}
    mesh = {"axis": "tensor", "size": 1}
    at = {2: lambda rng, shape, sizes: rng.integers(0, sizes["t"] + 1, shape)}
    return [
        Case("constant", (), {"value": 2.5, "dtype": f32}),
        Case("dim_value", (), {"dim": dim("b*s+1")}),
        Case("cache_write", ("f32[b, s+t, 2, 3]", "f32[b, s, 2, 3]", "i64[]"), {}, at),
        Case("cache_write", ("f32[b, s+t, 3]", "f32[b, s, 3]", "i32[b]"), {}, at),
        Case("cache_write", ("f32[b, 2, s+t, 3]", "f32[b, 2, s, 3]", "i64[b]"), {"axis": 2}, at),
        *_cached(),
        Case("dequantize", ("i8[8, n]", "f32[2, n]"), {"bits": 4, "group": 4}, q),
        Case("dequantize", ("i4[n, 7]", "f32[n, 2]"), {"bits": 4, "group": 4, "axis": -1}, q),
        Case("dequantize", ("u4[8, n]", "f32[1, n]", "u4[1, n]"), {"bits": 4, "scheme": "asymmetric"}, u),
        Case("dequantize", ("u8[n, 6, 2]", "f32[n, 3, 2]", "f32[n, 3, 2]"),
             {"bits": 4, "group": 2, "axis": 1, "scheme": "asymmetric"}, u),
        Case("dequantize", ("u4[n, 7]", "f16[n, 2]", "f16[n, 2]"),
             {"bits": 4, "group": 4, "axis": 1, "scheme": "offset"}, {0: whole(0, 16)}),
        Case("dequantize", ("i8[n, 6]", "f32[n, 1]"), {"bits": 8, "axis": 1, "dtype": f16}, q),
        Case("dequantize", ("u4[n, 6]", "f32[n, 3]"), {"bits": 4, "group": 2, "axis": 1, "scheme": "centred"}, u),
        Case("quantized_matmul", ("f32[b, 8]", "u8[n, 8]", "f16[n, 4]", "f16[n, 4]", "f32[n]"),
             {"bits": 5, "group": 2, "scheme": "offset"}, {1: whole(0, 32)}),
        Case("quantized_matmul", ("f32[b, s, 8]", "i8[n, 8]", "f32[n, 2]"), {"bits": 4, "group": 4}, m),
        Case("quantized_matmul", ("f32[b, 8]", "u4[n, 8]", "f32[n, 2]"),
             {"bits": 4, "group": 4, "scheme": "centred", "x_bits": 8}, {1: whole(0, 16)}),
        Case("quantized_matmul", ("f32[b, 8]", "u4[n, 8]", "f32[n, 2]", "u4[n, 2]", "f32[n]"),
             {"bits": 4, "group": 4, "scheme": "asymmetric"}, a),
        Case("quantized_gather", ("u4[5, 8]", "i64[b, s]", "f32[5, 2]"),
             {"bits": 4, "group": 4, "scheme": "centred"}, {0: whole(0, 16), 1: whole(0, 5)}),
        Case("quantized_gather", ("u8[5, 8]", "i32[b]", "f16[5, 1]", "f16[5, 1]"),
             {"bits": 8, "scheme": "offset"}, {0: whole(0, 256), 1: whole(0, 5)}),
        Case("to_panels", ("f32[3, 10]",), {"width": 4}),
        Case("from_panels", ("f32[3, 5, 4]",), {"columns": 10}),
        Case("panel_linear", ("f32[b, s, 5]", "f32[3, 5, 4]", "f32[10]"), {"columns": 10}),
        Case("panel_linear", ("f32[b, 5]", "f32[2, 5, 4]"), {"columns": 8}),
        Case("panel_gather", ("f32[3, 5, 4]", "i64[b, s]"), {"columns": 10}, {1: whole(0, 10)}),
        Case("to_panels", ("f32[6, 10]",), {"width": 4, "depth": 2}),
        Case("from_panels", ("f32[3, 2, 4, 3]",), {"columns": 10}),
        Case("panel_linear", ("f32[b, s, 6]", "f32[3, 3, 4, 2]", "f32[10]"), {"columns": 10}),
        Case("panel_linear", ("f16[b, 6]", "f16[2, 3, 4, 2]", "f32[8]"), {"columns": 8}),
        Case("panel_gather", ("f16[3, 3, 4, 2]", "i64[b, s]"), {"columns": 10}, {1: whole(0, 10)}),
        Case("to_quads", ("u8[6, 8]",), {"width": 4, "bits": 8}, {0: whole(0, 256)}),
        Case("to_quads", ("u4[6, 16]",), {"width": 4, "bits": 4}, {0: whole(0, 16)}),
        Case("from_quads", ("u8[2, 2, 4, 4]",), {"columns": 6, "bits": 8}, {0: whole(0, 256)}),
        Case("from_quads", ("u8[2, 2, 4, 4]",), {"columns": 8, "bits": 4}, {0: whole(0, 256)}),
        Case("quad_linear", ("f32[b, s, 16]", "u8[2, 4, 4, 4]", "f32[2, 2, 4]", None, "f32[6]"),
             {"columns": 6, "bits": 8, "group": 8, "x_bits": 8}, {1: whole(0, 256)}),
        Case("quad_linear", ("f32[b, 16]", "u8[2, 2, 4, 4]", "f32[2, 2, 4]", "f32[2, 2, 4]"),
             {"columns": 8, "bits": 4, "group": 8, "scheme": "offset"}, {1: whole(0, 256)}),
        Case("quad_gather", ("u8[2, 2, 4, 4]", "i64[b, s]", "f32[2, 2, 4]"),
             {"columns": 6, "bits": 4, "group": 8}, {0: whole(0, 256), 1: whole(0, 6)}),
        Case("quantize_scale", ("f32[n, 8]",), {"bits": 4, "group": 4}),
        Case("quantize", ("f32[n, 8]", "f32[n, 2]"), {"bits": 4, "group": 4}),
        Case("quantize", ("f16[n, 8]", "f32[n, 1]"), {"bits": 8, "group": 8}),
        *(Case("moe", ("f32[b, s, 3]", "i64[b, s, 2]", "f32[b, s, 2]", "f32[4, 3, 10]", "f32[4, 5, 3]",
                       "f32[4, 10]", "f32[4, 3]"), {"activation": act}, {1: whole(0, 4)})
          for act in ("swiglu", "geglu", "geglu_tanh", "reglu", "swiglu_oai")),
        *(Case("moe", ("f32[s, 3]", "i32[s, 1]", "f32[s, 1]", "f32[4, 3, 5]", "f32[4, 5, 3]"),
               {"activation": act}, {1: whole(0, 4)}) for act in ("silu", "gelu", "gelu_tanh", "relu")),
        Case("to_expert_panels", ("f32[3, 5, 10]",), {"width": 4}),
        Case("to_expert_panels", ("f32[2, 3, 10]",), {"width": 4, "gated": True}),
        Case("from_expert_panels", ("f32[3, 3, 5, 4]",), {"columns": 10}),
        Case("from_expert_panels", ("f32[2, 3, 3, 4]",), {"columns": 10, "gated": True}),
        Case("panel_moe", ("f32[b, s, 3]", "i64[b, s, 2]", "f32[b, s, 2]", "f32[4, 3, 3, 4]", "f32[4, 1, 5, 4]",
                           "f32[4, 3, 1, 4]", "f32[4, 1, 1, 4]"), {"inner": 5}, {1: whole(0, 4)}),
        Case("panel_moe", ("f32[s, 3]", "i32[s, 1]", "f32[s, 1]", "f32[4, 2, 3, 4]", "f32[4, 1, 5, 4]"),
             {"inner": 5, "activation": "gelu"}, {1: whole(0, 4)}),
        Case("to_expert_quads", ("u8[2, 6, 8]",), {"width": 4, "bits": 8, "gated": True}, {0: whole(0, 256)}),
        Case("to_expert_quads", ("u4[2, 5, 16]",), {"width": 4, "bits": 4}, {0: whole(0, 16)}),
        Case("from_expert_quads", ("u8[2, 2, 2, 4, 4]",), {"columns": 6, "bits": 8, "gated": True}, {0: whole(0, 256)}),
        Case("from_expert_quads", ("u8[2, 2, 2, 4, 4]",), {"columns": 8, "bits": 4}, {0: whole(0, 256)}),
        Case("quantized_moe", ("f32[b, s, 8]", "i64[b, s, 2]", "f32[b, s, 2]", "u8[4, 10, 8]", "f32[4, 10, 2]",
                               "u8[4, 8, 5]", "f32[4, 8, 1]", "f32[4, 10]", "f32[4, 8]"),
             {"bits": 8, "group": 4, "inner_group": 5}, {1: whole(0, 4), 3: whole(0, 256), 5: whole(0, 256)}),
        Case("quantized_moe", ("f32[s, 8]", "i32[s, 1]", "f32[s, 1]", "u4[4, 6, 8]", "f32[4, 6, 2]", "u4[4, 8, 6]",
                               "f32[4, 8, 2]"),
             {"bits": 4, "group": 4, "inner_group": 3, "activation": "relu", "x_bits": 8},
             {1: whole(0, 4), 3: whole(0, 16), 5: whole(0, 16)}),
        Case("quad_moe", ("f32[b, s, 8]", "i64[b, s, 2]", "f32[b, s, 2]", "u8[4, 4, 1, 4, 4]", "f32[4, 4, 1, 4]",
                          "u8[4, 2, 1, 4, 4]", "f32[4, 2, 2, 4]", "f32[4, 4, 1, 4]", "f32[4, 2, 1, 4]"),
             {"bits": 4, "group": 8, "inner_group": 4, "inner": 8},
             {1: whole(0, 4), 3: whole(0, 256), 5: whole(0, 256)}),
        Case("all_reduce", ("f32[b, 4]",), mesh),
        Case("all_gather", ("f32[b, 4]",), {**mesh, "dim": 1}),
        Case("reduce_scatter", ("f32[b, 4]",), {**mesh, "dim": -1}),
        Case("all_to_all", ("f32[b, 4]",), {**mesh, "split_dim": 1, "concat_dim": 0}),
    ]  # fmt: skip


CASES: list[Case] = [
    *_unary(), *_binary(), *_shape(), *_index(), *_reduce(), *_layers(), *attention_cases(), *_rest(),
]  # fmt: skip
