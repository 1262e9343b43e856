"""Counts against formulas worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tundish.ir import dims, dtypes
from tundish.ir.build import Builder
from tundish.ir.diagnostics import GraphError, RunError, Where
from tundish.ir.dims import Range
from tundish.ir.graph import Program
from tundish.ir.op import OPS, Op, get
from tundish.ir.tensor import TensorType
from tundish.ir.weights import Held, Recipe, Stored, Weight
from tundish.profiler.account import account

B, S = dims.symbol("batch"), dims.symbol("seq")
H, HEADS, INNER, VOCAB, LAYERS = 12, 3, 48, 100, 2
SYMBOLS = {"batch": Range(1, 8), "seq": Range(1, 64)}


def f32(*shape):
    return TensorType(dtypes.f32, shape)


class Model:
    """Emits nodes on weights, which it collects."""

    def __init__(self):
        self.b, self.weights, self.values = Builder(), {}, {}

    def weight(self, name, *shape, dtype=dtypes.f32):
        if name not in self.values:
            self.weights[name] = Weight(TensorType(dtype, shape))
            node = self.b.emit_node("weight", (), {"name": name}, types=[self.weights[name].type], names=[name])
            self.values[name] = node.output
        return self.values[name]

    def linear(self, module, x, k, n):
        w, bias = self.weight(f"{module}.weight", k, n), self.weight(f"{module}.bias", n)
        with self.b.at(Where("bert.py", 1, module)):
            return self.b.emit("linear", x, w, bias)

    def norm(self, module, x):
        w, bias = self.weight(f"{module}.weight", H), self.weight(f"{module}.bias", H)
        with self.b.at(Where("bert.py", 2, module)):
            return self.b.emit("layer_norm", x, w, bias, eps=1e-5)

    def at(self, module, op, *values, **attrs):
        with self.b.at(Where("bert.py", 3, module)):
            return self.b.emit(op, *values, **attrs)


def bert():
    """Embedding, LAYERS layers, and a head that is tied to the embedding."""
    m = Model()
    ids = m.b.input("input_ids", TensorType(dtypes.i64, (B, S)))
    x = m.at("embed", "gather", m.weight("embed.weight", VOCAB, H), ids, axis=0)
    for i in range(LAYERS):
        at = f"layers.{i}"
        q, k, v = (
            m.at(f"{at}.attn", "reshape", m.linear(f"{at}.attn.{p}", x, H, H), shape=(B, S, HEADS, H // HEADS))
            for p in "qkv"
        )
        mixed = m.at(f"{at}.attn", "attention", q, k, v, scale=0.5)
        mixed = m.linear(f"{at}.attn.o", m.at(f"{at}.attn", "reshape", mixed, shape=(B, S, H)), H, H)
        x = m.norm(f"{at}.norm1", m.at(at, "add", x, mixed))
        up = m.at(f"{at}.mlp", "gelu", m.linear(f"{at}.mlp.up", x, H, INNER))
        x = m.norm(f"{at}.norm2", m.at(at, "add", x, m.linear(f"{at}.mlp.down", up, INNER, H)))
    head = m.at("head", "transpose", m.weight("embed.weight", VOCAB, H), perm=(1, 0))
    logits = m.at("head", "linear", x, head, None)
    return Program({"forward": m.b.finish([logits])}, ("forward",), m.weights, SYMBOLS)


def layer_flops(b, s):
    """By hand, from the published layer: four projections, two products over s x s, an MLP, two norms, two sums."""
    n = b * s
    projections = 4 * (2 * n * H * H + n * H)
    mixing = 2 * (2 * b * s * s * H) + 4 * b * HEADS * s * s
    mlp = (2 * n * H * INNER + n * INNER) + 5 * n * INNER + (2 * n * INNER * H + n * H)
    return projections + mixing + mlp + 2 * 7 * n * H + 2 * n * H


@pytest.mark.parametrize(("b", "s"), [(1, 1), (2, 7), (8, 64)])
def test_flops_of_bert_by_hand(b, s):
    found = account(bert(), {"batch": b, "seq": s})
    assert found.work.flops == LAYERS * layer_flops(b, s) + 2 * b * s * H * VOCAB


def test_parameters_by_hand_with_the_tied_head_once():
    layer = 4 * (H * H + H) + (H * INNER + INNER) + (INNER * H + H) + 2 * 2 * H
    assert account(bert()).parameters == VOCAB * H + LAYERS * layer


def test_symbolic_is_the_same_formula():
    program = bert()
    work = account(program).work
    assert dims.symbols(work.flops) == {"batch", "seq"}
    for b, s in ((1, 3), (4, 50)):
        assert work.at({"batch": b, "seq": s}) == account(program, {"batch": b, "seq": s}).work


def test_bytes_of_a_linear_by_hand():
    m = Model()
    x = m.b.input("x", f32(B, H))
    y = m.linear("up", x, H, INNER)
    found = account(Program({"f": m.b.finish([y])}, ("f",), m.weights, SYMBOLS), {"batch": 3})
    assert found.work.read_bytes == 4 * (3 * H + H * INNER + INNER)
    assert found.work.written_bytes == 4 * 3 * INNER


def test_an_embedding_reads_the_rows_it_takes_and_not_the_table():
    m = Model()
    ids = m.b.input("ids", TensorType(dtypes.i64, (B, S)))
    y = m.at("embed", "gather", m.weight("embed.weight", VOCAB, H), ids, axis=0)
    found = account(Program({"f": m.b.finish([y])}, ("f",), m.weights, SYMBOLS), {"batch": 2, "seq": 5})
    assert found.work.read_bytes == 2 * 5 * (8 + 4 * H)
    assert (found.work.flops, found.parameters) == (0, VOCAB * H)


def test_rows_add_up_to_the_total():
    found = account(bert(), {"batch": 2, "seq": 9})
    for rows in (found.by_module, found.by_op):
        assert sum((r.work for r in rows), start=type(found.work)()) == found.work
    assert sum(r.parameters for r in found.by_module) == found.parameters


def test_by_module_names_the_users_modules():
    n = 2 * 9
    rows = {r.name: r for r in account(bert(), {"batch": 2, "seq": 9}).by_module}
    up = rows["layers.1.mlp.up"]
    assert up.work.flops == 2 * n * H * INNER + n * INNER
    assert up.parameters == H * INNER + INNER
    assert rows["layers.0.norm1"].work.flops == 7 * n * H
    assert rows["embed"].parameters == VOCAB * H
    assert rows["head"].parameters == 0


def test_by_op_counts_and_orders():
    rows = account(bert(), {"batch": 2, "seq": 9}).by_op
    assert [r.work.flops for r in rows] == sorted((r.work.flops for r in rows), reverse=True)
    counts = {r.name: r.count for r in rows}
    assert (rows[0].name, counts["linear"], counts["attention"]) == ("linear", 6 * LAYERS + 1, LAYERS)
    assert "weight" not in counts


def test_a_layer_called_n_times_counts_n_times_at_n_places():
    m = Model()
    x = m.b.input("x", f32(B, H))
    with m.b.at(Where("m.py", 5, "layers.{i}.act")):
        layer = m.b.finish([m.b.emit("tanh", x)])
    b = Builder(Where("m.py", 1))
    x = b.input("x", f32(B, H))
    for i in range(3):
        x = b.call("layer", layer, [x], index=i).output
    program = Program({"layer": layer, "main": b.finish([x])}, ("main",), {}, SYMBOLS)
    found = account(program, {"batch": 4})
    assert found.work.flops == 3 * 4 * H
    assert [r.name for r in found.by_module] == ["layers.0.act", "layers.1.act", "layers.2.act"]
    assert [(r.name, r.count) for r in found.by_op] == [("tanh", 3)]


def test_two_names_of_one_storage_are_one_parameter():
    array = np.zeros((6, 5), np.float32)
    weights = {
        "held": Weight(f32(6, 5), Held(array)),
        "tied": Weight(f32(6, 5), Held(array)),
        "turned": Weight(f32(5, 6), Recipe(get("transpose"), {"perm": (1, 0)}, (Weight(f32(6, 5), Held(array)),))),
        "file": Weight(f32(3), Stored("a.safetensors", "w")),
        "again": Weight(f32(3), Stored("a.safetensors", "w")),
        "inv_freq": Weight(f32(16)),
        "positions": Weight(TensorType(dtypes.i64, (1, 512))),
        "unread": Weight(f32(1000)),
    }
    b = Builder()
    for name, weight in weights.items():
        if name != "unread":
            b.emit_node("weight", (), {"name": name}, types=[weight.type])
    program = Program({"f": b.finish([])}, ("f",), weights)
    assert account(program, buffers=frozenset({"inv_freq"})).parameters == 30 + 3
    assert account(program).parameters == 30 + 3 + 16


def test_an_op_without_a_formula_is_an_error_that_names_its_place(monkeypatch):
    monkeypatch.setattr(type(get("gelu")), "flops", Op.flops)
    with pytest.raises(GraphError, match="no formula") as caught:
        account(bert(), {"batch": 1, "seq": 1})
    assert caught.value.found == "gelu at bert.py:3 (in layers.0.mlp)"


def test_every_op_has_a_formula():
    get("add")  # fills the table
    lost = [n for n, op in OPS.items() if type(op).flops is Op.flops and type(op).work is Op.work]
    assert lost == []


@pytest.mark.parametrize(("sizes", "match"), [
    ({"batch": 1}, "no size is given for seq"),
    ({"batch": 9, "seq": 1}, r"batch is 9, outside 1\.\.8"),
])  # fmt: skip
def test_sizes_that_do_not_fit(sizes, match):
    with pytest.raises(RunError, match=match):
        account(bert(), sizes)


def test_json_has_the_contracts_keys_and_plain_numbers():
    rows = account(bert(), {"batch": 1, "seq": 4}).to_json()
    assert list(rows) == [
        "parameters", "active_parameters", "weights_bytes", "flops", "hardware_flops", "read_bytes", "written_bytes",
        "intensity", "kv_cache", "by_module", "by_op",
    ]  # fmt: skip
    assert all(type(r["flops"]) is int for r in rows["by_module"] + rows["by_op"])
    assert json.loads(json.dumps(rows)) == rows
    symbolic = json.loads(json.dumps(account(bert()).to_json()))
    assert "batch*seq*seq" in symbolic["flops"]
