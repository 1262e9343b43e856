"""Caches that the TVM backend writes in place, and attention over what they hold: every turn of a generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tundish.backends.base import Runner
from tundish.ir.diagnostics import BuildError, RunError
from tundish.ir.evaluate import evaluate
from tundish.ir.graph import Program

from .kit import Case, case, opened, program_of

PLACES = 300
RNG = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def attending(h: int = 4, g: int = 2, d: int = 16, e: int = 16, *, new: int | None = None, bias: bool = False,
              sinks: bool = False, **attrs: Any) -> Case:  # fmt: skip
    """new: the number of new tokens where it is fixed."""
    b, s, t = 2, new or 3, PLACES
    arrays = {
        "q": numbers(b, s, h, d), "k": numbers(b, s, g, d), "v": numbers(b, s, g, e),
        "keys": numbers(b, g, t, d), "values": numbers(b, g, t, e), "position": np.array([0, 9]),
        **({"bias": numbers(1, h, 1, t)} if bias else {}), **({"sinks": numbers(h)} if sinks else {}),
    }  # fmt: skip
    fresh, held = ("b", None if new else "s", None, None), ("b", None, "t", None)
    shapes = {"q": fresh, "k": fresh, "v": fresh, "keys": held, "values": held, "position": ("b",),
              "bias": (None, None, None, "t")}  # fmt: skip

    def write(b: Any, q: Any, k: Any, v: Any, keys: Any, values: Any, position: Any, **more: Any) -> Any:
        given = (q, k, v, keys, values, position, more.get("bias"), more.get("sinks"))
        return b.emit_node("cached_attention", given, {"scale": 0.4, **attrs}).outputs

    return case(write, arrays, shapes)


def writing(axis: int) -> Case:
    """Writes that no attention follows: of rows that lie apart, and of one place for all rows."""
    shape = {1: (2, PLACES, 3, 5), 2: (2, 3, PLACES, 5)}[axis]
    new = {1: (2, 4, 5, 3), 2: (2, 3, 5, 4)}[axis]
    arrays = {"keys": numbers(*shape), "values": numbers(*shape), "new": numbers(*new), "position": np.array([3, 7]),
              "at": np.array(2)}  # fmt: skip

    def write(b: Any, keys: Any, values: Any, new: Any, position: Any, at: Any) -> Any:
        y = b.emit("transpose", new, perm=(0, 1, 3, 2))
        pairs = ((keys, position), (values, at))
        return b.emit("neg", y), *(b.emit("cache_write", c, y, p, axis=axis) for c, p in pairs)

    return case(write, arrays, {"keys": ("b", *[None] * 3), "values": ("b", *[None] * 3), "position": ("b",),
                                "new": ("b", *[None] * 3)})  # fmt: skip


KINDS = {
    "plain": attending(),
    "one": attending(new=1),
    "window": attending(window=3),
    "one window": attending(new=1, window=3),
    "wide window": attending(window=150),
    "cap": attending(softcap=2.0),
    "one of everything": attending(new=1, bias=True, sinks=True, softcap=2.0, window=100),
    "everything": attending(bias=True, sinks=True, softcap=2.0, window=100),
    "one head for all": attending(8, 1, new=1),
    "a head each": attending(3, 3, 20, 33),
    "one, a head each": attending(3, 3, 20, 33, new=1),
    "many heads for one": attending(18, 1, 8, 24),
    "one, many heads for one": attending(18, 1, 8, 24, new=1),
    "one, one head and sinks": attending(5, 1, new=1, sinks=True, window=40),
    "large": attending(4, 1, 128, 80, new=1, scale=0.1),
    "rows": writing(2),
    "outer rows": writing(1),
}
NAMES = {"keys": 1, "values": 2}  # the outputs that are written over


@pytest.fixture(scope="module", params=[1, 2])
def ready(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, Runner]:
    return program_of(KINDS), opened(KINDS, tmp_path_factory.mktemp("tvm"), threads=request.param)


def turn(kind: str, b: int, s: int, position: list[int]) -> dict[str, np.ndarray]:
    """The case's own arrays, with so many rows and new tokens."""
    found = {}
    for name, array in KINDS[kind].inputs.items():
        named = {v.name: v.type.shape for v in KINDS[kind].graph.inputs}[name]
        sizes = {"b": b, "s": s}
        shape = tuple(sizes.get(str(n), old) for n, old in zip(named, array.shape, strict=True))
        found[name] = array if name in ("sinks", "at") else numbers(*shape)
    return {**found, "position": np.array(position)}


