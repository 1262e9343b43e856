"""Layers of experts that a model writes out, to the one op that runs only the experts that were chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...ir import dims
from ...ir.diagnostics import TundishError, first_line
from ...ir.evaluate import evaluate
from ...ir.graph import Graph, Node, Program, Value
from ..rewriting import Event, Rewritten, RuleBuilder, drop_dead, rewrite_graphs
from ..task import Task
from .registry import rewrite
from .written_experts import Dense, Gathered, Reader, Term, dense_sum, gathered_products

# -- a loop over all experts ---------------------------------------------------------------------------


def _same_experts(terms: list[Term]) -> str | None:
    """Why the terms are no layer of experts."""
    first = terms[0].expert
    for expert in (t.expert for t in terms):
        if expert.x is not first.x or expert.activation != first.activation:
            return "the experts do not read the same tokens alike"
        if (expert.gate.type, expert.down.type) != (first.gate.type, first.down.type):
            return "the experts are of different sizes"
    return None


def _router(reader: Reader, shares: list[Value]) -> tuple[Node | None, list[Node], str]:
    """(the topk that all shares come from, the nodes between in no order, why there is none).

    Where some come from the best of the best, as this pass writes them itself, it is the first of them.
    """
    best, between = _back_to(reader, shares, None)
    if len(best) > 1:
        order = {node: i for i, node in enumerate(dict.fromkeys(reader.made.values()))}
        best, between = _back_to(reader, shares, min(best, key=lambda n: order[n]))
    if between is None:
        return None, [], "a share hangs on more than what the router chose"
    if len(best) != 1:
        return None, [], f"the shares come from {len(best)} choices of the best, not from one"
    return best[0], between, ""


def _back_to(reader: Reader, shares: list[Value], only: Node | None) -> tuple[list[Node], list[Node] | None]:
    """(the topk, or `only` that one, at which the way back from the shares ends; the nodes on it, None if endless)."""
    best, between, todo = dict[Node, None](), dict[Node, None](), list(shares)
    while todo:
        node = reader.made.get(todo.pop())
        if node is None or len(between) > 40 * _count(shares):
            return list(best), None
        if node.op.name == "topk" and only in (None, node):
            best[node] = None
        elif node not in between:
            between[node] = None
            todo += [v for v in node.inputs if v is not None]
    return list(best), list(between)


def _only_chosen(program: Program, graph: Graph, topk: Node, between: list[Node], shares: list[Value]) -> str | None:
    """Why a token's shares are of more experts than it chose: the part between is run on drawn and hostile choices.

    shares: [..., 1] of one expert each, or one [experts, ..., 1].
    """
    inside = set(between)
    free = tuple(v for v in graph.inputs if v not in topk.outputs)  # they say how large the sizes are
    part = Graph((*free, *topk.outputs), tuple(n for n in graph.nodes if n in inside), tuple(shares))
    small = program.replace(functions={"shares": part}, entries=("shares",))
    sizes = {n: r.low if r.low > 1 or r.high == 1 else 2 + i for i, (n, r) in enumerate(program.symbols.items())}
    try:
        zeros = {v.name: np.zeros([dims.evaluate(d, sizes) for d in v.type.shape], v.type.dtype.numpy) for v in free}
        shape = [dims.evaluate(d, sizes) for d in topk.outputs[0].type.shape]
        for given in _choices(topk, shape, _count(shares)):
            found = list(evaluate(small, {**zeros, **given}).values())
            rows = np.concatenate(found, axis=-1) if len(found) > 1 else np.moveaxis(found[0], 0, -1)
            if ((rows.reshape(-1, _count(shares)) != 0).sum(1) > shape[-1]).any():
                return "more experts have a share than were chosen"
    except (TundishError, KeyError, ValueError) as error:
        return f"what stands between the choice and the shares cannot be run alone: {first_line(error)}"
    return None


def _count(shares: list[Value]) -> int:
    """The experts that shares are of."""
    first = shares[0].type.shape[0]
    return len(shares) if len(shares) > 1 else first if isinstance(first, int) else 0


def _choices(topk: Node, shape: list[int], experts: int) -> Iterator[dict[str, np.ndarray]]:
    """What a router may choose: drawn, always the first, always the last; by weights of one sign and of both."""
    draw, k = np.random.default_rng(0), shape[-1]
    drawn = np.stack([draw.permutation(experts)[:k] for _ in range(int(np.prod(shape[:-1])))]).reshape(shape)
    for chosen in (drawn, np.broadcast_to(np.arange(k), shape), np.broadcast_to(experts - 1 - np.arange(k), shape)):
        for weights in (draw.random(shape) + 0.1, draw.normal(size=shape)):
            values, indices = topk.outputs
            yield {values.name: weights.astype(values.type.dtype.numpy), indices.name: np.ascontiguousarray(chosen)}


def _chosen(b: RuleBuilder, shares: Value, k: int) -> tuple[Value, Value]:
    """(indices, weights): of shares [..., experts] the k that are not 0, or some that are where there are fewer."""
    _, indices = b.emit_node("topk", [b.emit("abs", shares)], {"k": k}).outputs
    return indices, b.emit("gather_elements", shares, indices, axis=-1)


def _loop(b: RuleBuilder, terms: list[Term], k: int) -> Value:
    """The op, the shares that are not 0 handed to it as its weights."""
    indices, weights = _chosen(b, b.emit("concat", *(t.share for t in terms), axis=-1), k)
    firsts = [t.expert.gate if t.expert.up is None else b.emit("concat", t.expert.gate, t.expert.up, axis=1)
              for t in terms]  # fmt: skip
    stacks = [_stacked(b, matrices) for matrices in (firsts, [t.expert.down for t in terms])]
    first = terms[0].expert
    return b.emit("moe", first.x, indices, weights, *stacks, activation=first.activation)


def _stacked(b: RuleBuilder, matrices: list[Value]) -> Value:
    rows = [b.emit("reshape", m, shape=(1, *b.present(m).type.shape)) for m in matrices]
    return b.emit("concat", *rows, axis=0)


# -- what stands for the other forms -------------------------------------------------------------------


def _sparse(b: RuleBuilder, found: Dense, k: int) -> Value:
    experts, tokens, _ = b.present(found.share).type.shape
    shares = b.emit("transpose", b.emit("reshape", found.share, shape=(experts, tokens)), perm=(1, 0))
    indices, weights = _chosen(b, shares, k)
    x = b.emit("reshape", found.x, shape=(tokens, b.present(found.x).type.shape[2]))
    return b.emit("moe", x, indices, weights, found.first, found.last, activation=found.activation)


def _per_row(b: RuleBuilder, found: Gathered) -> Value:
    """Each row is a token with one expert."""
    rows, _, width = b.present(found.x).type.shape
    ones = b.emit("expand", b.constant(1.0, found.x.type.dtype), shape=(rows, 1))
    x, ids = b.emit("reshape", found.x, shape=(rows, width)), b.emit("reshape", found.ids, shape=(rows, 1))
    given = b.emit("moe", x, ids, ones, found.first, found.last, activation=found.activation)
    return b.emit("reshape", given, shape=(rows, 1, width))


# -- the pass ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Plan:
    """What stands for a node's output: the terms and the k of a loop and what else is added, or a gathered form."""

    terms: tuple[Term, ...] = ()
    rest: tuple[Value, ...] = ()
    k: int = 0
    gathered: Gathered | None = None
    dense: Dense | None = None

    def build(self, b: RuleBuilder) -> Value:
        if self.dense is not None:
            return _sparse(b, self.dense, self.k)
        if self.gathered is not None:
            return _per_row(b, self.gathered)
        made = _loop(b, list(self.terms), self.k)
        for value in self.rest:
            made = b.emit("add", made, value)
        return made


