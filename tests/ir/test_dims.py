"""Symbolic sizes: ring laws in normal form, the text form, evaluation, substitution and bounds."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tundish.ir import dims
from tundish.ir.dims import Dim, Range, symbol
from tundish.ir.dtypes import DTYPES
from tundish.ir.tensor import TensorType, Work

NAMES = ("batch", "s", "t_1")
FUNCTIONS: dict[str, Callable[[Dim, Dim], Dim]] = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "//": dims.floordiv,
    "%": dims.mod, "min": dims.minimum, "max": dims.maximum,
}  # fmt: skip
MEANINGS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "//": lambda a, b: a // b,
    "%": lambda a, b: a % b, "min": min, "max": max,
}  # fmt: skip
# An expression as a tree: an int, a name, or (function, left, right).
leaves = st.one_of(st.integers(-9, 9), st.sampled_from(NAMES))
trees = st.recursive(leaves, lambda inner: st.tuples(st.sampled_from(sorted(FUNCTIONS)), inner, inner), max_leaves=8)
small = st.recursive(leaves, lambda inner: st.tuples(st.sampled_from(["+", "-", "*"]), inner, inner), max_leaves=5)
sizes = st.fixed_dictionaries({n: st.integers(-6, 12) for n in NAMES})
many = settings(max_examples=150, deadline=None)


def built(tree: object) -> Dim:
    """The tree as a dim; a division by nothing is no example."""
    if isinstance(tree, int):
        return tree
    if isinstance(tree, str):
        return symbol(tree)
    name, left, right = tree  # type: ignore[misc]
    try:
        return FUNCTIONS[name](built(left), built(right))
    except ZeroDivisionError:
        assume(False)
        raise


def meant(tree: object, at: dict[str, int]) -> int:
    if isinstance(tree, int):
        return tree
    if isinstance(tree, str):
        return at[tree]
    name, left, right = tree  # type: ignore[misc]
    a, b = meant(left, at), meant(right, at)
    assume(name not in ("//", "%") or b != 0)
    return MEANINGS[name](a, b)


@many
@given(trees, sizes)
def test_evaluation_is_that_of_whole_numbers(tree: object, at: dict[str, int]):
    wanted = meant(tree, at)
    assert dims.evaluate(built(tree), at) == wanted


@many
@given(trees)
def test_text_form_is_read_back(tree: object):
    dim = built(tree)
    assert dims.parse(str(dim)) == dim


@many
@given(small, small, small)
def test_ring_laws_are_identities(x: object, y: object, z: object):
    a, b, c = built(x), built(y), built(z)
    assert a + b == b + a and a * b == b * a
    assert (a + b) + c == a + (b + c) and (a * b) * c == a * (b * c)
    assert a * (b + c) == a * b + a * c
    assert a - a == 0 and a + 0 == a and a * 1 == a and a * 0 == 0 and b - (b - a) == a
    assert hash(a + b) == hash(b + a)
    assert a - b == -(b - a)


@many
@given(trees, trees)
def test_whole_terms_divide_out(x: object, y: object):
    a, b = built(x), built(y)
    assume(b != 0)
    assert dims.minimum(a, b) == dims.minimum(b, a) and dims.maximum(a, a) == a
    if isinstance(b, int) or len(b.terms) == 1:
        assert dims.floordiv(a * b, b) == a and dims.mod(a * b, b) == 0


@many
@given(trees, st.dictionaries(st.sampled_from(NAMES), trees, max_size=2), sizes)
def test_substitution_then_evaluation(tree: object, changes: dict[str, object], at: dict[str, int]):
    inner = {name: built(t) for name, t in changes.items()}
    changed = {**at, **{name: meant(t, at) for name, t in changes.items()}}
    wanted = meant(tree, changed)
    try:
        dim = dims.substitute(built(tree), inner)
    except ZeroDivisionError:
        assume(False)
        raise
    assert dims.evaluate(dim, at) == wanted
    assert dims.symbols(dim) <= set(NAMES)


@st.composite
def ranged(draw: st.DrawFn) -> tuple[dict[str, Range], dict[str, int]]:
    """A range for each symbol and a size in it; `high` may be open."""
    ranges, at = {}, {}
    for name in NAMES:
        low = draw(st.integers(0, 6))
        size = low + draw(st.integers(0, 9))
        ranges[name] = Range(low, draw(st.one_of(st.none(), st.integers(size, size + 5))))
        at[name] = size
    return ranges, at


@many
@given(trees, ranged())
def test_bounds_hold_the_value(tree: object, given_: tuple[dict[str, Range], dict[str, int]]):
    ranges, at = given_
    value = meant(tree, at)
    low, high = dims.bounds(built(tree), ranges)
    assert low is None or low <= value
    assert high is None or value <= high


@many
@given(trees, trees, ranged())
def test_at_most_is_sound(x: object, y: object, given_: tuple[dict[str, Range], dict[str, int]]):
    ranges, at = given_
    left, right = meant(x, at), meant(y, at)
    verdict = dims.at_most(built(x), built(y), ranges)
    if verdict is not None:
        assert verdict == (left <= right)


def test_bounds_decide_what_people_ask():
    s, b = symbol("s"), symbol("b")
    ranges = {"s": Range(1, 512), "b": Range(1)}
    assert dims.bounds(s * b, ranges) == (1, None)
    assert dims.bounds(-s, ranges) == (-512, -1)
    assert dims.bounds(3 - 2 * b, ranges) == (None, 1)
    assert dims.bounds((s + 63) // 64, ranges) == (1, 8)
    assert dims.bounds(s % 8, ranges) == (0, 7)
    assert dims.bounds(s % 1000, ranges) == (0, 512)
    assert dims.bounds(dims.minimum(s, 64), ranges) == (1, 64)
    assert dims.bounds(dims.maximum(s, b), ranges) == (1, None)
    assert dims.at_most(s, 512, ranges) is True
    assert dims.at_most(513, s, ranges) is False
    assert dims.at_most(s, 100, ranges) is None
    assert dims.at_most(0, symbol("unknown"), {}) is True


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("2*(s//4)", "2*(s//4)"), ("(2*s)//4", "((2*s)//4)"), ("-(s//4)", "-(s//4)"), ("t-s%8", "t-(s%8)"),
        ("(4*s+3)//4", "s"), ("(4*s+3)%4", "3"), ("s*s+s-s*s", "s"), ("min(t, s)*2", "2*min(s, t)"), ("7", "7"),
        ("(s//2)//3", "((s//2)//3)"), ("b*s//b", "s"), ("max(s, s+1)", "s+1"), ("5//s", "(5//s)"), ("-3%s", "((-3)%s)"),
    ],
)  # fmt: skip
def test_normal_form_in_words(text: str, normal: str):
    dim = dims.parse(text)
    assert sorted(str(dim)) == sorted(normal) and dims.parse(str(dim)) == dim == dims.parse(normal)


NOT_SIZES = ["", "s +", "s.t", "f(s)", "2**s", "s//0", "s[0]", "1.5", "True", "min(s)", "'s'", "(" * 500, "a\nb"]


@pytest.mark.parametrize("text", NOT_SIZES)
def test_what_is_not_a_size(text: str):
    with pytest.raises(ValueError, match="not a size"):
        dims.parse(text)


@pytest.mark.parametrize("name", ["", "2s", "a b", "lambda", "é", "s-1"])
def test_symbols_are_plain_identifiers(name: str):
    with pytest.raises(ValueError, match="plain identifier"):
        symbol(name)


def test_a_missing_size_is_named():
    with pytest.raises(ValueError, match="no size is given for t_1 in s\\*t_1"):
        dims.evaluate(symbol("s") * symbol("t_1"), {"s": 2})


def test_dims_are_frozen_values():
    dim = (symbol("s") + 1) // 2 * dims.minimum(symbol("b"), 4)
    assert pickle.loads(pickle.dumps(dim)) == dim
    assert len({dim, dim + 0, symbol("s")}) == 2
    with pytest.raises(AttributeError):
        dim.terms = ()  # type: ignore[misc, union-attr]


def test_tensor_types_and_work():
    s = symbol("s")
    assert TensorType(DTYPES["f32"], (2, s)).bytes == 8 * s
    assert TensorType(DTYPES["i4"], (3, 5)).bytes == 8
    assert dims.evaluate(TensorType(DTYPES["u4"], (s,)).bytes, {"s": 5}) == 3
    assert str(TensorType(DTYPES["bf16"], (s, s + 1, 4))) == "bf16[s, s+1, 4]"
    total = Work(2 * s, 4 * s, 8) * 3 + Work(1, 1, 1)
    assert total.at({"s": 10}) == Work(61, 121, 25)
