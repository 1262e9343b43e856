"""Random programs that are valid and numerically tame, for property tests of everything that takes a program.

    from properties.programs import inputs_for, programs     # tests/conftest.py puts tests/ on the path

    @given(programs())
    def test_it(program):
        before = evaluate(program, inputs_for(program, {"batch": 2, "seq": 3}))

A program has one entry with inputs `x: f32[batch, seq, d]`, `ids: i64[batch, seq]` and `mask: bool[batch, seq]`,
symbolic sizes `batch` and `seq`, 5 to about 40 nodes besides weights, weights held in memory, and outputs `y0`, `y1`...
It may repeat a layer inline (for `fold`) and may call functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tundish.ir.build import Builder
from tundish.ir.diagnostics import Where
from tundish.ir.dims import Range, symbol
from tundish.ir.dtypes import boolean, f32, i64
from tundish.ir.graph import Graph, Program, Value
from tundish.ir.tensor import TensorType
from tundish.ir.weights import Held, Weight

from .handwritten import written_attention

VOCABULARY = 11
BATCH, SEQ = symbol("batch"), symbol("seq")
_UNARY = ("tanh", "sigmoid", "relu", "neg", "abs", "gelu", "silu", "erf", "sin", "cos")
_BINARY = ("add", "sub", "maximum", "minimum")
_COMPARE = ("lt", "le", "gt", "ge")
_REDUCE = ("mean", "max", "min")


def inputs_for(program: Program, sizes: Mapping[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    """Seeded inputs of a program from `programs()`: normal floats, ids below the vocabulary, mostly-true masks."""
    rng = np.random.default_rng(seed)
    made = {}
    for value in program.entry.inputs:
        shape = tuple(sizes[str(d)] if not isinstance(d, int) else d for d in value.type.shape)
        if value.type.dtype == boolean:
            array = rng.random(shape) < 0.8
            array[..., 0] = True
        elif value.type.dtype == i64:
            array = rng.integers(0, VOCABULARY, shape)
        else:
            array = rng.standard_normal(shape)
        made[value.name] = array.astype(value.type.dtype.numpy)
    return made


class _Maker:
    """Grows one graph. Floats are kept within a few units: products are of bounded things, sums are means."""

    def __init__(self, draw: Any, weights: dict[str, Weight], functions: dict[str, Graph], path: str) -> None:
        self.draw, self.weights, self.functions, self.path = draw, weights, functions, path
        self.b = Builder()
        self.floats: list[Value] = []
        self.flags: list[Value] = []
        self.at = path
        self.line = 0

    # -- drawing ----------------------------------------------------------------------------------

    def pick(self, items: Any) -> Any:
        return self.draw(st.sampled_from(list(items)))

    def some(self, wanted: Callable[[Value], bool] = lambda v: True) -> Value:
        """A float value that fits, the youngest ones first; the entry's `x` fits everything."""
        fit = [v for v in reversed(self.floats) if wanted(v)]
        return self.pick(fit[:6]) if fit else self.floats[0]

    # -- nodes ------------------------------------------------------------------------------------

    def emit(self, op: str, *inputs: Value | None, **attrs: Any) -> Value:
        self.line += 1
        return self.b.emit(op, *inputs, where=Where("model.py", self.line, self.at), **attrs)

    def keep(self, value: Value) -> Value:
        self.floats.append(value)
        return value

    def weight(self, *shape: int, scale: float = 1.0) -> Value:
        name = f"{self.at}.w{len(self.weights)}"
        array = (np.random.default_rng(len(self.weights)).standard_normal(shape) * scale).astype(np.float32)
        type = TensorType(f32, shape)
        self.weights[name] = Weight(type, Held(array))
        where = Where("model.py", 0, self.at)
        return self.b.emit_node("weight", (), {"name": name}, types=[type], where=where, names=(name,)).output

    def linear(self, x: Value, n: int, bias: bool = True) -> Value:
        k = x.type.shape[-1]
        assert isinstance(k, int)
        return self.emit("linear", x, self.weight(k, n, scale=k**-0.5), self.weight(n) if bias else None)

    def attend(self, x: Value, heads: int, causal: bool) -> Value:
        d = x.type.shape[-1]
        assert isinstance(d, int)
        q, k, v = (
            self.emit("reshape", self.linear(x, d, bias), shape=(*x.type.shape[:2], heads, d // heads))
            for bias in (True, False, True)
        )
        mask = self.pick([None, *self.flags])
        y = self.emit("attention", q, k, v, mask, scale=0.5, causal=causal)
        return self.emit("reshape", y, shape=x.type.shape)


def _last(v: Value) -> Any:
    return v.type.shape[-1] if v.type.rank else None


def _is_hidden(v: Value) -> bool:
    return v.type.rank == 3 and v.type.shape[:2] == (BATCH, SEQ) and isinstance(_last(v), int)


def _has_features(v: Value) -> bool:
    return isinstance(_last(v), int) and v.type.rank >= 2


def _unary(m: _Maker) -> None:
    m.keep(m.emit(m.pick(_UNARY), m.some()))


def _scaled(m: _Maker) -> None:
    x = m.some()
    m.keep(m.emit("mul", x, m.emit("constant", value=m.pick((0.5, -0.25, 1.0)), dtype=f32)))


def _binary(m: _Maker) -> None:
    x = m.some()
    y = m.some(lambda v: v.type == x.type)
    m.keep(m.emit("tanh", m.emit(m.pick(_BINARY), x, y if y.type == x.type else x)))


def _gated(m: _Maker) -> None:
    x = m.some()
    m.keep(m.emit("mul", x, m.emit("sigmoid", x)))


def _broadcast(m: _Maker) -> None:
    x = m.some(_has_features)
    m.keep(m.emit("add", x, m.weight(_last(x))))


def _select(m: _Maker) -> None:
    x = m.some()
    flag = m.emit(m.pick(_COMPARE), x, m.emit("tanh", x))
    m.keep(m.emit("where", flag, x, m.emit("neg", x)))


def _norm(m: _Maker) -> None:
    x = m.some(_has_features)
    weight = m.weight(_last(x))
    bias = m.weight(_last(x))
    op = m.pick(("layer_norm", "rms_norm"))
    m.keep(m.emit(op, x, weight, *((bias,) if op == "layer_norm" else ()), eps=1e-5))


def _softmax(m: _Maker) -> None:
    m.keep(m.emit("softmax", m.some(lambda v: v.type.rank > 0), axis=-1))


def _reduce(m: _Maker) -> None:
    x = m.some(lambda v: v.type.rank > 0)
    axis = m.pick(range(x.type.rank))
    m.keep(m.emit(m.pick(_REDUCE), x, axes=(axis,), keepdims=m.pick((True, False))))


def _transpose(m: _Maker) -> None:
    x = m.some()
    m.keep(m.emit("transpose", x, perm=tuple(m.draw(st.permutations(range(x.type.rank))))))


def _reshape(m: _Maker) -> None:
    x = m.some(_has_features)
    lead, d = x.type.shape[:-1], _last(x)
    shapes = [(*lead, 1, d), (x.type.elements,)]
    shapes += [(*lead, 2, d // 2)] if d % 2 == 0 else []
    shapes += [(lead[0] * lead[1], *lead[2:], d)] if len(lead) > 1 else []
    m.keep(m.emit("reshape", x, shape=m.pick(shapes)))


def _linear(m: _Maker) -> None:
    m.keep(m.linear(m.some(_has_features), m.pick((4, 6, 8)), m.pick((True, False))))


def _matmul(m: _Maker) -> None:
    x = m.some(_has_features)
    axes = tuple(range(x.type.rank - 2))
    turned = m.emit("transpose", x, perm=(*axes, x.type.rank - 1, x.type.rank - 2))
    m.keep(m.emit("softmax", m.emit("matmul", x, turned)))


def _attention(m: _Maker) -> None:
    x = m.some(lambda v: _is_hidden(v) and _last(v) % 2 == 0)
    m.keep(m.attend(x, 2, m.pick((True, False))))


def _written(m: _Maker) -> None:
    x = m.some(lambda v: _is_hidden(v) and _last(v) % 2 == 0)
    m.keep(written_attention(m, x))


def _pieces(m: _Maker) -> None:
    x = m.some(_has_features)
    if _last(x) < 2:
        return
    axis, size = x.type.rank - 1, _last(x)
    parts = m.b.emit_node("split", (x,), {"axis": axis, "sizes": (1, size - 1)}, where=Where("model.py", 0, m.at))
    tail = m.emit("slice", x, axis=axis, start=1, stop=size)
    joined = m.emit("concat", *parts.outputs, tail, axis=axis)
    m.keep(m.emit("slice", joined, axis=axis, start=0, stop=size))


def _embed(m: _Maker) -> None:
    ids = [v for v in m.b.inputs if v.type.dtype == i64]
    if ids:
        m.keep(m.emit("gather", m.weight(VOCABULARY, m.pick((4, 8))), ids[0], axis=0))


def _positions(m: _Maker) -> None:
    counted = m.emit("cast", m.emit("iota", length=SEQ, dtype=i64), dtype=f32)
    m.keep(m.emit("sin", m.emit("reshape", counted, shape=(SEQ, 1))))


_STEPS: tuple[Callable[[_Maker], None], ...] = (
    _unary, _scaled, _binary, _gated, _broadcast, _select, _norm, _softmax, _reduce, _transpose, _reshape, _linear,
    _matmul, _attention, _written, _pieces, _embed, _positions,
)  # fmt: skip


def _layer(m: _Maker, x: Value, widen: int, norm_first: bool) -> Value:
    """A small transformer layer, as a model repeats it."""
    d = _last(x)
    h = m.emit("layer_norm", x, m.weight(d), m.weight(d), eps=1e-5) if norm_first else x
    h = m.emit("add", x, m.attend(h, 2, True))
    up = m.emit("gelu", m.linear(h, d * widen))
    h = m.emit("add", h, m.linear(up, d))
    return h if norm_first else m.emit("rms_norm", h, m.weight(d), eps=1e-6)


def _repeat(m: _Maker, count: int) -> None:
    x = m.some(lambda v: _is_hidden(v) and _last(v) % 2 == 0)
    norm_first, widen = m.pick((True, False)), m.pick((1, 2))
    flags, m.flags = m.flags, m.flags[: m.pick((0, 1))]
    before = m.line
    for i in range(count):
        m.at, m.line = f"{m.path}.layers.{i}.body", before
        x = _layer(m, x, widen, norm_first)
    m.at, m.flags = m.path, flags
    m.keep(x)


def _function(draw: Any, weights: dict[str, Weight], functions: dict[str, Graph], d: int) -> None:
    """A function x: f32[batch, seq, d], w: f32[d, d] -> the same as x, and one more."""
    m = _Maker(draw, weights, functions, "helper.{i}")
    x = m.b.input("x", TensorType(f32, (BATCH, SEQ, d)))
    w = m.b.input("w", TensorType(f32, (d, d)))
    m.floats.append(x)
    m.keep(m.emit("linear", x, w, None))
    for _ in range(draw(st.integers(0, 3))):
        m.pick((_unary, _binary, _gated, _scaled))(m)
    y = m.emit("tanh", m.floats[-1] if m.floats[-1].type == x.type else x)
    functions[f"helper_{len(functions)}"] = m.b.finish([y, m.floats[1]])


def _calls(m: _Maker) -> None:
    for name in list(m.functions):
        graph = m.functions[name]
        x = next(v for v in reversed(m.floats) if v.type == graph.inputs[0].type)
        for i in range(m.pick((1, 2))):
            d = _last(x)
            node = m.b.emit_node(
                "call", (x, m.weight(d, d, scale=0.5)), {"function": name, "index": i},
                types=[v.type for v in graph.outputs], where=Where("model.py", 0, m.at),
            )  # fmt: skip
            x = m.keep(node.outputs[0])


@st.composite
def programs(draw: Any, calls: bool = True, repeats: bool = True) -> Program:
    """A random valid program; see the head of this file. calls, repeats: whether it may have functions, layers."""
    weights: dict[str, Weight] = {}
    functions: dict[str, Graph] = {}
    d = draw(st.sampled_from((4, 8)))
    for _ in range(draw(st.integers(0, 2)) if calls else 0):
        _function(draw, weights, functions, d)
    m = _Maker(draw, weights, functions, "model")
    m.floats.append(m.b.input("x", TensorType(f32, (BATCH, SEQ, d))))
    m.b.input("ids", TensorType(i64, (BATCH, SEQ)))
    m.flags.append(m.b.input("mask", TensorType(boolean, (BATCH, SEQ))))
    layers = draw(st.sampled_from((0, 0, 2, 3))) if repeats else 0
    for _ in range(draw(st.integers(1, 3))):
        m.pick(_STEPS)(m)
    if layers:
        _repeat(m, layers)
    _calls(m)
    target = draw(st.integers(5, 20))
    while sum(n.op.name != "weight" for n in m.b.nodes) < target:
        m.pick(_STEPS)(m)
    made = [v for v in m.floats if v not in m.b.inputs]
    outputs = dict.fromkeys([made[-1], *(m.pick(made) for _ in range(draw(st.integers(0, 2))))])
    names = [f"y{i}" for i in range(len(outputs))]
    functions["main"] = m.b.finish(list(outputs), names)
    return Program(functions, ("main",), weights, {"batch": Range(1, 8), "seq": Range(1, 16)})
