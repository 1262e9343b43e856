"""Which nodes one kernel computes: element-wise ops that follow one another, and the product that they follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.dtypes import DType
from ...ir.graph import Graph, Node, Value, producers, users
from ...ir.tensor import TensorType
from .epilogue import COLUMN, FULL, SCALAR
from .family import Family
from .steps import FORMULAS

MOST_NODES, MOST_ARRAYS = 16, 8  # beyond, registers would not hold what is under way


@dataclass(frozen=True, eq=False)
class Group:
    """nodes: element-wise ones, in order; the last gives the only result. anchor: the product that they follow.

    arrays: what they read from memory; each is there once.
    """

    nodes: tuple[Node, ...]
    anchor: Node | None
    arrays: tuple[Value, ...]

    @property
    def all(self) -> tuple[Node, ...]:
        """Every node, the one that most work goes into first."""
        return (self.anchor, *self.nodes) if self.anchor is not None else self.nodes


def beside(type: TensorType, out: TensorType, kinds: frozenset[DType]) -> str | None:
    """How an array lies beside a product's result, None where no epilogue takes it."""
    if type.dtype not in kinds:
        return None
    if type.elements == 1:
        return SCALAR
    if type.shape == out.shape:
        return FULL
    return COLUMN if type.rank and type.elements == type.shape[-1] == out.shape[-1] else None


def groups(graph: Graph, family: Family) -> dict[Node, Group | None]:
    """The last node of each group -> the group; its others -> None. Nodes that stand alone are left out.

    A group runs in the place of its last node.
    """
    return _Grouping(graph, family).all()


class _Grouping:
    def __init__(self, graph: Graph, family: Family) -> None:
        self._family, self._kinds = family, family.kinds
        self._graph, self._made_by, self._used = graph, producers(graph), users(graph)
        self._outside = set(graph.outputs)
        self._place = {node: i for i, node in enumerate(graph.nodes)}
        self._writes = [i for i, node in enumerate(graph.nodes) if node.op.aliases]
        self._constants = {n.output for n in graph.nodes if n.op.name == "constant"}
        self._taken: set[Node] = set()

    def all(self) -> dict[Node, Group | None]:
        found: dict[Node, Group | None] = {}
        for node in reversed(self._graph.nodes):
            if node.op.name not in FORMULAS or node in self._taken:
                continue
            group = self._group(node)
            self._taken.update(group.all)
            if len(group.all) > 1:
                found |= dict.fromkeys(group.all)
                found[node] = group
        return found

    def _group(self, last: Node) -> Group:
        """The longest that ends in this node: producers join as long as they serve nobody else."""
        nodes, refused = [last], set[Node]()
        while len(nodes) < MOST_NODES:
            more = self._joins(nodes, last, refused)
            if more is None:
                break
            if len(self._arrays([*nodes, more])) > MOST_ARRAYS:
                refused.add(more)
                continue
            nodes.append(more)
        nodes.sort(key=self._place.__getitem__)
        anchor = self._anchor(nodes, last)
        arrays = [v for v in self._arrays(nodes) if anchor is None or v is not anchor.output]
        return Group(tuple(nodes), anchor, tuple(arrays))

    def _joins(self, nodes: Sequence[Node], last: Node, refused: set[Node]) -> Node | None:
        for value in self._arrays(nodes):
            node = self._made_by.get(value)
            fits = node is not None and node.op.name in FORMULAS and node not in refused and node not in self._taken
            if fits and node is not None and self._serves(node, nodes, last):
                return node
        return None

    def _serves(self, node: Node, nodes: Sequence[Node], last: Node) -> bool:
        """Whether a node's result, as large as the group's, goes nowhere else, and may be computed as late as that."""
        value = node.outputs[0]
        alone = value not in self._outside and all(user in nodes for user in self._used[value])
        alike = value.type.shape == last.output.type.shape and value.type.dtype in self._kinds
        return alone and alike and not any(self._place[node] < w < self._place[last] for w in self._writes)

    def _anchor(self, nodes: Sequence[Node], last: Node) -> Node | None:
        """The latest product that the group may follow."""
        if last.output.type.dtype not in self._family.stored:
            return None
        made = (self._made_by.get(v) for v in self._arrays(nodes))
        found = [n for n in made if n is not None and self._family.anchors(n) and self._serves(n, nodes, last)]
        others = [v for v in self._arrays(nodes) if beside(v.type, last.output.type, self._kinds) is None]
        return max(found, key=self._place.__getitem__) if found and not others else None

    def _arrays(self, nodes: Sequence[Node]) -> list[Value]:
        """What nodes read that none of them makes, but for constants."""
        inner = {n.output for n in nodes}
        read = (v for n in nodes for v in n.inputs if v is not None and v not in inner and v not in self._constants)
        return list(dict.fromkeys(read))