def raised(program: Program) -> Rewritten:
    """Σ share · expert(x) over all experts, and products with gathered matrices, as `moe`."""
    return rewrite_graphs(program, "raise_moe", lambda graph: _changed(program, graph))


@rewrite("raise_moe")
def raise_moe(program: Program, task: Task) -> Rewritten:
    """The same, of programs that were captured before."""
    return raised(program)


def _changed(program: Program, graph: Graph) -> tuple[Graph, list[Event]]:
    plans, events = _plans(program, graph)
    if not plans:
        return graph, events
    b = RuleBuilder(graph)
    for node in graph.nodes:
        if node not in plans:
            b.copy(node)
            continue
        with b.at(node.where):
            b.replace(node, [plans[node].build(b)])
    return drop_dead(b.done()), events


def _plans(program: Program, graph: Graph) -> tuple[Mapping[Node, _Plan], list[Event]]:
    if not any(n.op.name == "topk" for n in graph.nodes):
        return {}, []
    reader, plans, events = Reader(graph), dict[Node, _Plan](), list[Event]()
    inside: set[Value] = set()
    for node in reversed(graph.nodes):
        if node.op.name == "matmul" and (found := gathered_products(reader, node.output)) is not None:
            plans[node] = _Plan(gathered=found)
            events.append(Event("products with gathered matrices run as experts, one for each row", node.where))
        if node.op.name == "sum" and (dense := dense_sum(reader, node)) is not None:
            k, why = _k_of(program, graph, reader, [dense.share])
            events.append(Event(why or f"every expert on every token runs as those that each token chose, {k}",
                                node.where))  # fmt: skip
            if k:
                plans[node] = _Plan(k=k, dense=dense)
        if node.op.name != "add" or node.output in inside:
            continue
        terms, rest = reader.terms(node.output)
        if len(terms) < 2:
            continue
        inside.update(_sums(reader, node.output))
        plan, text = _looped(program, graph, reader, terms, rest)
        events.append(Event(text, node.where))
        if plan is not None:
            plans[node] = plan
    return plans, events


