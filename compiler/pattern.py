"""Patterns drawn with the same words as the graph, and rules made of them.

    @rule(lambda p, x, weight, eps: p.mul(weight, p.mul(
              x, p.rsqrt(p.add(p.mean(p.mul(x, x), axes=(-1,)), p.const(eps))))),
          when=lambda m: None if m.eps > 0 else f"eps is {m.eps}")
    def rms_norm(b, m):
        "a mean-square chain is one rms_norm"
        return b.emit("rms_norm", m.x, m.weight, eps=m.eps)

The parameters of the drawing are its holes; a hole drawn twice must match the same value. Ops that commute match
both ways. Attributes that the drawing leaves out are free; `axis` and `axes` are drawn counted from the end.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Union

from ..ir.build import Builder
from ..ir.graph import Node, Value
from ..ir.op import get

CLOSE = 1e-6  # relative: constants of a model pass through f32 on their way to us
TRANSPARENT = ("cast", "expand", "reshape")  # what a scalar may pass through and stay the same number


class Env(NamedTuple):
    """What a partial match has bound, and the nodes it covers."""

    bound: Mapping[str, Any]
    nodes: tuple[Node, ...]

    def bind(self, name: str, found: Any) -> Env | None:
        """With one more hole bound, or None where it is already bound to something else."""
        if name not in self.bound:
            return Env({**self.bound, name: found}, self.nodes)
        have = self.bound[name]
        same = have is found if isinstance(have, Value) or isinstance(found, Value) else have == found
        return self if same else None


Producers = Mapping[Value, Node]


class Pattern:
    """Something drawn: it matches a value in a graph, perhaps in several ways."""

    def match(self, value: Value | None, env: Env, made_by: Producers) -> Iterator[Env]:
        raise AssertionError("a pattern says how it matches")

    @property
    def roots(self) -> frozenset[str]:
        """The ops that it may stand on; empty for anything."""
        return frozenset()


@dataclass(frozen=True, slots=True)
class Hole(Pattern):
    """Any value; or, drawn as an attribute or inside `p.const`, any attribute or number."""

    name: str

    def match(self, value: Value | None, env: Env, made_by: Producers) -> Iterator[Env]:
        bound = None if value is None else env.bind(self.name, value)
        if bound is not None:
            yield bound


@dataclass(frozen=True, slots=True)
class Maybe(Pattern):
    """An optional input: a hole that may also be absent, and is then None."""

    hole: Hole

    def match(self, value: Value | None, env: Env, made_by: Producers) -> Iterator[Env]:
        bound = env.bind(self.hole.name, value)
        if bound is not None:
            yield bound


@dataclass(frozen=True, slots=True)
class Const(Pattern):
    """A scalar constant of this number, or of any number (a hole)."""

    number: float | Hole

    def match(self, value: Value | None, env: Env, made_by: Producers) -> Iterator[Env]:
        found = None if value is None else scalar(value, made_by)
        if found is None:
            return
        if isinstance(self.number, Hole):
            bound = env.bind(self.number.name, found)
            if bound is not None:
                yield bound
        elif found == self.number or math.isclose(found, self.number, rel_tol=CLOSE):
            yield env


@dataclass(frozen=True, slots=True)
class Apply(Pattern):
    """An op applied to patterns; `output` says which of its results is meant."""

    op: str
    inputs: tuple[Pattern, ...]
    attrs: tuple[tuple[str, Any], ...]
    output: int = 0

    @property
    def roots(self) -> frozenset[str]:
        return frozenset((self.op,))

    def match(self, value: Value | None, env: Env, made_by: Producers) -> Iterator[Env]:
        node = None if value is None else made_by.get(value)
        if node is None or node.op.name != self.op or node.outputs[self.output] is not value:
            return
        seen = self._attrs(node, env)
        if seen is None:
            return
        seen = Env(seen.bound, (*seen.nodes, node))
        for inputs in self._orders(node):
            if inputs is not None:
                yield from _match_all(self.inputs, inputs, seen, made_by)

    def _orders(self, node: Node) -> tuple[tuple[Value | None, ...] | None, ...]:
        """The node's inputs as long as the drawing's: optional ones not drawn must be absent."""
        given = node.inputs
        if any(v is not None for v in given[len(self.inputs) :]):
            return ()
        short = len(self.inputs) - len(given)
        if short > 0 and node.op.variadic:
            return ()
        given = (*given[: len(self.inputs)], *(None,) * short)
        swapped = node.op.commutes and len(given) == 2 and given[0] is not given[1]
        return (given, given[::-1]) if swapped else (given,)

    def _attrs(self, node: Node, env: Env) -> Env | None:
        current: Env | None = env
        for name, wanted in self.attrs:
            found = normal_attr(node, name)
            if isinstance(wanted, Hole):
                current = current.bind(wanted.name, found) if current is not None else None
            elif found != wanted:
                return None
        return current


@dataclass(frozen=True, slots=True)
class Either(Pattern):
    """The first of several drawings that fits; the others are tried when the rest of the match fails."""

    choices: tuple[Pattern, ...]

    @property
    def roots(self) -> frozenset[str]:
        return frozenset().union(*(c.roots for c in self.choices))

    def match(self, value: Value | None, env: Env, made_by: Producers) -> Iterator[Env]:
        for choice in self.choices:
            yield from choice.match(value, env, made_by)


def _match_all(
    patterns: Sequence[Pattern], values: Sequence[Value | None], env: Env, made_by: Producers
) -> Iterator[Env]:
    if not patterns:
        yield env
        return
    for found in patterns[0].match(values[0], env, made_by):
        yield from _match_all(patterns[1:], values[1:], found, made_by)


def normal_attr(node: Node, name: str) -> Any:
    """An attribute, with `axis` and `axes` counted from the end so that ranks do not matter."""
    found = node.attrs[name]
    if name not in ("axis", "axes") or node.inputs[0] is None:
        return found
    rank = node.inputs[0].type.rank
    if isinstance(found, int):
        return found if found < 0 else found - rank
    return tuple(sorted(a if a < 0 else a - rank for a in found))


def scalar(value: Value, made_by: Producers) -> float | None:
    """The number that every element of it is, where it comes from a `constant`."""
    node = made_by.get(value)
    while node is not None and node.op.name in TRANSPARENT and node.inputs[0] is not None:
        node = made_by.get(node.inputs[0])
    return node.attrs["value"] if node is not None and node.op.name == "constant" else None


class Drawing:
    """`p` of a drawing: every op by its name (`and_`, `or_`, `not_` with an underscore), and a few words more."""

    def __getattr__(self, op: str) -> Callable[..., Apply]:
        name = get(op.removesuffix("_")).name

        def draw(*inputs: Pattern, **attrs: Any) -> Apply:
            return Apply(name, inputs, tuple(attrs.items()))

        return draw

    def const(self, value: float | Hole) -> Const:
        """A scalar constant: a number, or a hole that is bound to the number."""
        return Const(value)

    def maybe(self, hole: Hole) -> Maybe:
        """An optional input, bound to None where it is absent."""
        return Maybe(hole)

    def either(self, *choices: Pattern) -> Either:
        """Any of several ways to write it."""
        return Either(choices)

    def maybe_cast(self, inner: Pattern) -> Either:
        """With or without a cast in between."""
        return Either((Apply("cast", (inner,), ()), inner))

    def output(self, index: int, of: Apply) -> Apply:
        """A result of an op that has several."""
        return Apply(of.op, of.inputs, of.attrs, index)


@dataclass(frozen=True, slots=True)
class Match:
    """A place where a rule fits: `m.x` is what the hole `x` matched, None where its branch was not taken."""

    root: Node
    nodes: tuple[Node, ...]
    bound: Mapping[str, Any]
    holes: tuple[str, ...]
    made_by: Producers = field(repr=False)

    def __getattr__(self, name: str) -> Any:
        if name in self.holes:
            return self.bound.get(name)
        raise AttributeError(f"the drawing has no hole {name!r}")

    def number(self, value: Value | None) -> float | None:
        """The number of a scalar constant."""
        return None if value is None else scalar(value, self.made_by)


When = Callable[[Match], Union[str, None]]
Build = Callable[[Builder, Match], Union[Value, Sequence[Value]]]


@dataclass(frozen=True, slots=True)
class Rule:
    """A drawing, a condition, and what stands in its place. A constant: nothing is ever kept on it.

    says: one line for `--explain`, of what it does where it fires.
    """

    name: str
    says: str
    pattern: Pattern
    holes: tuple[str, ...]
    build: Build
    when: When | None = None

    @property
    def roots(self) -> frozenset[str]:
        return self.pattern.roots

    def matches(self, root: Node, made_by: Producers) -> Iterator[Match]:
        """All ways in which the drawing fits on this node, before `when` is asked."""
        for index in _meant(self.pattern, root):
            for env in self.pattern.match(root.outputs[index], Env({}, ()), made_by):
                yield Match(root, env.nodes, env.bound, self.holes, made_by)


def _meant(pattern: Pattern, root: Node) -> tuple[int, ...]:
    index = pattern.output if isinstance(pattern, Apply) else 0
    return (index,) if index < len(root.outputs) else ()


def rule(drawing: Callable[..., Pattern], *, when: When | None = None) -> Callable[[Build], Rule]:
    """Makes a Rule of a drawing and the function below it, whose docstring says what it does."""
    names = tuple(inspect.signature(drawing).parameters)[1:]

    def make(build: Build) -> Rule:
        doc = inspect.getdoc(build)
        assert doc, f"rule {build.__name__} says nothing of what it does"
        pattern = drawing(Drawing(), *map(Hole, names))
        assert pattern.roots, f"rule {build.__name__} stands on no op"
        return Rule(build.__name__, doc.splitlines()[0], pattern, names, build, when)

    return make
