"""Small programs of one kernel each, at a grid of sizes: what a calibration runs through a backend.

The sizes are those of transformers: widths of 384 to 4096, rows from one (decoding) to 512. Weights differ from copy to
copy and together exceed the last cache, because a model reads each of its weights once a run; what is computed from
another node's result was just written, as in a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from ...ir.build import Builder
from ...ir.diagnostics import Where
from ...ir.dims import Dim, Range, evaluate, symbol
from ...ir.dtypes import boolean, f32, i64
from ...ir.graph import Node, Program, Value
from ...ir.tensor import TensorType
from ...ir.weights import Held, Weight

ENTRY = "run"
ROWS, BATCH, SEQ, KEYS = (symbol(n) for n in ("rows", "batch", "seq", "keys"))
_CHAIN = 16  # copies of a kernel without weights: enough that a run's own cost is small beside them
Sizes = Mapping[str, int]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Case:
    """One program, and the sizes to run it at.

    kernel: the nodes of one copy. copies: how many there are. taps: trivial nodes beside them.
    base: the same without an epilogue; the family is then what the epilogue adds.
    """

    name: str
    program: Program
    kernel: tuple[Node, ...]
    copies: int
    taps: int
    sizes: tuple[Sizes, ...]
    base: Case | None = None

    def inputs(self, sizes: Sizes, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Random numbers about 1, so that chains of products neither vanish nor overflow; small indices; full masks."""
        found: dict[str, np.ndarray] = {}
        for value in self.program.entry.inputs:
            shape = tuple(evaluate(d, sizes) for d in value.type.shape)
            if value.type.dtype is boolean:
                found[value.name] = np.ones(shape, np.bool_)
            elif value.type.dtype is i64:
                found[value.name] = rng.integers(0, _VOCABULARY, shape)
            else:
                found[value.name] = rng.uniform(0.9, 1.1, shape).astype(np.float32)
        return found


_VOCABULARY = 16_000


@dataclass
class Draft(Builder):
    """A case in the making."""

    pool: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))

    def __post_init__(self) -> None:
        super().__init__(Where("calibrate"))
        self.weights: dict[str, Weight] = {}

    def given(self, name: str, *shape: Dim, dtype: Any = f32) -> Value:
        return self.input(name, TensorType(dtype, shape))

    def weight(self, *shape: int) -> Value:
        """One whose numbers no other weight has: a backend may keep equal ones once."""
        count, name = int(np.prod(shape)), f"w{len(self.weights)}"
        start = 16 * len(self.weights)
        type = TensorType(f32, shape)
        self.weights[name] = Weight(type, Held(self.pool[start : start + count].reshape(shape)))
        return self.emit_node("weight", (), {"name": name}, types=(type,), names=(name,)).output

    def tap(self, value: Value) -> Value:
        """One element of it, so that a run gives back next to nothing."""
        for axis in range(value.type.rank):
            if value.type.shape[axis] != 1:
                value = self.emit("slice", value, axis=axis, start=0, stop=1)
        return value


Make = Callable[[Draft, Value], Value]