def _looped(
    program: Program, graph: Graph, reader: Reader, terms: list[Term], rest: list[Value]
) -> tuple[_Plan | None, str]:
    why = _same_experts(terms)
    k, none = (0, f"a sum over experts declined: {why}") if why else _k_of(program, graph, reader,
                                                                          [t.share for t in terms])  # fmt: skip
    if not k:
        return None, none
    left = tuple(v for v in rest if not _is_zero(reader, v))
    return _Plan(tuple(terms), left, k), f"a loop over {len(terms)} experts runs those that each token chose, {k}"


def _k_of(program: Program, graph: Graph, reader: Reader, shares: list[Value]) -> tuple[int, str]:
    """(how many experts a token chooses, "") where shares are 0 for all others; else (0, why not)."""
    topk, between, why = _router(reader, shares)
    if topk is not None:
        last = topk.outputs[0].type.rank - 1
        along = topk.attrs["axis"] % (last + 1) == last
        none = None if along else "the choice is not along the last axis"
        none = none or _only_chosen(program, graph, topk, between, shares)
        if none is None:
            return int(topk.attrs["k"]), ""
        why = none
    return 0, f"a sum over experts declined: {why}"


def _sums(reader: Reader, value: Value | None) -> Iterator[Value]:
    """The sums that a sum is made of."""
    node = reader.inner_sum(value)
    if node is not None and value is not None:
        yield value
        for inner in node.inputs:
            yield from _sums(reader, inner)


def _is_zero(reader: Reader, value: Value | None) -> bool:
    node: Any = None if value is None else reader.made.get(value)
    while node is not None and node.op.name in ("expand", "reshape", "cast"):
        node = reader.made.get(node.inputs[0])
    return node is not None and node.op.name == "constant" and node.attrs["value"] == 0.0
