"""Attention on the TVM backend means what the op says: all its inputs and attributes, and sizes that fit no tile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tundish.ir.dims import symbol

from .kit import Case, case, check, one

RNG = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def allowed(*shape: int) -> np.ndarray:
    """Half of it. Of the last row, nothing at all."""
    mask = RNG.random(shape) < 0.5
    mask[-1] = False
    return mask


def given(
    s: int, t: int, *, b: int = 2, h: int = 4, g: int = 2, d: int = 16, e: int = 16, mask: str = "", bias: str = "",
    sinks: bool = False, position: tuple[int, ...] = (),
) -> list[np.ndarray | None]:  # fmt: skip
    """mask: keys, or letters of the axes that it does not repeat along; bias: such letters."""
    sizes = {"b": b, "h": h, "s": s, "t": t}

    def scores(axes: str) -> tuple[int, ...]:
        return tuple(n if axis in axes else 1 for axis, n in sizes.items())

    return [
        numbers(b, s, h, d), numbers(b, t, g, d), numbers(b, t, g, e),
        allowed(b, t) if mask == "keys" else allowed(*scores(mask)) if mask else None,
        numbers(*scores(bias)) if bias else None,
        numbers(h) if sinks else None,
        np.array(position) if position else None,
    ]  # fmt: skip


def symbols(mask: str, bias: str) -> list[Any]:
    def scores(axes: str) -> tuple[str | None, ...]:
        return tuple(axis if axis in axes and axis != "h" else None for axis in "bhst")

    q, keys = ("b", "s", None, None), ("b", "t", None, None)
    return [q, keys, keys, ("b", "t") if mask == "keys" else scores(mask), scores(bias), None, ("b",)]


def of(s: int, t: int, *, more: tuple[tuple[int, int], ...] = (), attrs: dict[str, Any] | None = None,
       **others: Any) -> Case:  # fmt: skip
    """more: other lengths (s, t) of queries and keys."""
    shapes = symbols(others.get("mask", ""), others.get("bias", ""))
    made = one("attention", *given(s, t, **others), shapes=shapes, **{"scale": 0.3, **(attrs or {})})
    for pair in more:
        arrays = given(*pair, **others)
        made = made.also({f"i{i}": a for i, a in enumerate(arrays) if a is not None})
    return made


LENGTHS = ((1, 1), (1, 300), (1, 33), (7, 7), (9, 40), (33, 33), (130, 70), (2, 300), (70, 1030))
CAUSAL = {"causal": True}
CASES = {
    "plain": of(16, 16, more=LENGTHS),
    "causal": of(16, 16, more=LENGTHS, attrs=CAUSAL),
    "window": of(64, 64, more=LENGTHS, attrs={"window": 5}),
    "causal window": of(64, 64, more=LENGTHS, attrs={"window": 40, **CAUSAL}),
    "window 1": of(20, 33, more=((64, 64), (3, 70)), attrs={"window": 1, **CAUSAL}),
    "keys": of(20, 20, more=LENGTHS, mask="keys"),
    "causal keys": of(20, 20, more=LENGTHS, mask="keys", attrs=CAUSAL),
    "full mask": of(20, 20, more=LENGTHS, mask="bst", bias="bhst"),
    "full causal": of(20, 20, more=LENGTHS, mask="bst", bias="bhst", attrs={"window": 30, **CAUSAL}),
    "mask repeated along keys": of(20, 20, mask="bhs", bias="bhst"),
    "mask repeated along queries": of(20, 43, mask="bht", bias="bhs"),
    "sinks": of(20, 20, more=LENGTHS, sinks=True, mask="keys"),
    "softcap": of(20, 20, more=LENGTHS, attrs={"softcap": 2.0, **CAUSAL}),
    "position": of(5, 40, position=(0, 33), attrs=CAUSAL),
    "position and window": of(5, 40, position=(3, 35), attrs={"window": 9}),
    "odd sizes": of(11, 50, h=3, g=3, d=20, e=33, b=1, attrs=CAUSAL),
    "tiny sizes": of(11, 50, h=3, g=1, d=1, e=2, b=1),
    "large sizes": of(40, 300, h=2, g=1, d=128, e=96, b=1, attrs={"scale": 0.09, **CAUSAL}),
    "one query": of(1, 300, more=((1, 1), (1, 47)), attrs=CAUSAL),
    "one query of one head": of(1, 300, b=1, h=1, g=1, d=20, e=33, mask="keys", sinks=True),
    "one query and a full mask": of(1, 300, h=6, g=1, mask="bhst", bias="hst", attrs={"window": 70}),
    "many heads of few": of(3, 700, h=8, g=1, d=64, e=64, b=1),
}  # fmt: skip


@pytest.mark.parametrize("threads", [1, None])
def test_every_input_and_attribute(tmp_path: Path, threads: int | None) -> None:
    check(CASES, tmp_path, atol=3e-6, threads=threads)


def test_large_scores(tmp_path: Path) -> None:
    """Scores whose exponentials would overflow, or all vanish beside the largest; biases that forbid."""
    arrays = given(20, 70, bias="bhst")
    arrays[0] = arrays[0] * np.float32(300)  # type: ignore[operator]
    arrays[4][:, :, :, 30:] = -np.inf  # type: ignore[index]
    arrays[4][:, 1, 5] = -np.inf  # type: ignore[index]
    check({"large": one("attention", *arrays, scale=1.0)}, tmp_path, atol=2e-4)


def test_parts_of_one_projection(tmp_path: Path) -> None:
    """q, k and v as a model has them: split from one product; turned around; and with their features apart."""
    heads, d = 4, 16

    def split(b: Any, x: Any) -> Any:
        n, s, _ = x.type.shape
        parts = b.emit_node("split", (x,), {"axis": 2, "sizes": (heads * d,) * 3}).outputs
        q, k, v = (b.emit("reshape", p, shape=(n, s, heads, d)) for p in parts)
        return b.emit("attention", q, k, v, scale=0.25, causal=True)

    def turned(b: Any, x: Any) -> Any:
        n, s, _ = x.type.shape
        x = b.emit("reshape", x, shape=(n, s, 3, heads, d))
        parts = b.emit_node("split", (x,), {"axis": 2, "sizes": (1, 1, 1)}).outputs
        q, k, v = (b.emit("reshape", p, shape=(n, s, heads, d)) for p in parts)
        k = b.emit("transpose", b.emit("transpose", k, perm=(0, 3, 2, 1)), perm=(0, 3, 2, 1))
        v = b.emit("transpose", b.emit("transpose", v, perm=(0, 2, 1, 3)), perm=(0, 2, 1, 3))
        return b.emit("attention", q, k, v, scale=0.25)

    def apart(b: Any, x: Any) -> Any:
        n, s, _ = x.type.shape
        x = b.emit("transpose", b.emit("reshape", x, shape=(n, s, d, 3 * heads)), perm=(0, 1, 3, 2))
        q, k, v = b.emit_node("split", (x,), {"axis": 2, "sizes": (heads,) * 3}).outputs
        return b.emit("attention", q, k, v, scale=0.25)

    arrays, shapes = {"x": numbers(2, 21, 3 * heads * d)}, {"x": ("b", "s", None)}
    check({w.__name__: case(w, arrays, shapes) for w in (split, turned, apart)}, tmp_path)


def test_a_length_that_is_computed(tmp_path: Path) -> None:
    """Keys that are joined to those before: t is a sum of symbols."""

    def write(b: Any, q: Any, k: Any, past: Any) -> Any:
        both = b.emit("concat", past, k, axis=1)
        assert both.type.shape[1] == symbol("past") + symbol("s")
        return b.emit("attention", q, both, both, scale=0.25, causal=True)

    arrays = {"q": numbers(2, 3, 4, 8), "k": numbers(2, 3, 4, 8), "past": numbers(2, 30, 4, 8)}
    shapes = {"q": ("b", "s", None, None), "k": ("b", "s", None, None), "past": ("b", "past", None, None)}
    check({"joined": case(write, arrays, shapes)}, tmp_path)
