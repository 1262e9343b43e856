"""Attention over caches that were just written into becomes one op, and only where that says the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from compiler_kit import task

from tundish.compiler.passes.raise_attention import raise_attention
from tundish.compiler.passes.raise_cache import raise_cache
from tundish.ir.build import Builder
from tundish.ir.dims import Range, symbol
from tundish.ir.dtypes import boolean, f32, i64
from tundish.ir.evaluate import evaluate
from tundish.ir.graph import Program, Value
from tundish.ir.op import OPS
from tundish.ir.tensor import TensorType
from tundish.ir.verify import verify

ROWS, NEW, ROOM = symbol("rows"), symbol("new"), symbol("room")
SIZES = {"rows": Range(1, 4), "new": Range(1, 8), "room": Range(1, 32)}
HEADS_FIRST = (0, 2, 1, 3)
Change = Callable[[Builder, dict[str, Value]], None]


def step(change: Change = lambda b, at: None, **attrs: object) -> Program:
    """4 heads over 2 in caches; `change` may put other values under the names that the attention reads."""
    b = Builder()
    held = {n: b.input(n, TensorType(f32, (ROWS, 2, ROOM, 4))) for n in ("keys", "values")}
    new = {n: b.input(f"new_{n}", TensorType(f32, (ROWS, 2, NEW, 4))) for n in held}
    at = {"q": b.input("q", TensorType(f32, (ROWS, NEW, 4, 4)))}
    at |= dict.fromkeys(("position", "writes keys", "writes values"), b.input("position", TensorType(i64, (ROWS,))))
    change(b, at)
    done = {n: b.emit("cache_write", held[n], new[n], at[f"writes {n}"], axis=2) for n in held}
    seen = {n: b.emit("transpose", done[n], perm=HEADS_FIRST) for n in held}
    rest = [at.get(n) for n in ("mask", "bias", "sinks")]
    given = {"scale": 0.5, "causal": True, **attrs}
    y = b.emit("attention", at["q"], seen["keys"], seen["values"], *rest, at["position"], **given)
    outs = {"y": y, "keys_out": done["keys"], "values_out": done["values"]}
    if "also" in at:
        outs["also"] = b.emit("neg", seen["keys"])
    return verify(Program({"step": b.finish(list(outs.values()), list(outs))}, ("step",), {}, SIZES))


def raised(program: Program, **changes: object) -> Program:
    return verify(raise_cache(program, task(**changes)).program)


def ops(program: Program) -> Counter[str]:
    return Counter(n.op.name for g in program.functions.values() for n in g.nodes)


def bias(b: Builder, at: dict[str, Value]) -> None:
    at["bias"] = b.input("bias", TensorType(f32, (1, 4, 1, ROOM)))


def sinks(b: Builder, at: dict[str, Value]) -> None:
    at["sinks"] = b.input("sinks", TensorType(f32, (4,)))


def given(program: Program, seed: int = 0) -> dict[str, np.ndarray]:
    rng, sizes = np.random.default_rng(seed), {"rows": 3, "new": 5, "room": 19}
    found = {}
    for v in program.functions["step"].inputs:
        shape = [sizes.get(str(d), d) for d in v.type.shape]
        drawn = rng.standard_normal(shape)
        found[v.name] = drawn > 0 if v.type.dtype == boolean else drawn.astype(np.float32)
        if v.type.dtype == i64:
            found[v.name] = rng.integers(0, sizes["room"] - sizes["new"], shape, endpoint=True)
    return found


@pytest.mark.parametrize("attrs", [{}, {"window": 3}, {"softcap": 2.0}], ids=str)
@pytest.mark.parametrize("change", [lambda b, at: None, bias, sinks], ids=["plain", "bias", "sinks"])
def test_writes_and_attention_become_one_op_that_says_the_same(change: Change, attrs: dict[str, object]):
    before = step(change, **attrs)
    after = raised(before)
    assert ops(after)["cached_attention"] == 1 and not {"cache_write", "attention"} & set(ops(after))
    inputs = given(before)
    want, got = evaluate(before, inputs), evaluate(after, inputs)
    assert list(got) == ["y", "keys_out", "values_out"]
    assert all(np.array_equal(got[n], want[n]) for n in ("keys_out", "values_out"))
    assert np.abs(got["y"] - want["y"]).max() < 1e-6


def mask(b: Builder, at: dict[str, Value]) -> None:
    at["mask"] = b.input("mask", TensorType(boolean, (ROWS, 1, NEW, ROOM)))


def another(name: str) -> Change:
    def change(b: Builder, at: dict[str, Value]) -> None:
        at[name] = b.input("another", TensorType(i64, (ROWS,)))

    return change


def reader(b: Builder, at: dict[str, Value]) -> None:
    at["also"] = at["q"]


@pytest.mark.parametrize(
    "change", [mask, another("position"), another("writes keys"), another("writes values"), reader],
    ids=["a mask", "another position", "keys elsewhere", "values elsewhere", "another reader"],
)  # fmt: skip
def test_what_says_something_else_stays(change: Change):
    before = step(change)
    assert ops(raised(before)) == ops(before)


def test_attention_that_looks_ahead_stays():
    before = step(causal=False)
    assert ops(raised(before)) == ops(before)


def test_a_backend_without_the_op_keeps_the_parts():
    before = step()
    assert ops(raised(before, ops=frozenset(OPS) - {"cached_attention"})) == ops(before)


# -- attention that a model writes out, as BLOOM does ----------------------------------------------------


def written_out(least: float, *, shift: int = 0, alibi: bool = True) -> Program:
    """Scores over merged heads with ALiBi, a mask of numbers of each row's position, and a softmax."""
    b = Builder()
    held = {n: b.input(n, TensorType(f32, (ROWS, 4, ROOM, 4))) for n in ("keys", "values")}
    new = {n: b.input(f"new_{n}", TensorType(f32, (ROWS, 4, NEW, 4))) for n in held}
    q, position = b.input("q", TensorType(f32, (ROWS, 4, NEW, 4))), b.input("position", TensorType(i64, (ROWS,)))
    done = {n: b.emit("cache_write", held[n], new[n], position, axis=2) for n in held}
    merged = {n: b.emit("reshape", x, shape=(4 * ROWS, *x.type.shape[2:])) for n, x in {"q": q, **done}.items()}
    s = b.emit("matmul", merged["q"], b.emit("transpose", merged["keys"], perm=(0, 2, 1)))
    s = b.emit("mul", s, b.constant(0.5, f32))
    if alibi:
        s = b.emit("add", s, b.emit("reshape", b.input("alibi", TensorType(f32, (ROWS, 4, ROOM))),
                                    shape=(4 * ROWS, 1, ROOM)))  # fmt: skip
    query = b.emit("reshape", b.emit("iota", length=NEW, start=shift, dtype=i64), shape=(NEW, 1))
    query = b.emit("add", b.emit("reshape", position, shape=(ROWS, 1, 1, 1)), query)
    seen = b.emit("ge", b.emit("sub", query, b.emit("iota", length=ROOM, dtype=i64)), b.constant(0, i64))
    mask = b.emit("where", seen, b.constant(0.0, f32), b.constant(least, f32))
    s = b.emit("softmax", b.emit("add", b.emit("reshape", s, shape=(ROWS, 4, NEW, ROOM)), mask), axis=-1)
    y = b.emit("matmul", b.emit("reshape", s, shape=(4 * ROWS, NEW, ROOM)), merged["values"])
    outs = {"y": y, "keys_out": done["keys"], "values_out": done["values"]}
    return verify(Program({"step": b.finish(list(outs.values()), list(outs))}, ("step",), {}, SIZES))


