"""Layers of experts as grouped products: any routing, any number of tokens, one thread or several."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tundish.backends.tvm.runner import TvmRunner
from tundish.backends.tvm.tiles import WIDTH
from tundish.compiler.hardware.caches import caches
from tundish.compiler.hardware.machine import this_machine
from tundish.ir.diagnostics import RunError
from tundish.ir.op import get
from tundish.ir.ops.moe import ACTIVATIONS

from .kit import Case, one, opened

DEEPER = 2 * caches()[1].size_bytes // 8 // (4 * WIDTH) - 5  # so deep that a panel is cut into blocks
SHAPES: dict[str, dict[str, Any]] = {
    "few": {"e": 8, "k": 2, "d": 64, "f": 48, "act": "swiglu", "bias": False},
    "many": {"e": 64, "k": 8, "d": 96, "f": 32, "act": "swiglu", "bias": False},
    "odd": {"e": 5, "k": 1, "d": 33, "f": 19, "act": "gelu", "bias": True},
    "odd gated": {"e": 6, "k": 3, "d": 70, "f": 21, "act": "swiglu_oai", "bias": True},
    "deep": {"e": 3, "k": 2, "d": DEEPER, "f": 40, "act": "geglu", "bias": False},
    "all": {"e": 4, "k": 4, "d": 130, "f": DEEPER, "act": "relu", "bias": False},
    **{act: {"e": 4, "k": 2, "d": 16, "f": 16, "act": act, "bias": True} for act in ACTIVATIONS},
}
TOKENS = (1, 2, 7, 32, 130)


def numbers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def plain(e: int, k: int, d: int, f: int, act: str, bias: bool) -> list[np.ndarray | None]:
    """Two matrices and two biases of all experts, such that numbers stay around 1."""
    rng, wide = np.random.default_rng(e * d), f * (2 if ACTIVATIONS[act].gated else 1)
    matrices = [numbers(rng, e, d, wide) / np.float32(d**0.5), numbers(rng, e, f, d) / np.float32(f**0.5)]
    return [*matrices, *((numbers(rng, e, wide), numbers(rng, e, d)) if bias else (None, None))]


def packed(parts: list[np.ndarray | None], act: str) -> list[np.ndarray | None]:
    cut, gated = get("to_expert_panels"), ACTIVATIONS[act].gated
    whole = [a if a is None or a.ndim == 3 else a[:, None] for a in parts]
    return [None if a is None else np.asarray(cut.reference(a, width=WIDTH, gated=gated and i % 2 == 0))
            for i, a in enumerate(whole)]  # fmt: skip


def routed(how: str, tokens: int, e: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and weights [tokens, k]."""
    rng = np.random.default_rng(tokens)
    ids = np.argsort(rng.random((tokens, e)), 1)[:, :k]
    weights = rng.random((tokens, k)).astype(np.float32)
    if how == "one expert":  # and the others that a token needs are the last ones
        ids = np.broadcast_to([0, *range(e - k + 1, e)], (tokens, k))
    elif how == "the same again":
        ids = np.full((tokens, k), e - 1)
    elif how == "weights of 0":
        weights[rng.random(weights.shape) < 0.5] = 0
    return np.ascontiguousarray(ids, np.int64), weights


def inputs(x: np.ndarray, ids: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    return {"i0": x, "i1": ids, "i2": weights}


def case_of(shape: Mapping[str, Any]) -> Case:
    x = numbers(np.random.default_rng(0), 2, shape["d"])
    given = x, *routed("any", 2, shape["e"], shape["k"])
    parts = packed(plain(**shape), shape["act"])
    return one("panel_moe", *given, *parts, shapes=[("t", None)] * 3, inner=shape["f"], activation=shape["act"])


@pytest.fixture(scope="module")
def runners(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Case], dict[int, TvmRunner]]:
    cases = {name.replace(" ", "_"): case_of(shape) for name, shape in SHAPES.items()}
    two = opened(cases, tmp_path_factory.mktemp("experts"), threads=2)
    assert isinstance(two, TvmRunner)
    return cases, {1: TvmRunner(two.built, 1), 2: two}


@pytest.mark.parametrize("how", ["any", "one expert", "the same again", "weights of 0"])
@pytest.mark.parametrize("name", SHAPES)
def test_any_routing_of_any_number_of_tokens(runners: Any, name: str, how: str) -> None:
    (cases, opened), shape, entry = runners, SHAPES[name], name.replace(" ", "_")
    parts, rng = plain(**shape), np.random.default_rng(1)
    for tokens in (*TOKENS, 600) if name == "few" else TOKENS:
        x, (ids, weights) = numbers(rng, tokens, shape["d"]), routed(how, tokens, shape["e"], shape["k"])
        wanted = get("moe").reference(x, ids, weights, *parts, activation=shape["act"])
        bound = 1e-5 * max(1, np.abs(wanted).max())
        for runner in opened.values():
            (got,) = runner.run(entry, {**cases[entry].inputs, **inputs(x, ids, weights)}).values()
            np.testing.assert_allclose(got, wanted, rtol=0, atol=bound, err_msg=f"{tokens} tokens")


def test_how_many_threads_run_changes_no_digit(runners: Any) -> None:
    cases, opened = runners
    shape = SHAPES["few"]
    given = numbers(np.random.default_rng(2), 50, shape["d"]), *routed("any", 50, shape["e"], shape["k"])
    answers = [r.run("few", {**cases["few"].inputs, **inputs(*given)}) for r in opened.values()]
    np.testing.assert_array_equal(*(next(iter(a.values())) for a in answers))