@dataclass(frozen=True)
class Grid:
    """What decides how much is measured.

    cold_bytes: what rotated weights exceed. stride: 1 is all sizes, 2 every other one. heads, shapes: how many kinds of
    attention heads and shapes of weights.
    """

    cold_bytes: int
    stride: int = 1
    heads: int = 4
    shapes: int = 10

    def of(self, *sizes: _T) -> tuple[_T, ...]:
        """Every stride-th size, from the last, which is the one whose time is surest."""
        return sizes[:: -self.stride][::-1]

    def copies(self, weight_bytes: int) -> int:
        return max(2, min(64, -(-self.cold_bytes // weight_bytes)))


def cases(grid: Grid, pool: np.ndarray) -> Iterator[Case]:
    """All cases, what most of a model's time goes into first.

    pool: random numbers to cut weights from, a little more than the largest weight.
    """
    yield from _linears(grid, pool)
    yield from _epilogues(grid, pool)
    yield from _norms(grid, pool)
    yield from _attentions(grid, pool)
    yield from _elementwise(grid, pool)
    yield from _moves(grid, pool)
    yield from _convolutions(grid, pool)


POOL_ELEMENTS = 768 * 32_768 + 4096
_LINEAR = (
    (384, 1536), (768, 768), (3072, 768), (1024, 4096), (384, 384), (1536, 384), (768, 3072), (1024, 1024),
    (4096, 1024), (768, 32_768),
)  # fmt: skip


def _linears(grid: Grid, pool: np.ndarray) -> Iterator[Case]:
    """x · w without a bias, each weight cold."""
    for k, n in _LINEAR[: grid.shapes]:
        rows = grid.of(1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if n < 10_000 else grid.of(1, 16, 128)
        yield _linear(grid, pool, k, n, rows)


def _linear(grid: Grid, pool: np.ndarray, k: int, n: int, rows: Sequence[int]) -> Case:
    b = Draft(pool=pool)
    x = b.given("x", 1, ROWS, k)
    made, taps = [], []
    for _ in range(grid.copies(4 * k * n)):
        made.append(b.emit("linear", x, b.weight(k, n)))
        taps.append(b.tap(made[-1]))
    return _tapped(b, f"linear {k}x{n}", made, taps, [{"rows": r} for r in rows])


def _tapped(b: Draft, name: str, made: Sequence[Value], taps: Sequence[Value], sizes: Sequence[Sizes]) -> Case:
    """Copies beside each other, each tapped for one element."""
    kernel = tuple(n for n in b.nodes if made[0] in n.outputs)
    beside = sum(n.op.name == "slice" for n in b.nodes)
    return _case(b, name, kernel, len(made), beside, sizes, taps)


def _case(
    b: Draft, name: str, kernel: Sequence[Node], copies: int, taps: int, sizes: Sequence[Sizes],
    outputs: Sequence[Value],
) -> Case:  # fmt: skip
    graph = b.finish(outputs)
    names = {s for v in graph.inputs for d in v.type.shape if not isinstance(d, int) for s in (str(d),)}
    symbols = {n: Range(1, max(1, *(at[n] for at in sizes))) for n in sorted(names)}
    program = Program({ENTRY: graph}, (ENTRY,), b.weights, symbols)
    return Case(name, program, tuple(kernel), copies, taps, tuple(sizes))


def _chain(
    pool: np.ndarray, name: str, shape: Sequence[Dim], make: Make, sizes: Sequence[Sizes], *, epilogue: int = 0,
    copies: int = _CHAIN,
) -> Case:  # fmt: skip
    """Copies after each other, each on the result of the one before. epilogue: how many nodes of a copy are one."""
    b = Draft(pool=pool)
    x = b.given("x", *shape)
    kernel: list[Node] = []
    for _ in range(copies):
        before = len(b.nodes)
        x = make(b, x)
        kernel = kernel or [n for n in b.nodes[before:] if n.op.name not in ("weight", "constant")]
    end = len(b.nodes)
    out = b.tap(x)
    return _case(b, name, kernel, copies, len(b.nodes) - end, sizes, [out])


def _rows(grid: Grid, *rows: int) -> list[Sizes]:
    return [{"rows": r} for r in grid.of(*rows)]


def _elementwise(grid: Grid, pool: np.ndarray) -> Iterator[Case]:
    def unary(op: str, **attrs: Any) -> Make:
        return lambda b, x: b.emit(op, x, **attrs)

    def binary(op: str) -> Make:
        return lambda b, x: b.emit(op, x, _second(b, x))

    def by_row(op: str) -> Make:
        return lambda b, x: b.emit(op, x, b.given("y", x.type.shape[-1]))

    makes = {
        "gelu": unary("gelu"), "gelu_tanh": unary("gelu", approximate="tanh"), "silu": unary("silu"),
        "tanh": unary("tanh"), "sigmoid": unary("sigmoid"), "relu": unary("relu"), "add": binary("add"),
        "mul": binary("mul"), "add_broadcast": by_row("add"), "mul_broadcast": by_row("mul"),
    }  # fmt: skip
    for name, make in makes.items():
        made = _chain(pool, name, (1, ROWS, 1024), make, _rows(grid, 1, 16, 64, 128, 256, 512, 1024))
        yield Case(**{**vars(made), "base": handing_over(made)}) if len(made.kernel[0].inputs) > 1 else made


def _second(b: Draft, x: Value) -> Value:
    """The other operand, another for each copy: in a model it was computed before the last product read its weight."""
    return b.given("y", *x.type.shape)


def _norms(grid: Grid, pool: np.ndarray) -> Iterator[Case]:
    def layer_norm(b: Draft, x: Value) -> Value:
        width = int(x.type.shape[-1])  # type: ignore[arg-type]
        return b.emit("layer_norm", x, b.weight(width), b.weight(width), eps=1e-5)

    def rms_norm(b: Draft, x: Value) -> Value:
        return b.emit("rms_norm", x, b.weight(int(x.type.shape[-1])), eps=1e-6)  # type: ignore[arg-type]

    makes: dict[str, Make] = {
        "layer_norm": layer_norm, "rms_norm": rms_norm, "softmax": lambda b, x: b.emit("softmax", x, axis=-1),
    }  # fmt: skip
    for name, make in makes.items():
        for width in grid.of(384, 768, 2048):
            yield _chain(pool, f"{name} {width}", (1, ROWS, width), make, _rows(grid, 1, 16, 64, 128, 256, 512))


def _attentions(grid: Grid, pool: np.ndarray) -> Iterator[Case]:
    own = [{"batch": b, "seq": s} for b, s in ((1, 16), (1, 64), (1, 128), (1, 257), (1, 512), (4, 128), (8, 64))]
    past = [{"batch": b, "seq": 1, "keys": t} for b, t in ((1, 32), (1, 128), (1, 256), (1, 1024), (8, 256))]
    heads = ((12, 12, 64), (12, 12, 32), (16, 16, 64), (16, 4, 128))[: grid.heads]
    for causal in (False, True):
        for masked in (False, True):
            for h, g, d in heads:
                name = f"attention {h}x{d}" + " causal" * causal + " masked" * masked
                yield _attention(pool, name, (h, g, d), causal, masked, SEQ, grid.of(*own))
    yield _attention(pool, "attention of one query", heads[0], True, True, KEYS, grid.of(*past))


def _attention(
    pool: np.ndarray, name: str, heads: tuple[int, int, int], causal: bool, masked: bool, keys: Dim,
    sizes: Sequence[Sizes],
) -> Case:  # fmt: skip
    h, g, d = heads

    def make(b: Draft, x: Value) -> Value:
        known = {v.name: v for v in b.inputs}
        k = known.get("k") or b.given("k", BATCH, keys, g, d)
        v = known.get("v") or b.given("v", BATCH, keys, g, d)
        mask = (known.get("mask") or b.given("mask", BATCH, keys, dtype=boolean)) if masked else None
        return b.emit("attention", x, k, v, mask, scale=d**-0.5, causal=causal)

    return _chain(pool, name, (BATCH, SEQ, h, d), make, sizes, copies=8)


def _epilogues(grid: Grid, pool: np.ndarray) -> Iterator[Case]:
    """What comes after a product or a sum, as the difference of two programs."""
    n, k = 1024, 32

    def product(b: Draft, x: Value, bias: bool) -> Value:
        return b.emit("linear", x, b.weight(k, n), b.weight(n) if bias else None)

    ends: dict[str, tuple[bool, Make]] = {
        "bias": (True, lambda b, y: y),
        "bias+gelu": (True, lambda b, y: b.emit("gelu", y)),
        "bias+gelu_tanh": (True, lambda b, y: b.emit("gelu", y, approximate="tanh")),
        "add+rms_norm": (False, _added_norm),
    }
    sizes = _rows(grid, 1, 16, 64, 128, 256, 512)
    base = _products(pool, "linear", (1, ROWS, k), lambda b, x: product(b, x, False), sizes)
    for name, (bias, end) in ends.items():
        with_end = _products(pool, f"+{name}", (1, ROWS, k), lambda b, x, e=end, f=bias: e(b, product(b, x, f)), sizes)  # type: ignore[misc]
        yield Case(**{**vars(with_end), "base": base})
    base = _chain(pool, "add", (1, ROWS, n), lambda b, x: b.emit("add", x, _second(b, x)), sizes)
    normed = _chain(pool, "+rms_norm", (1, ROWS, n), lambda b, x: _added_norm(b, x), sizes)
    yield Case(**{**vars(normed), "base": base})


def _added_norm(b: Draft, y: Value) -> Value:
    width = int(y.type.shape[-1])  # type: ignore[arg-type]
    return b.emit("rms_norm", b.emit("add", y, _second(b, y)), b.weight(width), eps=1e-6)


def _products(pool: np.ndarray, name: str, shape: Sequence[Dim], make: Make, sizes: Sequence[Sizes]) -> Case:
    b = Draft(pool=pool)
    x = b.given("x", *shape)
    made: list[Value] = []
    taps: list[Value] = []
    kernel: list[Node] = []
    for _ in range(_CHAIN):
        before = len(b.nodes)
        made.append(make(b, x))
        kernel = kernel or [n for n in b.nodes[before:] if n.op.name not in ("weight", "constant")]
        taps.append(b.tap(made[-1]))
    return _case(b, name, kernel, _CHAIN, sum(n.op.name == "slice" for n in b.nodes), sizes, taps)


def _moves(grid: Grid, pool: np.ndarray) -> Iterator[Case]:
    """Each copy on an input of its own, its result not asked for: two moves after each other may cancel out.

    What it costs to hand over the inputs is measured by a program that takes the same ones.
    """
    shape: tuple[Dim, ...] = (1, ROWS, 12, 64)
    makes: dict[str, tuple[tuple[Dim, ...], Make]] = {
        "transpose": (shape, lambda b, x: b.emit("transpose", x, perm=(0, 2, 1, 3))),
        "transpose_last": ((1, ROWS, 16, 2, 32), lambda b, x: b.emit("transpose", x, perm=(0, 1, 4, 2, 3))),
        "concat": (shape, lambda b, x: b.emit("concat", x, _second(b, x), axis=1)),
        "slice": (shape, lambda b, x: b.emit("slice", x, axis=3, start=0, stop=32)),
        "split": ((1, ROWS, 2304), _split),
        "gather": ((1, ROWS), _gather),
    }
    for name, (of, make) in makes.items():
        b = Draft(pool=pool)
        kernel: list[Node] = []
        outputs: list[Value] = []
        for i in range(_CHAIN):
            x = b.given(f"x{i}", *of, dtype=i64 if name == "gather" else f32)
            make(b, x)
            node = b.nodes[-1]
            kernel = kernel or [node]
            outputs += node.outputs
        sizes = _rows(grid, 1, 16, 64, 128, 256, 512)
        moved = _case(b, name, kernel, _CHAIN, 0, sizes, outputs)
        yield Case(**{**vars(moved), "base": handing_over(moved)})
    yield _reshapes(pool, _rows(grid, 1, 16, 64, 128, 256, 512))
    yield _chain(pool, "rotary", shape, _rotary, _rows(grid, 1, 16, 64, 128, 256, 512))


def _reshapes(pool: np.ndarray, sizes: Sequence[Sizes]) -> Case:
    """Between other nodes: what a backend does not run, or does in place, then costs what it costs in a model."""
    shapes: tuple[tuple[Dim, ...], ...] = ((1, ROWS, 12, 64), (1, ROWS, 768))

    def reshaped(b: Draft, x: Value) -> Value:
        other = shapes[1] if x.type.rank == 4 else shapes[0]
        return b.emit("relu", b.emit("reshape", x, shape=other))

    made = _chain(pool, "reshape", shapes[0], reshaped, sizes)
    base = _chain(pool, "relu", shapes[0], lambda b, x: b.emit("relu", x), sizes)
    return Case(**{**vars(made), "kernel": made.kernel[:1], "base": base})


def handing_over(case: Case) -> Case:
    """A program that takes the same inputs and gives one element of each."""
    b = Draft()
    taken = [b.given(v.name, *v.type.shape, dtype=v.type.dtype) for v in case.program.entry.inputs]
    taps = [b.tap(v) for v in taken]
    return _case(b, "inputs", (), case.copies, sum(n.op.name == "slice" for n in b.nodes), case.sizes, taps)


def _split(b: Draft, x: Value) -> Value:
    return b.emit_node("split", (x,), {"axis": 2, "sizes": (768,) * 3}).outputs[0]


def _gather(b: Draft, ids: Value) -> Value:
    table = next((n.output for n in b.nodes if n.op.name == "weight"), None)
    return b.emit("gather", table if table is not None else b.weight(_VOCABULARY, 768), ids, axis=0)


def _rotary(b: Draft, x: Value) -> Value:
    known = {v.name: v for v in b.inputs}
    cos, sin = (known.get(n) or b.given(n, 1, ROWS, 64) for n in ("cos", "sin"))
    return b.emit("rotary", x, cos, sin)


def _convolutions(grid: Grid, pool: np.ndarray) -> Iterator[Case]:
    """Images cut into patches, as vision transformers begin."""
    for patch, width in ((16, 768), (14, 384))[: grid.heads]:
        b = Draft(pool=pool)
        x = b.given("x", BATCH, 3, 14 * patch, 14 * patch)
        made, taps = [], []
        for _ in range(4):
            w = b.weight(width, 3, patch, patch)
            made.append(b.emit("conv", x, w, b.weight(width), strides=(patch, patch)))
            taps.append(b.tap(made[-1]))
        yield _tapped(b, f"conv {patch}", made, taps, [{"batch": n} for n in grid.of(1, 2, 4)])