def steps(kind: str) -> list[tuple[int, int, list[int]]]:
    """Rows, new tokens and places: pieces of a prompt and single tokens, up to the last place."""
    if not any("s" in map(str, v.type.shape) for v in KINDS[kind].graph.inputs):
        s = 4 if "rows" in kind else 1
        return [(1, s, [0]), (2, s, [PLACES - s, 5]), (3, s, [170, 0, 64]), (2, s, [15, 16])]
    few = [(1, 1, [0]), (2, 7, [0, 0]), (3, 5, [4, 0, PLACES - 5]), (2, 1, [257, 64])]
    return [*few, (1, PLACES, [0]), (1, 33, [200])]


@pytest.mark.parametrize("kind", KINDS)
def test_it_says_what_numpy_says_and_writes_nothing_else(ready: tuple[Program, Runner], kind: str) -> None:
    program, runner = ready
    outputs = program.functions[kind].output_names
    for b, s, position in steps(kind):
        given = turn(kind, b, s, position)
        want = evaluate(program, given, kind)
        held = {n: given[n].copy() for n in NAMES}
        got = runner.bind(kind, held).run(given)
        assert list(got) == [outputs[0]], "what is written in place is not handed back"
        np.testing.assert_allclose(got[outputs[0]], want[outputs[0]], atol=3e-6, rtol=2e-6)
        for name, at in NAMES.items():
            np.testing.assert_array_equal(held[name], want[outputs[at]])
        before = {n: given[n].copy() for n in NAMES}
        plain = runner.run(kind, given)
        for name, at in NAMES.items():  # and what a caller passes to a plain run is left as it was
            np.testing.assert_array_equal(plain[outputs[at]], want[outputs[at]])
            np.testing.assert_array_equal(given[name], before[name])


def test_what_does_not_fit_is_told_and_not_written(ready: tuple[Program, Runner]) -> None:
    """A position beyond the cache is the caller's fault; nothing outside of it is touched."""
    runner = ready[1]
    for position in ([PLACES - 1], [-1], [1 << 40]):
        given = turn("plain", 1, 2, position)
        held = {n: given[n].copy() for n in NAMES}
        with pytest.raises(RunError, match="a position is outside"):
            runner.bind("plain", held).run(given)
        for name in NAMES:
            np.testing.assert_array_equal(held[name], given[name])


def test_a_cache_that_is_not_the_callers_is_copied(tmp_path: Path) -> None:
    """Computed ones, and inputs whose new value is no output: nothing that is still needed is written over."""
    arrays = {"keys": numbers(2, 3, 8, 5), "new": numbers(2, 3, 2, 5), "position": np.array([1, 4])}

    def write(b: Any, keys: Any, new: Any, position: Any) -> Any:
        computed = b.emit("neg", keys)
        late = b.emit("cache_write", b.emit("reshape", computed, shape=keys.type.shape), new, position, axis=2)
        own = b.emit("cache_write", keys, new, position, axis=2)
        return b.emit("neg", late), b.emit("abs", own), b.emit("add", computed, new_sum(b, new))

    def new_sum(b: Any, new: Any) -> Any:
        return b.emit("slice", new, axis=2, start=0, stop=1)

    made = {"copied": case(write, arrays)}
    program, before = program_of(made), {n: a.copy() for n, a in arrays.items()}
    got = opened(made, tmp_path).run("copied", arrays)
    for name, want in evaluate(program, before, "copied").items():
        np.testing.assert_allclose(got[name], want, atol=1e-6)
    np.testing.assert_array_equal(arrays["keys"], before["keys"])


def test_a_view_of_what_was_written_over_is_refused(tmp_path: Path) -> None:
    arrays = {"keys": numbers(2, 3, 8, 5), "new": numbers(2, 3, 2, 5), "position": np.array([1, 4])}

    def write(b: Any, keys: Any, new: Any, position: Any) -> Any:
        turned = b.emit("transpose", keys, perm=(0, 2, 1, 3))
        return b.emit("cache_write", keys, new, position, axis=2), b.emit("neg", turned)

    with pytest.raises(BuildError, match="read after it was written over"):
        opened({"late": case(write, arrays)}, tmp_path)
