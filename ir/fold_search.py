"""Finding repeated layers in a flat graph, by what its nodes do and never by their names."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass

import numpy as np

from .graph import Graph, Node, Value, callee

MIN_NODES = 8  # of a body; less is a repeated phrase, not a layer
MIN_MATRICES = 2  # that a body reads; a rotary embedding of queries and of keys reads none
_TRIES = 64
# What stands between a value and the row statistic of its norm, where norms are spelt out.
_NORMS = frozenset({"layer_norm", "rms_norm"})
_TO_STATISTIC = frozenset({"cast", "pow", "mul", "sub", "reshape"})
_HOPS = 3


@dataclass(frozen=True, slots=True)
class Repeat:
    """`count` equal stretches of `period` nodes, the first at node `start`."""

    start: int
    period: int
    count: int

    @property
    def stop(self) -> int:
        return self.start + self.period * self.count

    @property
    def covered(self) -> int:
        return self.period * self.count


def repeats(graph: Graph, nodes: tuple[Node, ...]) -> list[Repeat]:
    """The repeats to fold, in order and apart from each other.

    nodes: those of the graph without its weight nodes. Greedy: the repeat that covers the most nodes first, of equals
    the one with the most instances; then what is left on both sides of it.
    """
    flat = _Flat(graph, nodes)
    found: list[Repeat] = []
    todo = [(0, len(nodes))]
    while todo:
        low, high = todo.pop()
        best = _best(flat, low, high)
        if best is not None:
            found.append(best)
            todo += [(low, best.start), (best.stop, high)]
    return sorted(found, key=lambda r: r.start)


class _Flat:
    """A graph as arrays.

    label [n]: equal for nodes of equal op, attributes, types and kinds of operands.
    first [n + 1]: where each node's operands begin in source, slot [operands]: the node that makes the operand (-1 for
      graph inputs and weights), and which of its outputs that is.
    made, last, statistic [values]: the node that makes a value, the last that uses it, and the last that takes a row
      statistic of it for a norm (-1 for none).
    """

    def __init__(self, graph: Graph, nodes: tuple[Node, ...]) -> None:
        self.nodes = nodes
        self.weights = {v for n in graph.nodes if n.op.name == "weight" for v in n.outputs}
        self.maker = {v: (i, k) for i, n in enumerate(nodes) for k, v in enumerate(n.outputs)}
        self.label = self._labels()
        pairs = [self.maker.get(v, (-1, 0)) for n in nodes for v in n.inputs if v is not None]
        self.source = np.array([i for i, _ in pairs], np.int64)
        self.slot = np.array([k for _, k in pairs], np.int64)
        sizes = [sum(v is not None for v in n.inputs) for n in nodes]
        self.first = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)
        self.owner = np.repeat(np.arange(len(nodes)), sizes)
        self.matrices = np.concatenate([[0], np.cumsum(self._matrices(graph))])
        self._uses()

    def _labels(self) -> np.ndarray:
        ids: dict[Hashable, int] = {}
        types: dict[int, int] = {}  # hashing a symbolic type is slow, and most types are one object

        def kind(value: Value | None) -> tuple[int, bool] | None:
            if value is None:
                return None
            key = id(value.type)
            if key not in types:
                types[key] = ids.setdefault(value.type, len(ids))
            return types[key], value in self.weights

        # A call is like nothing else: a body with calls in it would leave no single place for what they run.
        keys = (
            n if callee(n) else (n.op.name, n.attrs, tuple(map(kind, n.inputs)), tuple(map(kind, n.outputs)))
            for n in self.nodes
        )
        return np.array([ids.setdefault(key, len(ids)) for key in keys], np.int64)

    def _matrices(self, graph: Graph) -> list[int]:
        """Per node: how many matrices it reads that come from weights alone, when it does not itself."""
        ready = dict.fromkeys(self.weights, True)  # value -> whether weights are in it; inputs are not ready
        counts = []
        for node in self.nodes:
            given = [v for v in node.inputs if v is not None]
            if all(v in ready for v in given):
                ready.update(dict.fromkeys(node.outputs, any(ready[v] for v in given)))
                counts.append(0)
            else:
                counts.append(sum(ready.get(v, False) and v.type.rank >= 2 for v in given))
        return counts

    def _uses(self) -> None:
        values = list(self.maker)
        number = {v: i for i, v in enumerate(values)}
        self.made = np.array([self.maker[v][0] for v in values], np.int64)
        self.last = np.full(len(values), -1, np.int64)
        reach = np.full((_HOPS + 1, len(values)), -1, np.int64)
        for i in range(len(self.nodes) - 1, -1, -1):
            node = self.nodes[i]
            given = [number[v] for v in node.inputs if v in number]
            self.last[given] = np.maximum(self.last[given], i)
            if _is_statistic(node):
                reach[0, given] = np.maximum(reach[0, given], i)
            if node.op.name in _TO_STATISTIC:
                on = reach[:-1, number[node.outputs[0]]]
                for g in given:
                    reach[1:, g] = np.maximum(reach[1:, g], on)
        self.statistic = reach.max(axis=0, initial=-1)

    def isomorphic(self, start: int, period: int, count: int) -> np.ndarray:
        """[count - 1]: whether each stretch uses its own values as the next one does; values from outside are free."""
        low, high = self.first[start], self.first[start + period * count]
        owner, source = self.owner[low:high], self.source[low:high]
        own = source >= start + (owner - start) // period * period
        key = np.where(own, (owner - source) * 4096 + self.slot[low:high], -1).reshape(count, -1)
        return (key[1:] == key[:-1]).all(axis=1)

    def cut_cost(self, at: int, period: int) -> tuple[bool, int]:
        """How bad a cut before node `at` is: whether it parts a value from its norm, then how many values cross it."""
        recent = (self.made < at) & (self.made >= at - period)
        return bool((recent & (self.statistic >= at)).any()), int((recent & (self.last >= at)).sum())


def _is_statistic(node: Node) -> bool:
    if node.op.name in _NORMS:
        return True
    if node.op.name != "mean" or node.inputs[0] is None:
        return False
    return node.attrs["axes"] in ((-1,), (node.inputs[0].type.rank - 1,))


def _best(flat: _Flat, low: int, high: int) -> Repeat | None:
    """The repeat that covers the most nodes of [low, high)."""
    runs = sorted(_runs(flat.label[low:high]), key=lambda run: (-_most(run), run[1]))
    best: Repeat | None = None
    for run in runs[:_TRIES]:
        if best is not None and best.covered >= _most(run):
            break
        found = _cut(flat, low + run[0], run[1], run[2])
        if found is not None and (best is None or found.covered > best.covered):
            best = found
    return best


def _most(run: tuple[int, int, int]) -> int:
    return run[2] // run[1] * run[1]


def _runs(label: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """(start, period, length) of the stretches where every label equals the one a period later.

    Every period is tried, each with one comparison of the whole array: quadratic, and 20 ms for 10,000 nodes.
    """
    for period in range(MIN_NODES, len(label) // 2 + 1):
        equal = label[:-period] == label[period:]
        if np.count_nonzero(equal) < period:
            continue
        edges = np.flatnonzero(np.diff(equal.view(np.int8), prepend=0, append=0)).reshape(-1, 2)
        for start, stop in edges[edges[:, 1] - edges[:, 0] >= period].tolist():
            yield start, period, stop - start + period


def _cut(flat: _Flat, start: int, period: int, length: int) -> Repeat | None:
    """Where to cut a stretch of equal labels: the most instances, then the cheapest cut, then the last such.

    The last: a norm that may stand at either end stands at the end of the body, after the addition that it follows.
    """
    best: tuple[tuple[int, bool, int, int], Repeat] | None = None
    for turn in range(min(period, length - 2 * period + 1)):
        at, most = start + turn, (length - turn) // period
        if best is not None and most < best[1].count:
            continue
        begin, count = _longest(flat.isomorphic(at, period, most))
        found = Repeat(at + begin * period, period, count)
        if count < 2 or not _is_layer(flat, found):
            continue
        parted, carried = flat.cut_cost(found.start + period, period)
        key = (-count, parted, carried, -found.start)
        if best is None or key < best[0]:
            best = key, found
    return best and best[1]


def _longest(equal: np.ndarray) -> tuple[int, int]:
    """(first, how many) of the longest row of stretches each equal to the next."""
    best, begin = (0, 0), 0
    for i, ok in enumerate([*equal.tolist(), False]):
        if not ok:
            best = max(best, (i - begin + 1, -begin))
            begin = i + 1
    return -best[1], best[0]


def _is_layer(flat: _Flat, found: Repeat) -> bool:
    """Whether it reads matrices, and is not itself a short phrase several times over."""
    label = flat.label[found.start : found.stop]
    phrases = (p for p in range(1, MIN_NODES) if found.period % p == 0)
    if any((label[:-p] == label[p:]).all() for p in phrases):
        return False
    return bool(flat.matrices[found.start + found.period] - flat.matrices[found.start] >= MIN_MATRICES)