@pytest.mark.parametrize("bad", [-1, 8, 1 << 40])
def test_an_expert_that_does_not_exist_is_told_of(runners: Any, bad: int) -> None:
    cases, opened = runners
    ids, weights = routed("any", 9, 8, 2)
    x = numbers(np.random.default_rng(3), 9, 64)
    ids[4, 1] = bad
    for runner in opened.values():
        with pytest.raises(RunError, match=r"is outside of what .*\n.*expert_order"):
            runner.run("few", {**cases["few"].inputs, **inputs(x, ids, weights)})


def test_numbers_that_are_none_stay_in_their_token(runners: Any) -> None:
    cases, opened = runners
    ids, weights = routed("any", 9, 8, 2)
    x = numbers(np.random.default_rng(4), 9, 64)
    x[3], weights[5] = np.nan, np.nan
    (got,) = opened[2].run("few", {**cases["few"].inputs, **inputs(x, ids, weights)}).values()
    assert np.isnan(got[[3, 5]]).all()
    assert np.isfinite(np.delete(got, [3, 5], 0)).all()


# -- experts in few bits ----------------------------------------------------------------------------------------------

NEEDS_DOT = pytest.mark.skipif(
    "avx512_vnni" not in this_machine().features, reason="products in whole numbers need AVX-512 VNNI"
)
FEW_BITS: dict[str, dict[str, Any]] = {
    "bytes": {"e": 8, "k": 2, "d": 64, "f": 96, "act": "swiglu", "bias": False, "bits": 8, "groups": (64, 32)},
    "halves": {"e": 5, "k": 1, "d": 96, "f": 64, "act": "gelu", "bias": True, "bits": 4, "groups": (32, 64)},
    "gated": {"e": 16, "k": 4, "d": 32, "f": 32, "act": "swiglu_oai", "bias": True, "bits": 4, "groups": (32, 32)},
}


def in_few_bits(shape: Mapping[str, Any]) -> tuple[list[np.ndarray | None], dict[str, Any]]:
    """The six parts of `quantized_moe`, and its attributes."""
    shape = dict(shape)
    bits, (group, inner_group) = shape.pop("bits"), shape.pop("groups")
    up, down, *biases = plain(**shape)
    parts: list[np.ndarray | None] = []
    for w, each in ((up, group), (down, inner_group)):
        assert w is not None
        rows = np.ascontiguousarray(w.transpose(0, 2, 1)).reshape(-1, w.shape[1])
        scale = np.asarray(get("quantize_scale").reference(rows, bits=bits, group=each))
        q = np.asarray(get("quantize").reference(rows, scale, bits=bits, group=each))
        parts += [q.reshape(len(w), -1, w.shape[1]), scale.reshape(len(w), -1, w.shape[1] // each)]
    attrs = {"bits": bits, "group": group, "inner_group": inner_group, "activation": shape["act"], "x_bits": 8}
    return [*parts, *biases], attrs


def in_quads(parts: list[np.ndarray | None], attrs: Mapping[str, Any]) -> list[np.ndarray | None]:
    gated, found = ACTIVATIONS[attrs["activation"]].gated, list[np.ndarray | None]()
    for i, part in enumerate(parts):
        halves = gated and i in (0, 1, 4)
        if part is None:
            found.append(None)
        elif i in (0, 2):
            quads = get("to_expert_quads").reference(part, width=WIDTH, bits=attrs["bits"], gated=halves)
            found.append(np.asarray(quads))
        else:
            turned = np.ascontiguousarray(part.transpose(0, 2, 1)) if i < 4 else part[:, None]
            found.append(np.asarray(get("to_expert_panels").reference(turned, width=WIDTH, gated=halves)))
    return found


@NEEDS_DOT
def test_experts_of_few_bits_are_what_the_op_means(tmp_path: Path) -> None:
    held, cases = {name: in_few_bits(shape) for name, shape in FEW_BITS.items()}, {}
    for name, shape in FEW_BITS.items():
        x = numbers(np.random.default_rng(0), 2, shape["d"])
        given = x, *routed("any", 2, shape["e"], shape["k"])
        parts, attrs = held[name]
        cases[name] = one("quad_moe", *given, *in_quads(parts, attrs), shapes=[("t", None)] * 3, inner=shape["f"],
                          **attrs)  # fmt: skip
    runner, rng = opened(cases, tmp_path, threads=2), np.random.default_rng(5)
    for name, shape in FEW_BITS.items():
        parts, attrs = held[name]
        for tokens in TOKENS:
            for how in ("any", "one expert", "weights of 0"):
                x, (ids, weights) = numbers(rng, tokens, shape["d"]), routed(how, tokens, shape["e"], shape["k"])
                wanted = get("quantized_moe").reference(x, ids, weights, *parts, **attrs)
                (got,) = runner.run(name, {**cases[name].inputs, **inputs(x, ids, weights)}).values()
                scale = np.abs(wanted).max()
                # A number half way between two bytes may fall to either: one unit of its group's scale.
                np.testing.assert_allclose(got, wanted, atol=2e-2 * scale, rtol=0, err_msg=f"{name}, {tokens}, {how}")
                assert np.median(np.abs(got - wanted)) < 2e-4 * scale, (name, tokens, how)
