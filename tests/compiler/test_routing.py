"""Statistics of choices, their file, and files that are none."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tundish.compiler.experts.drawn import choices
from tundish.compiler.experts.routing import VERSION, Routing, layer_of, read_routing
from tundish.ir.diagnostics import LoadError


def drawn(seed: int, experts: int, k: int, lengths: tuple[int, ...]) -> list[np.ndarray]:
    draw = np.random.default_rng(seed)
    logits = draw.normal(0, 1, experts)
    return [choices(logits, n, k, draw) for n in lengths]


def routing(*layers) -> Routing:
    return Routing(VERSION, "m", "0" * 16, "drawn tokens", layers[0].tokens, (layers[0].tokens,), layers)


@given(seed=st.integers(0, 999), k=st.integers(1, 4), lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_a_layer_counts_what_was_chosen(seed, k, lengths):
    """Each figure against the slowest way to count it."""
    experts = 6
    texts = drawn(seed, experts, k, tuple(lengths))
    layer = layer_of("m", experts, texts, 10)
    rows = [set(row.tolist()) for t in texts for row in t]
    assert layer.tokens == len(rows) == sum(lengths)
    assert list(layer.counts) == [sum(e in row for row in rows) for e in range(experts)]
    for a, b, both in layer.pairs:
        assert both == sum(a in row and b in row for row in rows) and a < b
    assert sum(both for *_, both in layer.pairs) == len(rows) * k * (k - 1) // 2
    kept = [len(set(x.tolist()) & set(y.tolist())) / k for t in texts for x, y in zip(t, t[1:], strict=False)]
    assert layer.kept == pytest.approx(np.mean(kept) if kept else 0.0)
    assert dict(layer.reached)[1] == k and layer.distinct(1) == k
    for n, reached in layer.reached:
        runs = [t[i : i + n] for t in texts for i in range(0, len(t), n) if i + n <= len(t)]
        assert reached == pytest.approx(np.mean([len(set(run.ravel().tolist())) for run in runs]))
    assert layer.choices().tolist() == np.concatenate(texts)[:10].tolist()


def test_what_independent_tokens_keep_and_reach_is_known():
    texts = drawn(3, 16, 2, (20_000,))
    layer = layer_of("m", 16, texts, 0)
    assert layer.kept == pytest.approx(layer.kept_by_chance, abs=0.02)
    shares = layer.loads / layer.tokens
    for n in (4, 64, 512, 2048):
        assert layer.distinct(n) == pytest.approx((1 - (1 - shares) ** n).sum(), abs=0.15)
    assert layer.max_over_mean == max(layer.counts) / np.mean(layer.counts)


def test_tokens_that_repeat_keep_more_than_chance_and_reach_less():
    (text,) = drawn(0, 16, 2, (400,))
    repeated = layer_of("m", 16, [np.repeat(text, 5, axis=0)], 0)
    apart = layer_of("m", 16, [text], 0)
    assert repeated.kept > 0.7 > 2 * apart.kept_by_chance
    assert repeated.distinct(8) < apart.distinct(8)


def test_a_file_gives_back_what_was_saved(tmp_path):
    found = routing(layer_of("a", 8, drawn(0, 8, 2, (30, 9)), 20), layer_of("b", 8, drawn(1, 8, 2, (39,)), 20))
    found.save(tmp_path / "r.json")
    assert read_routing(tmp_path / "r.json") == found
    np.testing.assert_array_equal(found.loads(), [layer.counts for layer in found.layers])


def test_layers_of_different_sizes_have_no_table_of_loads():
    with pytest.raises(LoadError, match="different numbers"):
        routing(layer_of("a", 8, drawn(0, 8, 2, (30,)), 0), layer_of("b", 4, drawn(1, 4, 2, (30,)), 0)).loads()


@pytest.mark.parametrize(("change", "problem"), [
    ({"version": 99}, "version 99"),
    ({"layers": [{"k": 9}]}, "9 for each token"),
    ({"layers": [{"k": 0}]}, "0 for each token"),
    ({"layers": [{"counts": [1, 2]}]}, "2 counts"),
    ({"layers": [{"counts": [-2] + [2] * 7}]}, "not those of tokens"),
    ({"layers": [{"counts": [1] + [2] * 7}]}, "not those of tokens"),
    ({"layers": [{"trace": [0, 8]}]}, "outside 0..7"),
    ({"layers": [{"trace": [0]}]}, "outside 0..7"),
    ({"layers": [{"pairs": [[0, -1, 3]]}]}, "outside 0..7"),
    ({"layers": [{"reached": []}]}, "how many experts"),
    ({"layers": [{"kept": "much"}]}, "no routing file"),
    ({"layers": [{"more": 1}]}, "no routing file"),
    ({"tokens": None}, "no routing file"),
])  # fmt: skip
def test_files_that_say_what_cannot_be_are_refused_in_one_line(tmp_path, change, problem):
    whole = json.loads(msgspec.json.encode(routing(layer_of("a", 8, drawn(0, 8, 2, (32,)), 4))))
    layers = [{**own, **new} for own, new in zip(whole["layers"], change.pop("layers", [{}]), strict=True)]
    (tmp_path / "r.json").write_text(json.dumps({**whole, "layers": layers, **change}))
    with pytest.raises(LoadError, match=problem) as caught:
        read_routing(tmp_path / "r.json")
    assert caught.value.hint and "\n" not in caught.value.problem


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00" * 9, '{"version": 1}'])
def test_what_is_no_such_file_is_refused(tmp_path, text):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(LoadError, match="r.json is no routing file"):
        read_routing(tmp_path / "r.json")
    with pytest.raises(LoadError, match="none.json is no routing file"):
        read_routing(tmp_path / "none.json")