LEAST = float(np.finfo(np.float32).min)


@pytest.mark.parametrize("alibi", [True, False])
@pytest.mark.parametrize("least", [LEAST, -float("inf")])
def test_attention_written_out_over_a_cache_is_raised_with_its_positions(least: float, alibi: bool):
    before = written_out(least, alibi=alibi)
    after = raised(raise_attention(before, task()).program)
    assert ops(after)["cached_attention"] == 1 and not {"cache_write", "softmax", "where"} & set(ops(after))
    inputs = given(before)
    want, got = evaluate(before, inputs), evaluate(after, inputs)
    assert all(np.abs(got[n] - want[n]).max() < 1e-6 for n in want)


@pytest.mark.parametrize(("least", "shift"), [(-2.0, 0), (LEAST, -1)], ids=["a weak fill", "a query that sees less"])
def test_a_mask_of_numbers_that_says_less_stays(least: float, shift: int):
    """The second leaves the first row's first query without a key, where the least number looks at all alike."""
    before = written_out(least, shift=shift)
    after = raise_attention(before, task()).program
    assert ops(raised(after))["cache_write"] == 2
    inputs = given(before) | {"position": np.array([0, 2, 5])}
    want, got = evaluate(before, inputs), evaluate(verify(after), inputs)
    assert all(np.abs(got[n] - want[n]).max() < 1e-6 for n in want)
