"""What follows a product in the same kernel, against the product alone: ours on TVM, in fp32."""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..ir.build import Builder
from ..ir.dims import Range, symbol
from ..ir.dtypes import f32
from ..ir.graph import Value
from ..ir.tensor import TensorType
from .ceilings import Ceiling
from .kernel_bench import copies, drawn
from .kernel_race import FILE, OPENED_BY, OURS, compiled, raced, weight

ROWS = (128, 512)
SIZES = ((768, 768), (768, 3072), (3072, 768), (1024, 2816))
MOST = 1.05  # of the bare product's time


def _bare(b: Builder, x: Value, r: Value, w: Value, bias: Value, other: Value) -> Value:
    return b.emit("linear", x, w)


def _bias(b: Builder, x: Value, r: Value, w: Value, bias: Value, other: Value) -> Value:
    return b.emit("linear", x, w, bias)


def _gelu(b: Builder, x: Value, r: Value, w: Value, bias: Value, other: Value) -> Value:
    return b.emit("gelu", b.emit("linear", x, w, bias))


def _gelu_tanh(b: Builder, x: Value, r: Value, w: Value, bias: Value, other: Value) -> Value:
    return b.emit("gelu", b.emit("linear", x, w, bias), approximate="tanh")


def _residual(b: Builder, x: Value, r: Value, w: Value, bias: Value, other: Value) -> Value:
    return b.emit("add", r, b.emit("linear", x, w, bias))


def _gate(b: Builder, x: Value, r: Value, w: Value, bias: Value, other: Value) -> Value:
    return b.emit("mul", b.emit("silu", b.emit("linear", x, w)), b.emit("linear", x, other))


FORMS: dict[str, tuple[Callable[..., Value], int]] = {  # what follows, and of how many products it is
    "bias": (_bias, 1), "bias, GELU": (_gelu, 1), "bias, GELU by tanh": (_gelu_tanh, 1),
    "bias, residual": (_residual, 1), "gate x up": (_gate, 2),
}  # fmt: skip


def write(path: Path, form: Callable[..., Value], products: int, weights: np.ndarray) -> None:
    """A bundle of one graph in which each weight is used once."""
    b, (count, k, n) = Builder(), weights.shape
    x, r = (b.input(name, TensorType(f32, (symbol("m"), size))) for name, size in (("x", k), ("r", n)))
    ws = [weight(b, f"w{i}", (k, n)) for i in range(count)]
    bias = weight(b, "bias", (n,))
    ys = [form(b, x, r, w, bias, other) for w, other in zip(ws[::products], ws[products - 1 :: products], strict=False)]
    graph = b.finish(ys, [f"y{i}" for i in range(len(ys))])
    held = {f"w{i}": w for i, w in enumerate(weights)} | {"bias": np.linspace(-1, 1, n, dtype=np.float32)}
    compiled(path, graph, {"m": Range(1, max(ROWS))}, held)


def measured(
    sizes: Sequence[tuple[int, int]], rows: Sequence[int], threads: int, rounds: int, say: Callable[[str], None]
) -> Iterator[tuple[tuple[int, int, int], dict[str, Any]]]:
    """(m, k, n) with what `kernel_race.raced` gives, whose ratios are those of each form to the bare product."""
    peers = {OURS: (FILE, OPENED_BY)} | {name: (f"{i}.tundish", OPENED_BY) for i, name in enumerate(FORMS)}
    for k, n in sizes:
        with tempfile.TemporaryDirectory(prefix="tundish-epilogues-") as text:
            folder = Path(text)
            weights = drawn(k, n, copies(k, n) // 2 * 2)
            write(folder / FILE, _bare, 1, weights)
            for name, (form, products) in FORMS.items():
                write(folder / peers[name][0], form, products, weights)
            for m in rows:
                say(f"{m} x {k} x {n}")
                rng = np.random.default_rng(m)
                np.savez(folder / "inputs.npz", x=rng.standard_normal((m, k), np.float32),
                         r=rng.standard_normal((m, n), np.float32))  # fmt: skip
                yield (m, k, n), raced(folder, peers, threads, rounds, len(weights), say, tolerance=math.inf)


def shown(size: tuple[int, int, int], row: Mapping[str, Any], most: Ceiling) -> dict[str, Any]:
    """A measured size as a row of the table."""
    m, k, n = size
    return {
        "m x k x n": f"{m} x {k} x {n}", "bare ms": f"{row['ms']:.3g}",
        "of peak": f"{2 * m * k * n / (row['ms'] / 1e3) / most.flops_per_s:.0%}",
        **{name: f"{ratio - 1:+.1%}" for name, ratio in row["ratios"].items()},
        "clean of rounds": f"{row['clean']} of {row['rounds']}",
    }  # fmt: skip


def summary(found: Sequence[tuple[tuple[int, int, int], Mapping[str, Any]]]) -> str:
    """The mean of all, and those that cost more than they may."""
    every = {
        f"{name} at {m} x {k} x {n}": ratio for (m, k, n), row in found for name, ratio in row["ratios"].items()
    }  # fmt: skip
    over = [f"{what} ({ratio - 1:+.1%})" for what, ratio in every.items() if ratio > MOST]
    mean = sum(every.values()) / len(every) - 1
    return (f"What follows a product adds {mean:.1%} to it on average. More than {MOST - 1:.0%}: "
            f"{', '.join(over) or 'none'}.")  # fmt: skip


def bench(
    asked: argparse.Namespace, most: Ceiling, say: Callable[[str], None]
) -> tuple[list[dict[str, Any]], str]:  # fmt: skip
    """Rows and what they come to."""
    rows = [int(m) for m in asked.rows.split(",")] if asked.rows else ROWS
    sizes = [(int(k), int(n)) for k, n in (s.split("x") for s in asked.sizes.split(",") if s)] or SIZES
    found = list(measured(sizes, rows, asked.threads, asked.rounds, say))
    return [shown(size, row, most) for size, row in found], summary(found)
