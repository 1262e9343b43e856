"""The ways in which models write out a layer of experts, read from a graph: what `raise_moe` raises."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ...ir.graph import Graph, Node, Value, producers, users

_ALONE = {"silu": "silu", "gelu": "gelu", "relu": "relu"}  # op -> activation of an expert of one matrix
_GATED = {"silu": "swiglu", "gelu": "geglu", "relu": "reglu"}


@dataclass(frozen=True, slots=True)
class Expert:
    """down · act(gate x) (· up x): values of one expert. gate: [d, f], or both side by side where `up` is None."""

    x: Value
    gate: Value
    up: Value | None
    down: Value
    activation: str


@dataclass(frozen=True, slots=True)
class Term:
    """share · expert(x), one of the terms of a sum. share [..., 1]."""

    share: Value
    expert: Expert


class Reader:
    """What stands in a graph, read from the end."""

    def __init__(self, graph: Graph) -> None:
        self.made, self.used = producers(graph), users(graph)

    def node(self, value: Value | None, *names: str) -> Node | None:
        """The node that makes a value, if it is one of these."""
        found = None if value is None else self.made.get(value)
        return found if found is not None and found.op.name in names else None

    def product(self, value: Value | None) -> tuple[Value, Value] | None:
        """(x, matrix) of a product with one matrix and no bias."""
        node = self.node(value, "linear", "matmul")
        if node is None or node.inputs[1] is None or node.inputs[1].type.rank != 2 or any(node.inputs[2:]):
            return None
        return node.inputs[0], node.inputs[1]  # type: ignore[return-value]

    def activated(self, value: Value | None) -> tuple[str, Value] | None:
        """(activation's op, what goes in); x · sigmoid(x) is silu."""
        node = self.node(value, *_ALONE)
        if node is not None:
            tanh = node.attrs.get("approximate", "none") != "none"
            return None if tanh else (node.op.name, node.inputs[0])  # type: ignore[return-value]
        node = self.node(value, "mul")
        for a, b in _orders(node):
            inner = self.node(b, "sigmoid")
            if inner is not None and inner.inputs[0] is a:
                return "silu", a
        return None

    def expert(self, value: Value) -> Expert | None:
        """The expert whose output a value is."""
        last = self.product(value)
        if last is None:
            return None
        hidden, down = last
        alone = self.activated(hidden)
        first = self.product(alone[1]) if alone else None
        if alone and first:
            return Expert(first[0], first[1], None, down, _ALONE[alone[0]])
        for bent, up in _orders(self.node(hidden, "mul")):
            found = self.activated(bent)
            gate, value_of = (self.product(found[1]) if found else None), self.product(up)
            if found and gate and value_of and gate[0] is value_of[0] and gate[1].type == value_of[1].type:
                return Expert(gate[0], gate[1], value_of[1], down, _GATED[found[0]])
        return None

    def inner_sum(self, value: Value | None) -> Node | None:
        """The sum that a value is, where nothing but another sum needs it."""
        node = self.node(value, "add")
        alone = value is not None and len(self.used.get(value, ())) <= 1
        fits = node is not None and all(v is not None and value is not None and v.type == value.type
                                        for v in node.inputs)  # fmt: skip
        return node if alone and fits else None

    def terms(self, value: Value) -> tuple[list[Term], list[Value]]:
        """(shares of experts, all else) that a sum adds up, in order."""
        node = self.inner_sum(value)
        if node is not None:
            (left, more), (right, others) = (self.terms(v) for v in node.inputs if v is not None)
            return left + right, more + others
        for share, given in _orders(self.node(value, "mul")):
            expert = self.expert(given)
            if expert is not None and share.type.rank == value.type.rank and share.type.shape[-1] == 1:
                return [Term(share, expert)], []
        return [], [value]


def _orders(node: Node | None) -> Iterator[tuple[Value, Value]]:
    """Both inputs of a product of two, in both orders."""
    if node is not None:
        a, b = node.inputs
        assert a is not None and b is not None
        yield a, b
        yield b, a


# -- every expert in one batched product ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dense:
    """Σ over axis 0 of share · expert(x): x [1, tokens, d], share [experts, tokens, 1], stacks first and last."""

    x: Value
    first: Value
    last: Value
    share: Value
    activation: str


def dense_sum(reader: Reader, node: Node) -> Dense | None:
    """What a sum over experts adds up, where that is every expert on every token."""
    if node.attrs["axes"] not in ((0,), (-3,)) or node.attrs["keepdims"] or node.inputs[0] is None:
        return None
    for given, share in _orders(reader.node(node.inputs[0], "mul")):
        last = _batched(reader, given)
        if last is None or share.type.shape != (*given.type.shape[:2], 1):
            continue
        for bent, up in _orders(reader.node(last[0], "mul")):
            found, halves = reader.activated(bent), reader.node(up, "split")
            first = None if halves is None else _batched(reader, halves.inputs[0])
            if found and halves and first and halves.outputs == (found[1], up) and first[0].type.shape[0] == 1:
                return Dense(first[0], first[1], last[1], share, _GATED[found[0]])
        alone = reader.activated(last[0])
        first = None if alone is None else _batched(reader, alone[1])
        if alone and first and first[0].type.shape[0] == 1:
            return Dense(first[0], first[1], last[1], share, _ALONE[alone[0]])
    return None


def _batched(reader: Reader, value: Value | None) -> tuple[Value, Value] | None:
    """(x, stack) of matmul(x, stack), both of three axes."""
    node = reader.node(value, "matmul")
    if node is None or node.inputs[0] is None or node.inputs[1] is None:
        return None
    x, stack = node.inputs[0], node.inputs[1]
    return (x, stack) if x.type.rank == stack.type.rank == 3 and isinstance(stack.type.shape[0], int) else None


# -- matrices gathered for each token ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gathered:
    """matmul(act(matmul(x, first[ids])), last[ids]): x [rows, 1, d], ids [rows], of stacks first and last."""

    x: Value
    ids: Value
    first: Value
    last: Value
    activation: str


def gathered_products(reader: Reader, value: Value) -> Gathered | None:
    last = _taken(reader, value)
    if last is None:
        return None
    hidden, down, ids = last
    for bent, up in _orders(reader.node(hidden, "mul")):
        found, halves = reader.activated(bent), reader.node(up, "split")
        if found is None or halves is None or halves.outputs != (found[1], up):
            continue
        first = _taken(reader, halves.inputs[0])
        if first is not None and _same(reader, first[2], ids):
            return Gathered(first[0], ids, first[1], down, _GATED[found[0]])
    return None


def _taken(reader: Reader, value: Value | None) -> tuple[Value, Value, Value] | None:
    """(x, stack, ids) of matmul(x, gather(stack, ids)), x of one row for each."""
    product = reader.node(value, "matmul")
    taken = None if product is None else reader.node(product.inputs[1], "gather")
    if product is None or taken is None or taken.attrs["axis"] % 3:
        return None
    x, (stack, ids) = product.inputs[0], taken.inputs
    if x is None or stack is None or ids is None or x.type.rank != 3 or x.type.shape[1] != 1:
        return None
    return (x, stack, ids) if stack.type.rank == 3 and ids.type.rank == 1 else None


def _same(reader: Reader, one: Value | None, two: Value | None, deep: int = 8) -> bool:
    """Whether two values are the same computation of the same values."""
    if one is two or one is None or two is None:
        return one is two
    a, b = reader.made.get(one), reader.made.get(two)
    if a is None or b is None or not deep or (a.op.name, a.attrs) != (b.op.name, b.attrs):
        return False
    return a.outputs.index(one) == b.outputs.index(two) and all(
        _same(reader, x, y, deep - 1) for x, y in zip(a.inputs, b.inputs, strict=True)
    )
