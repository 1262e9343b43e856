"""A tiny model made by hand: embedding, two layers as one function called twice, a head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tundish.backends import registry
from tundish.compiler.plan import Guard, Plan, Variant
from tundish.ir.build import Builder
from tundish.ir.diagnostics import Where
from tundish.ir.dims import Range, symbol
from tundish.ir.dtypes import f32, i64
from tundish.ir.graph import Graph, Program
from tundish.ir.op import get
from tundish.ir.tensor import TensorType
from tundish.ir.weights import Held, Recipe, Weight

HIDDEN, HEADS, WORDS, LONGEST = 32, 4, 50, 64


def _layer() -> Graph:
    b, batch, seq = Builder(Where("tiny.py", 7, "layers.{i}.attention")), symbol("batch"), symbol("seq")
    x = b.input("x", TensorType(f32, (batch, seq, HIDDEN)))
    mask = b.input("mask", TensorType(get("not").infer(TensorType(_bool())).dtype, (batch, seq)))
    wide = [b.input(n, TensorType(f32, (HIDDEN, HIDDEN))) for n in ("q", "k", "v", "o")]
    thin = [b.input(n, TensorType(f32, (HIDDEN,))) for n in ("bias", "gain", "shift")]
    up, down = b.input("up", TensorType(f32, (HIDDEN, 64))), b.input("down", TensorType(f32, (64, HIDDEN)))
    up_bias = b.input("up_bias", TensorType(f32, (64,)))
    heads = (batch, seq, HEADS, HIDDEN // HEADS)
    q, k, v = (b.emit("reshape", b.emit("linear", x, w, thin[0]), shape=heads) for w in wide[:3])
    y = b.emit("attention", q, k, v, mask, scale=(HIDDEN // HEADS) ** -0.5, causal=True)
    y = b.emit("linear", b.emit("reshape", y, shape=(batch, seq, HIDDEN)), wide[3], None)
    with b.at(Where("tiny.py", 12, "layers.{i}.mlp")):
        x = b.emit("layer_norm", b.emit("add", x, y), *thin[1:], eps=1e-5)
        inner = b.emit_node(
            "fused", (x, up, up_bias), {"function": "up_gelu", "anchor": "linear", "epilogue": ("gelu",)},
            types=[TensorType(f32, (batch, seq, 64))],
        ).output  # fmt: skip
        x = b.emit("add", x, b.emit("linear", inner, down))
    return b.finish([x])


def _bool() -> object:
    from tundish.ir.dtypes import boolean

    return boolean


def _up_gelu() -> Graph:
    b, lead = Builder(Where("tiny.py", 13, "layers.{i}.mlp.up")), (symbol("batch"), symbol("seq"))
    x = b.input("x", TensorType(f32, (*lead, HIDDEN)))
    w, bias = b.input("w", TensorType(f32, (HIDDEN, 64))), b.input("bias", TensorType(f32, (64,)))
    return b.finish([b.emit("gelu", b.emit("linear", x, w, bias))])


def tiny_program(seed: int = 0) -> Program:
    """Inputs input_ids and attention_mask [batch, seq]; outputs last_hidden_state and logits (a tied head)."""
    rng = np.random.default_rng(seed)
    weights: dict[str, Weight] = {}
    b, batch, seq = Builder(Where("tiny.py", 20)), symbol("batch"), symbol("seq")
    ids = b.input("input_ids", TensorType(i64, (batch, seq)))
    attention_mask = b.input("attention_mask", TensorType(i64, (batch, seq)))

    def weight(name: str, *shape: int) -> object:
        array = rng.standard_normal(shape).astype(np.float32) * np.float32(0.2)
        weights[name] = Weight(TensorType(f32, shape), Held(array))
        return b.emit_node("weight", (), {"name": name}, types=[weights[name].type], names=(name,)).output

    words = weight("words", WORDS, HIDDEN)
    x = b.emit("gather", words, ids, axis=0)
    x = b.emit("add", x, b.emit("gather", weight("places", LONGEST, HIDDEN), b.emit("iota", length=seq), axis=0))
    mask = b.emit("ne", attention_mask, b.constant(0, i64))
    layer = _layer()
    for i in range(2):
        given = [weight(f"layers.{i}.{v.name}", *v.type.shape) for v in layer.inputs[2:]]
        x = b.call("layer", layer, [x, mask, *given], index=i).output
    flip = Recipe(get("transpose"), get("transpose").complete_attrs({"perm": (1, 0)}), (weights["words"],))
    weights["head"] = Weight(TensorType(f32, (HIDDEN, WORDS)), flip)
    head = b.emit_node("weight", (), {"name": "head"}, types=[weights["head"].type], names=("head",)).output
    graph = b.finish([x, b.emit("linear", x, head)], ["last_hidden_state", "logits"])
    functions = {"up_gelu": _up_gelu(), "layer": layer, "main": graph}
    return Program(functions, ("main",), weights, {"batch": Range(1, 8), "seq": Range(1, LONGEST)})


def tiny_plan(backend: str = "onnxruntime", seed: int = 0) -> Plan:
    return Plan(tiny_program(seed), {"main": (Variant(Guard(), "main"),)}, backend, "cpu")


def tiny_inputs(batch: int = 2, seq: int = 7, seed: int = 1) -> dict[str, np.ndarray]:
    """Row 0 is padded on the left, the last one on the right."""
    rng = np.random.default_rng(seed)
    mask = np.ones((batch, seq), np.int64)
    mask[0, : seq // 3], mask[-1, seq - seq // 4 :] = 0, 0
    return {"input_ids": rng.integers(0, WORDS, (batch, seq)), "attention_mask": mask}


@pytest.fixture
def plan() -> Plan:
    return tiny_plan()


@pytest.fixture
def inputs() -> dict[str, np.ndarray]:
    return tiny_inputs()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., object]:
    """Writes the tiny model as a bundle and opens it."""
    from tundish.backends.bundle import write_bundle

    def make(name: str = "tiny.tundish", backend: str = "onnxruntime", seed: int = 0, **options: object) -> object:
        return write_bundle(tmp_path / name, tiny_plan(backend, seed), registry.get(backend), **options)

    return make
